"""The contract of a kind of knowledge: its settings, how it is made, opened and rehearsed, and who labels by it.

A kind is one object in a file of its own, found by the name that methods need it by (`KINDS`). Whoever runs the
stages asks the object and knows no kind by name.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from attar.config import Config, dump
from attar.data.sources import Source
from attar.marks import Mark, is_marked
from attar.registry import Registry, classes_in, require_class
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.squeeze.rehearsal import Estimate, Rehearsal
from attar.task import Task
from attar.training.soft import Teacher

SettingsT = TypeVar("SettingsT", bound=Config)
OpenedT = TypeVar("OpenedT")
Members = Literal["all", "strongest"] | Sequence[int]
"""Which networks label: all, the one of highest validation accuracy, or some by number."""


class Knowledge(ABC, Generic[SettingsT, OpenedT]):
    """One kind of knowledge; `SettingsT` are the fields of the section `squeeze`, `OpenedT` is what methods are given.

    Subclasses are final and hold no state: what was made lies in the stage's folder.
    """

    name: ClassVar[str]
    """By which methods name it."""
    Settings: type[SettingsT]
    """The section `squeeze`, each field with its docstring."""
    memory_advice: ClassVar[str] = "lower squeeze.batch_size, take a narrower squeeze.model, or lower --resolution"
    """What to do where memory does not suffice to make it."""
    turn: ClassVar[int] = 0
    """When it is asked what settings are `meant_by`: kinds of a lower number first."""
    gives_labels: ClassVar[bool] = True
    """Does `labeller` find somebody to label images?"""

    @abstractmethod
    def make(
        self, source: Source, settings: SettingsT, *, seed: int, folder: Path, engine: Engine, events: Events
    ) -> list[str]:
        """Make what is missing in `folder`; returns the names of all files there that are the knowledge.

        Each file is a function of the seed and its name. Several processes share the work (`engine.share`), and end at
        one barrier.
        """

    @abstractmethod
    def open(self, settings: SettingsT, task: Task, folder: Path, engine: Engine) -> OpenedT:
        """Open what `make` left in `folder`.

        Raises ArtifactError where it is missing, or was made for other classes, images or settings.
        """

    @abstractmethod
    def stand_in(self, settings: SettingsT, labels: Tensor, num_classes: int) -> tuple[SettingsT, Tensor]:
        """Settings and a few real images (their indices, int64) that something like it is made of in no time.

        A rehearsal makes and opens that: it must answer as fast as the knowledge, not as well. `labels` (n,) are the
        classes of the real training images. Raises ArtifactError where files that the settings name are not there.
        """

    @abstractmethod
    def rehearse(self, settings: SettingsT, rehearsal: Rehearsal) -> list[Estimate]:
        """What `make` will cost; the stand-in has been made in `rehearsal.folder`."""

    @abstractmethod
    def labeller(self, opened: OpenedT, members: Members) -> Teacher | None:
        """Who labels images: all of the knowledge, or some of its networks; None where nobody can.

        Raises ConfigError where there is no network of a number that is asked for.
        """

    def num_labellers(self, settings: SettingsT) -> int:
        """How many networks can label each by itself, and go with a dataset whose labels are made in training."""
        return 0

    def networks(self, settings: SettingsT) -> tuple[str, ...]:
        """Names of the networks that will be squeezed, the first the one of `squeeze.model`."""
        return ()

    def guides(self, settings: SettingsT) -> tuple[str, ...]:
        """Those of `networks` that images are recovered under, which the method may refuse; all by default."""
        return self.networks(settings)

    def require_network(self, network: nn.Module) -> None:
        """Raise ConfigError where this network cannot be squeezed into such knowledge."""

    def needs_images(self, settings: SettingsT) -> str | None:
        """Why `make` needs real images by these settings, a sentence; None where it needs none."""
        return f"squeeze makes its {self.name} from real images"

    def meant_by(self, given: Mapping[str, Any]) -> str | None:
        """Why these values of `squeeze` can only be meant for this kind; None where they may be for others."""
        return None


def decisive(settings: Config) -> dict[str, Any]:
    """What of the settings decides the knowledge, plain; the rest says how it is made."""
    fields = type(settings).model_fields
    return {name: value for name, value in dump(settings).items() if not is_marked(fields[name], Mark.HOW)}


Kind = Knowledge[Any, Any]


def _accepted(thing: Any, name: str) -> Kind:
    kind = thing if inspect.isclass(thing) else type(thing)
    made: Kind = require_class(kind, Knowledge, "kind of knowledge", ("name", "Settings"))()
    return made


KINDS: Registry[Kind] = Registry(
    "attar.knowledge",
    "kind of knowledge",
    lambda: [kind() for kind in classes_in("attar.squeeze", Knowledge)],
    _accepted,
)
"""Every kind by the name that methods need it by."""


def kinds() -> dict[str, Kind]:
    """Every kind of knowledge by its name, those first that are asked first what settings are meant for."""
    return dict(sorted(KINDS.all().items(), key=lambda item: (item[1].turn, item[0])))


def knowledge(name: str) -> Kind:
    """The kind of this name, or ConfigError with the nearest names."""
    return KINDS.find(name)
