"""The contract of a method: a `Selector` makes images at once, an `Optimised` one improves them step by step.

The library owns the loop (`recover.py`: optimiser, schedule, resume, events), the method owns the step.
A method is one file: a frozen config, its objective on one screen, no files, no printing, no data loading.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from attar.config import Config, dump
from attar.losses.class_statistics import LayerStatistics
from attar.models.flat import FlatModel
from attar.task import Normalization, Task

KnowledgeKind = str
"""A kind of knowledge by its name (`attar.squeeze.knowledge`); what it gives methods is one of the protocols below."""
Generators = Callable[..., torch.Generator]
"""`rngs(*keys)` gives the generator of these keys, the same for the same seed whatever was drawn before."""
Metrics = Mapping[str, float | Tensor]
"""Named numbers: floats, or scalars that stay on the device until somebody reads them."""
SettingsT = TypeVar("SettingsT", bound=Config)
"""A method's own settings."""
KnowledgeT = TypeVar("KnowledgeT")
"""What a method is told about the real images: `None`, a `Teacher`, a `Pool` or `Trajectories`."""


class RealImages(Protocol):
    """The real training images as a method may see them."""

    labels: Tensor
    """Class of each image: int64 (n,)."""

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w), float32, on the CPU, of these indices (b,)."""


class Labeller(Protocol):
    """Who labels images."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits (b, classes), float32, for normalised images (b, c, h, w); several networks speak as one."""

    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, classes) for normalised images (b, c, h, w): softmax of the logits."""


class Teacher(Labeller, Protocol):
    """Knowledge of the kind `teacher`: one frozen network trained on the real set, or several.

    It labels by the mean of all networks' logits.
    """

    model: nn.Module
    """The first network, in evaluation mode: logits (b, classes) for normalised images (b, c, h, w)."""
    models: tuple[nn.Module, ...]
    """All networks, the first one first, each as `model` is."""

    def all_classes(self) -> nn.Module:
        """The first network with every class that it knows, those of the task first: logits (b, classes + others).

        It is `model` itself where it knows no others.
        """

    def features(self, images: Tensor) -> Tensor:
        """Input (b, d) of the first network's last linear layer for normalised images (b, c, h, w)."""


@dataclass(frozen=True)
class Member:
    """A network of a pool, in evaluation mode and frozen, with the real set's statistics under it."""

    model: nn.Module
    """Logits (b, classes) for normalised images (b, c, h, w)."""
    statistics: tuple[LayerStatistics, ...]
    """Of the input of each BatchNorm, in the order of `attar.models.norms.batch_norms`, on the model's device."""


class Pool(Teacher, Protocol):
    """Knowledge of the kind `pool`: several networks, the weakest first. As a teacher it is all of them together."""

    num_members: int
    num_in_memory: int
    """How many of them may be kept open at once, at least 1."""

    def member(self, k: int, classes: bool = False) -> Member:
        """Open member `k` anew, with class-wise statistics where they are asked for."""


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

    def labeller(self, epochs: Sequence[int]) -> Labeller:
        """All experts as they were after each of these epochs: who labels by the mean of their probabilities."""


@dataclass
class Synthetic:
    """The state that `recover` optimises.

    `labels` (n,) int64 are the classes of the images and stay; `variables` are optimised: `images`
    (n, c, h, w) normalised, or what a method decodes them from, and what else it needs, such as a step size.
    `fixed` is what `init` leaves beside them for later steps, such as real images: it is not optimised, and `init`
    makes it again where a run goes on. `taken` counts the steps that the loop has taken.
    """

    labels: Tensor
    variables: dict[str, Tensor] = field(default_factory=dict)
    fixed: dict[str, Tensor] = field(default_factory=dict)
    taken: int = 0


class Images(Protocol):
    """Images (n, c, h, w) on the CPU, read by index; a tensor is such, and so are files too large for memory."""

    @property
    def shape(self) -> torch.Size:
        """(n, c, h, w)."""

    @property
    def dtype(self) -> torch.dtype:
        """float32 where they are normalised, uint8 where they are pixels."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, indices: Any, /) -> Tensor:
        """Images (b, c, h, w) of a slice or of indices int64 (b,)."""


@dataclass(frozen=True)
class Distillate:
    """What a method hands over at the end, all on the CPU.

    `images` (n, c, h, w) normalised float32, a tensor or read by index; `labels` (n,) int64; `soft_labels` (n, classes)
    probabilities or None; `learning_rate` learnt for training on them or None; `exact_8bit` says whether the images
    are real pixels, so that 8 bits hold them without loss; `tiles` how many others, along a side, an image holds: a
    network is to be trained on one at a time, enlarged.
    """

    images: Images
    labels: Tensor
    soft_labels: Tensor | None = None
    learning_rate: float | None = None
    exact_8bit: bool = False
    tiles: int = 1


class Selector(ABC, Generic[SettingsT, KnowledgeT]):
    """A method that makes its images at once: chosen, cut or generated, and then left as they are.

    Two verbs, `init` and `finish`, and what the library has to know beforehand. Named with its settings and with the
    knowledge that it is given: `class Mine(Selector[MySettings, Teacher])`.
    """

    name: ClassVar[str]
    """As typed after `--method`."""
    summary: ClassVar[str]
    """One line for `attar list`."""
    source: ClassVar[str]
    """Paper, equation or algorithm."""
    Settings: ClassVar[type[Config]]
    """The class of the settings, each field with its docstring."""
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"recover": {"iterations": 0}}
    """Defaults of other sections (`recover`, `evaluate`, ...) that suit this method."""
    knowledge: ClassVar[KnowledgeKind]
    """What `squeeze` must have made."""
    separable: ClassVar[bool]
    """May chunks of images be made without hearing of each other?"""
    mixed_precision: ClassVar[bool] = False
    """May networks run in the lower precision that is asked for while images are optimised?"""
    gains_from_bf16: ClassVar[bool] = False
    """Is `precision: auto` bf16-mixed on a processor that has bfloat16, for images of some size? It was measured."""
    typical: ClassVar[bool] = False
    """Is it the one to take where settings can only be meant for its kind of knowledge?"""
    makes: ClassVar[str] = "distilled images"
    """What a verdict calls the images of its sets."""
    hands_over_8bit: ClassVar[bool] = False
    """Are the images handed over whole 8-bit pixels, so that no float images are stored beside them?"""

    def __init__(self, settings: SettingsT, task: Task, ipc: int) -> None:
        self.settings, self.task, self.ipc = settings, task, ipc

    @classmethod
    def needs(cls, settings: SettingsT) -> KnowledgeKind:
        """The kind of knowledge that these settings need."""
        return cls.knowledge

    @classmethod
    def problems(cls, settings: SettingsT, sections: Mapping[str, Config]) -> list[str]:
        """What does not go together among all sections of a run, a sentence each; `settings` are the method's."""
        if getattr(sections["recover"], "iterations", 0) == 0:
            return []
        return [f"{cls.name} makes its images at once and does not optimise them: recover.iterations must be 0"]

    @classmethod
    def starts_from_real(cls, settings: SettingsT) -> bool:
        """Whether `init` takes ipc real images of each class."""
        return True

    @classmethod
    def gives_soft_labels(cls, settings: SettingsT) -> bool:
        """Whether its images come with soft labels of their own."""
        return False

    @classmethod
    def works_without_images(cls, settings: SettingsT) -> bool:
        """Whether the knowledge is all that these settings need: `init` and `gradient` then look at no real image."""
        return False

    @classmethod
    def labeller(cls, settings: SettingsT, knowledge: KnowledgeT) -> Labeller | None:
        """Who makes the soft labels that images are handed over with, where by these settings the knowledge does.

        Real images that they are compared with are labelled by the same. None leaves it to the kind of knowledge.
        """
        return None

    @classmethod
    def keeps_pixels_valid(cls, settings: SettingsT) -> bool:
        """Whether images are kept or made valid pixel by pixel, which whitened images cannot be."""
        return False

    @classmethod
    def require_teacher(cls, model: nn.Module, name: str) -> None:
        """Raise ConfigError where a network of this kind cannot teach this method."""

    @classmethod
    def require_machine(cls, settings: SettingsT) -> None:
        """Raise ConfigError where this machine lacks what the settings ask for, before any work."""

    @classmethod
    def default_model(cls, task: Task) -> str | None:
        """The network that `auto` stands for; None leaves it to the library."""
        return None

    def rehearsed(self) -> Self:
        """What a plan tries a step of: itself, unless its first step takes minutes that a plan does not have."""
        return self

    def labels(self) -> Tensor:
        """Class of each synthetic image, int64 (n,): round by round through the classes."""
        return balanced_labels(self.task.num_classes, self.ipc)

    def looked_at(self, count: int) -> int:
        """How many of a class's `count` real images `init` looks at, with which its time grows."""
        return min(count, self.ipc)

    @abstractmethod
    def init(self, picked: Tensor, real: RealImages, knowledge: KnowledgeT, rngs: Generators) -> Synthetic:
        """Make the first images and labels; of a method that optimises nothing, they are the last.

        Args:
            picked: places (b,), among all `labels()`, of the images to make: all of them, or a chunk where the
                method is separable. An image must not depend on which others are in its chunk.
            real: the real training images.
            knowledge: what squeeze has made.
            rngs: generators by keys, such as a class or the place of an image.
        """

    def finish(self, synthetic: Synthetic, knowledge: KnowledgeT) -> Distillate:
        """Turn the last state into what is stored."""
        return Distillate(synthetic.variables["images"].detach().cpu(), synthetic.labels.cpu())


class Optimised(Selector[SettingsT, KnowledgeT]):
    """A method whose images are optimised: `init` begins them, and each step goes down a `gradient`."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def problems(cls, settings: SettingsT, sections: Mapping[str, Config]) -> list[str]:
        """What does not go together among all sections of a run, a sentence each; `settings` are the method's."""
        return []

    @abstractmethod
    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: KnowledgeT,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Gradients of the objective by variable, and metrics (`loss` among them); without gradients no step is taken.

        Args:
            synthetic: the state; not changed here.
            picked: indices (b,) into the state of the images this step is about.
            real: the real training images; a step that looks at some moves them to the state's device.
            knowledge: what squeeze has made.
            rng: derived from (seed, chunk, step); the only source of randomness.
            done: the part of all iterations that lies behind, 0..1.
        """

    @abstractmethod
    def learning_rates(self) -> dict[str, float]:
        """Learning rate of each variable; 0 keeps a variable as it is."""

    def momenta(self) -> dict[str, float]:
        """Momentum of variables that have another than `recover.momentum`; of the optimiser sgd."""
        return {}

    def decode(self, synthetic: Synthetic) -> Tensor:
        """Images (n, c, h, w), normalised, that the variables stand for: one for each of `labels`.

        What is pictured, kept on the way, checked and handed over goes through this; so does a `gradient` whose
        variables are something else than the images. Differentiable by the variables, and the same at every call.
        """
        return synthetic.variables["images"]

    def slow_start(self) -> str:
        """What the first step does that takes minutes, to be said before it; empty where it is a step like others."""
        return ""

    def turns(self) -> tuple[float, ...]:
        """Parts of all iterations, ascending between 0 and 1, after which `turn` is called.

        The optimiser begins anew there, as does the average of `recover.ema`; the schedule of its rates goes on.
        """
        return ()

    def turn(self, synthetic: Synthetic, k: int) -> None:
        """Put other variables, which may have other shapes, into `synthetic.variables` at turn `k`, the first 0."""

    def limits(self) -> dict[str, tuple[float, float]]:
        """Range of a variable, beside the images, outside which the run has gone astray and is stopped."""
        return {}

    def doubts(self, metrics: Mapping[str, float]) -> str:
        """What speaks against the settings if metrics stay like these for many steps; empty where nothing does."""
        return ""

    def calmer(self, synthetic: Synthetic, num_taken: int) -> list[str]:
        """Settings `method.key=value` to try where numbers ran off after `num_taken` steps: a third of each rate."""
        used = {self.learning_rates().get(name) for name in synthetic.variables}
        rates = {key: rate for key, rate in dump(self.settings).items() if key.startswith("lr_") and rate}
        return [f"method.{key}={rate / 3:g}" for key, rate in rates.items() if rate in used]

    def project(self, synthetic: Synthetic) -> None:
        """Bring the variables back, in place, into the range that is valid; called after each step."""

    def finish(self, synthetic: Synthetic, knowledge: KnowledgeT) -> Distillate:
        """Turn the last state into what is stored."""
        return Distillate(self.decode(synthetic).detach().cpu(), synthetic.labels.cpu())


Method: TypeAlias = Selector[Any, Any]
"""Any method, where its settings and knowledge are not looked into."""


def random_members(real_labels: Tensor, labels: Tensor, picked: Tensor, rng: torch.Generator) -> Tensor:
    """Draw a real image of its class for each synthetic image `picked` (b,): int64 (b,), none twice.

    All of `labels` (n,) are drawn for, whichever are picked, so that any chunk can be drawn by itself.
    """
    chosen = torch.empty_like(labels)
    for label in labels.unique().tolist():
        members = (real_labels == label).nonzero().squeeze(1)
        places = labels == label
        chosen[places] = members[torch.randperm(len(members), generator=rng)[: int(places.sum())]]
    return chosen[picked]


def whole_pixels(images: Tensor, normalization: Normalization) -> Tensor:
    """Normalised images (b, c, h, w), each pixel clamped and rounded to the nearest of the 256 that are stored."""
    pixels = normalization.pixels(images.detach().cpu()).clamp(0, 1)
    return normalization.normalize(pixels.mul(255).round().to(torch.uint8))


def clamp_pixels(images: Tensor, normalization: Normalization) -> None:
    """Clamp normalised images (b, c, h, w), in place, to those of pixels in 0..1."""
    low, high = normalization.valid_range(images)
    images.copy_(images.clamp(low, high))


def balanced_labels(num_classes: int, ipc: int) -> Tensor:
    """Labels (num_classes * ipc,) int64, round by round through the classes: 0, 1, ..., 0, 1, ..."""
    return torch.arange(num_classes).repeat(ipc)
