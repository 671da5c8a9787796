"""The contract of a method: what it needs to know, and three verbs.

The library owns the loop (`recover.py`: optimiser, schedule, resume, events), the method owns the step.
A method is one file: a frozen config, its objective on one screen, no files, no printing, no data loading.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from attar.config import Config
from attar.models.flat import FlatModel
from attar.task import Task

KnowledgeKind = Literal["none", "teacher", "trajectories"]


class RealImages(Protocol):
    """The real training images as a method may see them."""

    labels: Tensor
    """Class of each image: int64 (n,)."""

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w), float32, of these indices (b,)."""


class Teacher(Protocol):
    """Knowledge of the kind `teacher`: a frozen network trained on the real set."""

    def features(self, images: Tensor) -> Tensor:
        """Input (b, d) of the network's last linear layer for normalised images (b, c, h, w)."""

    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, classes) for normalised images (b, c, h, w)."""


@dataclass(frozen=True)
class Segment:
    """A stretch of one expert's training: its parameters (p,) at the start and at the end."""

    start: Tensor
    target: Tensor
    label: str
    """Names expert and epochs, for events and errors."""


class Trajectories(Protocol):
    """Knowledge of the kind `trajectories`: parameters of experts after every epoch of their training."""

    flat: FlatModel
    """The experts' network as a function of a parameter vector."""
    learning_rate: float
    """The step size of plain SGD that comes nearest to how the experts were trained."""
    num_experts: int
    num_epochs: int

    def segment(self, expert: int, first: int, last: int) -> Segment:
        """Parameters of an expert after epoch `first` and after epoch `last` (0 is the start)."""

    def soft_labels(self, images: Tensor) -> Tensor:
        """Mean of the finished experts' probabilities (b, classes) for normalised images (b, c, h, w)."""


@dataclass
class Synthetic:
    """The state that `recover` optimises.

    `labels` (n,) int64 are the classes of the images and stay; `variables` are optimised: `images`
    (n, c, h, w) normalised, and what else the method needs, such as a step size.
    """

    labels: Tensor
    variables: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Distillate:
    """What a method hands over at the end, all on the CPU.

    `images` (n, c, h, w) normalised float32; `labels` (n,) int64; `soft_labels` (n, classes) probabilities or
    None; `learning_rate` learnt for training on them or None; `exact_8bit` says whether the images are
    real pixels, so that 8 bits hold them without loss.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None = None
    learning_rate: float | None = None
    exact_8bit: bool = False


class Method(ABC):
    """One way to distil. Subclasses are final: a class is abstract or complete."""

    name: ClassVar[str]
    """As typed after `--method`."""
    summary: ClassVar[str]
    """One line for `attar list`."""
    source: ClassVar[str]
    """Paper, equation or algorithm."""
    Settings: ClassVar[type[Config]]
    """The typed settings, each field with its docstring."""
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Defaults of other sections (`recover`, `evaluate`, ...) that suit this method."""
    knowledge: ClassVar[KnowledgeKind]
    """What `squeeze` must have made."""
    separable: ClassVar[bool]
    """May chunks of images be optimised without hearing of each other?"""

    def __init__(self, settings: Config, task: Task, ipc: int) -> None:
        self.settings, self.task, self.ipc = settings, task, ipc

    @classmethod
    def needs(cls, settings: Config) -> KnowledgeKind:
        """The kind of knowledge that these settings need."""
        return cls.knowledge

    @classmethod
    def problems(cls, sections: Mapping[str, Config]) -> list[str]:
        """What does not go together among all sections of a run, a sentence each."""
        return []

    @classmethod
    def starts_from_real(cls, settings: Config) -> bool:
        """Whether `init` takes ipc real images of each class."""
        return True

    @abstractmethod
    def init(self, real: RealImages, knowledge: Any, rng: torch.Generator) -> Synthetic:
        """Make the first images and labels."""

    @abstractmethod
    def gradient(
        self, synthetic: Synthetic, picked: Tensor, knowledge: Any, rng: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Gradients of the objective by variable, and metrics (each a finite number, `loss` among them).

        Args:
            synthetic: the state; not changed here.
            picked: indices (b,) of the images this step is about: a chunk, or all of them.
            knowledge: what `knowledge` names.
            rng: derived from (seed, step); the only source of randomness.
        """

    def learning_rates(self) -> dict[str, float]:
        """Learning rate of each variable; 0 keeps a variable as it is."""
        return {}

    def project(self, synthetic: Synthetic) -> None:  # noqa: B027 (most have nothing to project)
        """Bring the variables back, in place, into the range that is valid; called after each step."""

    def finish(self, synthetic: Synthetic, knowledge: Any) -> Distillate:
        """Turn the last state into what is stored."""
        return Distillate(synthetic.variables["images"].detach().cpu(), synthetic.labels.cpu())


def random_members(real_labels: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    """Draw, for each of `labels` (n,), the index of a real image of that class, none twice: int64 (n,)."""
    chosen = torch.empty_like(labels)
    for label in labels.unique().tolist():
        members = (real_labels == label).nonzero().squeeze(1)
        places = labels == label
        chosen[places] = members[torch.randperm(len(members), generator=rng)[: int(places.sum())]]
    return chosen


def balanced_labels(num_classes: int, ipc: int) -> Tensor:
    """Labels (num_classes * ipc,) int64, round by round through the classes: 0, 1, ..., 0, 1, ..."""
    return torch.arange(num_classes).repeat(ipc)
