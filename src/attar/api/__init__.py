"""attar from Python: the same commands as the command line, with typed results."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attar.api.distilling import Distillation, ListedExpert, advance, distill, experts, plan, resume
    from attar.api.judging import compare, continual, evaluate
    from attar.api.opening import list_datasets, list_methods, list_models, list_recipes, list_strategies, open
    from attar.api.sharing import export, import_, is_distilled, load, push, verify, write_report
    from attar.api.studying import bench, plan_study, study
    from attar.api.submitting import Submitted, submit
    from attar.api.training import Training, train
    from attar.runtime.events import Event

_FROM = {
    "attar.api.distilling": ("Distillation", "ListedExpert", "advance", "distill", "experts", "plan", "resume"),
    "attar.api.judging": ("compare", "continual", "evaluate"),
    "attar.api.opening": ("list_datasets", "list_methods", "list_models", "list_recipes", "list_strategies", "open"),
    "attar.api.sharing": ("export", "import_", "is_distilled", "load", "push", "verify", "write_report"),
    "attar.api.studying": ("bench", "plan_study", "study"),
    "attar.api.submitting": ("Submitted", "submit"),
    "attar.api.training": ("Training", "train"),
    "attar.runtime.events": ("Event",),
}

__all__ = [
    "Distillation",
    "Event",
    "ListedExpert",
    "Submitted",
    "Training",
    "advance",
    "bench",
    "compare",
    "continual",
    "distill",
    "evaluate",
    "experts",
    "export",
    "import_",
    "is_distilled",
    "list_datasets",
    "list_methods",
    "list_models",
    "list_recipes",
    "list_strategies",
    "load",
    "open",
    "plan",
    "plan_study",
    "push",
    "resume",
    "study",
    "submit",
    "train",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # so that what needs no torch, such as `verify`, does not wait for it
    for module, names in _FROM.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'attar.api' has no attribute {name!r}")
