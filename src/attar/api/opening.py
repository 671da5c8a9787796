"""Open real images; list what goes by a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar import catalogue
from attar.api.arguments import sections, takes
from attar.api.options import OpenOptions
from attar.errors import ConfigError
from attar.options import given

if TYPE_CHECKING:
    from attar.data.sources import Source


@takes(OpenOptions)
def open(asked: OpenOptions) -> Source:
    """Open real images: their splits, classes and size. Any function that takes a source takes what is returned.

    Training and validation images are read at once, those of the test split when `.test` is first asked for.

    Raises ConfigError for a name that is not known; DataError for anything wrong with the images.
    """
    from attar.data.named import NAMED
    from attar.data.named.memory import in_memory
    from attar.data.sources import SourceSettings, open_source
    from attar.runtime.events import Events

    told = {"name", "class_names", "layout"} & asked.model_fields_set
    if isinstance(asked.data, str | Path):
        if told:
            raise ConfigError(
                f"{', '.join(sorted(told))} given with {str(asked.data)!r}",
                expected="images in memory: what lies elsewhere has names and axes of its own",
            )
        name = str(asked.data)
    else:
        more: dict[str, Any] = {key: getattr(asked, key) for key in told}
        name = NAMED.add(in_memory(asked.data, **more) if told else asked.data)
    how = sections({"source": SourceSettings}, asked.assigned, given(asked))["source"]
    assert isinstance(how, SourceSettings)
    return open_source(name, how, seed=asked.seed, events=Events(quiet=asked.quiet))


def list_methods() -> tuple[str, ...]:
    """Names of the methods, for `distill`; `attar show NAME` lists the settings of one."""
    return _names("methods", "")


def list_models(pattern: str = "") -> tuple[str, ...]:
    """Names of networks: examples of attar's own, torchvision's, timm's, and those that other packages bring.

    Only those that hold the text `pattern`, or fit it where it has wildcards, such as `resnet*-small`.
    """
    return _names("models", pattern)


def list_recipes() -> tuple[str, ...]:
    """Names of the bundled recipes, for `distill(recipe=...)`."""
    return _names("recipes", "")


def list_datasets() -> tuple[str, ...]:
    """Names of the datasets that go by one."""
    return _names("datasets", "")


def list_strategies() -> tuple[str, ...]:
    """Names of the training strategies, for `train` and studies."""
    return _names("strategies", "")


def _names(kind: catalogue.Kind, pattern: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name, _ in catalogue.names(kind, pattern)))
