"""Runs from class names alone: what they may need, and how far they go."""

from __future__ import annotations

from attar.data.sources import Source
from attar.errors import ConfigError, DataError
from attar.methods import methods
from attar.options import Until
from attar.run.settings import Settings


def last_stage(source: Source, until: Until) -> Until:
    """The stage that a run goes to: not to `evaluate` where there are no images to judge by."""
    return until if source.has_images or until != "evaluate" else "relabel"


def how_to_judge(source: Source, run: str = "RUN") -> str:
    """What to do where a source has no images to judge by."""
    return f"{source.name} has no images to judge by; `attar evaluate {run} --source FOLDER` judges by real ones"


def require_judges_if(source: Source, asked: bool) -> None:
    """Raise DataError where a judgement was asked for by name, and there are no images for it."""
    if asked and not source.has_images:
        raise DataError(how_to_judge(source), expected="until='relabel', or none", fix="leave `until` out")


def require_no_need(settings: Settings, source: Source) -> None:
    """Raise ConfigError where the method, or what it squeezes, needs more than class names."""
    able = [name for name, kind in methods().items() if kind.works_without_images(kind.Settings())]
    expected = f"{' or '.join(able)}, with --weights of a network that others trained; or real images"
    found = f"{source.name} names classes and has no images, and "
    if not settings.method.works_without_images(settings.sections["method"]):
        name = settings.run.method
        if name in able:
            raise ConfigError(f"{found}{name} begins with some by these settings", fix="--set method.start=noise")
        raise ConfigError(f"{found}{name} needs some", expected=expected)
    if why := settings.knowledge.needs_images(settings.sections["squeeze"]):
        raise ConfigError(f"{found}{why}", expected=expected)
