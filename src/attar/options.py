"""Options that several commands or sections share: each is stated here once, as a field with its docstring.

A section of settings inherits from its groups, and so do the options of a command (`attar.api.options`). `section`
says where a value that is given to a command belongs among the settings. Needs no torch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, field_validator

from attar.config import Config, parse_duration
from attar.errors import ConfigError
from attar.marks import DecidedFor, Flag, Mark
from attar.registry import handed_over
from attar.runtime.machine import Device, Precision

T = TypeVar("T")
if TYPE_CHECKING:  # what callers may give is wider than what validation makes of it
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic.fields import FieldInfo

    Several = Sequence[T]
    PathLike = str | Path
    Assignments = Mapping[str, Any] | Iterable[str]
    # a class, a function or a network may be given; a name is what is kept
    MethodLike: TypeAlias = Any
    ModelLike: TypeAlias = Any
    StrategyLike: TypeAlias = Any
    # images in memory, a dataset, or what attar.open gave; the name under which they are known is what is kept
    SourceLike: TypeAlias = Any
    MaybeSource: TypeAlias = Any
    SetLike: TypeAlias = Any
else:
    Several = tuple[T, ...]
    PathLike = Annotated[str, BeforeValidator(lambda value: path_of(value))]
    SourceLike = Annotated[str, BeforeValidator(lambda value: _source(value))]
    MaybeSource = Annotated[str | None, BeforeValidator(lambda value: _source(value))]
    SetLike = PathLike
    Assignments = Annotated[tuple[str, ...], BeforeValidator(lambda value: assignments(value))]
    MethodLike = Annotated[str, BeforeValidator(partial(handed_over, "attar.methods"))]
    ModelLike = Annotated[str, BeforeValidator(partial(handed_over, "attar.models"))]
    StrategyLike = Annotated[str, BeforeValidator(partial(handed_over, "attar.strategies"))]

Baseline = Literal["random", "herding", "kcenter", "kmeans", "easy", "full"]
LabelKind = Literal["stored", "hard"]
NoiseKind = Literal["symmetric", "pairflip"]
Redo = Literal["recover", "relabel"]
Until = Literal["squeeze", "recover", "relabel", "evaluate"]
MACHINE, IMAGES, PROGRESS = "Machine", "Reading images", "Progress"
"""Panels of a command's help, beside that of its own options."""


class HasPath(Protocol):
    """What is kept in a folder, such as what `distill` returned."""

    @property
    def path(self) -> Path:
        """That folder."""


class Wanted(Config):
    """What is distilled, how, and into how many images."""

    section: ClassVar[str] = "run"

    source: Annotated[SourceLike, DecidedFor("squeeze"), Flag(completes="datasets")] = Field(kw_only=False)
    """The real images: a name from `attar list datasets`, a folder, parquet shards, wds:PATTERN or hf:OWNER/NAME. From
    Python also images in memory: see `attar.open`."""
    method: Annotated[MethodLike, DecidedFor("recover"), Flag(completes="methods")] = Field(
        default="auto", kw_only=False
    )
    """A name from `attar list methods`; auto chooses by resolution, classes and images per class, and says why."""
    ipc: Annotated[int, DecidedFor("recover"), Flag(default="the recipe's, or 1")] = Field(
        default=1, ge=1, kw_only=False
    )
    """Synthetic images per class."""


class Seeded(Config):
    """What every random choice follows from."""

    section: ClassVar[str] = "run"

    seed: Annotated[int, DecidedFor("squeeze")] = Field(default=0, ge=0)
    """Number from which every random choice is derived."""


class _Accelerated(Config):
    """What the networks are computed on."""

    panel: ClassVar[str] = MACHINE
    section: ClassVar[str] = "run"

    device: Annotated[Device, Mark.HOW] = "auto"
    """Where the work runs: auto (a GPU where there is one), cpu, cuda, cuda:1 for one of several GPUs, or mps."""
    precision: Annotated[Precision, DecidedFor("squeeze")] = "auto"
    """Arithmetic of the networks' forward passes: 32-true, bf16-mixed or 16-mixed; parameters, losses and sums stay
    float32. auto: bf16-mixed on a GPU that has it, and on a CPU that has it for methods that gain (sre2l and teddy from
    64 px on); else 32-true. A run keeps what it began with. NVIDIA GPUs from Ampere on convolve 32-true in TF32, as
    they do for published code; NVIDIA_TF32_OVERRIDE=0 in the environment makes it float32."""


class Threads(Config):
    """How much of the CPU is used."""

    panel: ClassVar[str] = MACHINE
    section: ClassVar[str] = "run"

    workers: Annotated[int | None, Mark.HOW, Flag(default="all; in a study one")] = Field(default=None, ge=1)
    """CPU threads of each process. The last bits of a result depend on their number. One is fastest for tiny networks
    on tiny images, and by far where the machine is busy. Where none is given, the students of an evaluation share all
    threads, each student in a process of its own (evaluate.processes), and a training of a study has one on a CPU."""


class AtATime(Config):
    """How many networks train at a time."""

    panel: ClassVar[str] = MACHINE
    section: ClassVar[str] = "evaluate"

    processes: Annotated[int | None, Mark.HOW, Flag(default="what cores and memory bear")] = Field(
        default=None, ge=1, le=1024
    )
    """Networks that train at a time, each in a process with its own threads (see workers); none: on a CPU as many as
    its cores and the free memory allow, on a GPU one. The results are the same bytes. One where callbacks or
    loggers follow the events, for networks, strategies and a study's images that a program handed over, and, but in a
    study, where images are decoded as they are asked for."""


class Peers(Config):
    """How long other processes may be silent."""

    panel: ClassVar[str] = MACHINE
    section: ClassVar[str] = "run"

    peer_timeout: Annotated[str, Mark.HOW, Flag(metavar="TIME")] = "10m"
    """How long another process that shares the work may be silent, such as 90s or 10m, before this one takes it
    for stopped or cut off, names it and ends. One that is busy is not silent."""

    @field_validator("peer_timeout")
    @classmethod
    def _a_time(cls, text: str) -> str:
        parse_duration(text)
        return text


class Machine(Threads, _Accelerated, Peers):
    """Where the work runs."""


class Reading(Config):
    """How real images are found and read."""

    panel: ClassVar[str] = IMAGES
    section: ClassVar[str] = "source"

    data_dir: Annotated[PathLike | None, Mark.HOW] = None
    """Folder with the files of a dataset that goes by a name, such as cifar10, food101 or imagenet-1k."""
    download: Annotated[bool, Mark.HOW] = False
    """Let torchvision, or the package medmnist, download a dataset by name into the data directory where it isn't there
    yet."""
    resolution: int | None = Field(default=None, ge=4, le=4096)
    """Height and width in pixels to which the central square of each image is scaled. Without it images stay as they
    are, and must all have one size; photographs by name (imagenet-1k) are brought to 224, its subsets to 128."""
    label_column: Annotated[str | None, Flag(metavar="NAME")] = None
    """The column of classes, such as coarse_label, in parquet, a CSV or a dataset of the hub; in WebDataset shards, a
    file of each sample or a key in its .json. Without it: label, labels or fine_label, or the only one there is."""
    skip_corrupt: Annotated[bool, Mark.HOW] = False
    """Leave out images that can't be read, and list them, instead of stopping at the first."""
    skip_unlabelled: bool = False
    """Leave out images whose label is missing, negative or beyond the last class, instead of stopping."""


class Network(Config):
    """The network that learns the real images."""

    section: ClassVar[str] = "squeeze"

    model: Annotated[ModelLike, Flag(completes="models", default="the recipe's, or the method's")] = "auto"
    """The network that learns the real images, a name from `attar list models`; auto: a ResNet-18 for methods that need
    BatchNorm, else a ConvNet, its stem or depth by the resolution."""


class Weights(Config):
    """Weights that the network has."""

    section: ClassVar[str] = "squeeze"

    weights: Annotated[PathLike | None, Flag(default="trained here")] = None
    """Weights for the network that learns the real images, instead of training it: `released` takes the default ones of
    torchvision or timm, a name such as IMAGENET1K_V1 those of that name, downloaded by the library; a path takes your
    own checkpoint (.safetensors, .pt, ...), or experts: a run folder that has some, trained by the same settings, or
    what the code of MTT, TESLA or DATM trained (replay_buffer_0.pt, or the folder of several). The first num_experts
    are taken; `learning_rate` and `momentum` say how those of others were trained, source.normalization or source.zca
    on which images."""


class PoolKind(Config):
    """Where weak networks come from."""

    section: ClassVar[str] = "squeeze"

    pool: Literal["prior", "post"] = "prior"
    """Where the members of teddy's pool come from. prior: states of the network's training after some of its epochs;
    post: the trained network, and copies of it with fewer channels, each trained for tune_epochs more (needs
    `pip install 'attar[prune]'`)."""


class Budget(Config):
    """How large labels may be."""

    section: ClassVar[str] = "relabel"

    label_budget: Annotated[str | None, Flag(metavar="SIZE")] = None
    """Most bytes that the soft labels of all epochs may take together, such as 50MB; it decides codec and keep, in
    place of those that are set, and how many epochs are stored."""


class Supervision(Config):
    """What a network learns from its batches."""

    section: ClassVar[str] = "train"

    strategy: Annotated[StrategyLike, Flag(completes="strategies")] = "ce"
    """How batches are made and what the loss is; `attar list strategies` lists them. Several are joined by '+', such as
    dlb+ddgsd."""


class Effort(Config):
    """How long it may take."""

    quick: bool = False
    """Use a narrow network and fewer steps, to end within about ten minutes on two cores. On a CPU this is the default
    where neither recipe nor method is named."""
    thorough: bool = False
    """Use the method's full settings, however long they take."""
    time: Annotated[str | None, Flag(metavar="TIME")] = None
    """Cut experts, iterations and students' epochs to fit a time such as 30m or 2h; settings given by hand stay."""


class LabelNoise(Config):
    """Wrong labels on purpose."""

    section: ClassVar[str] = "train"

    label_noise: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the training labels to corrupt, drawn by the seed. The images that judge keep their labels."""
    noise_kind: NoiseKind = "symmetric"
    """What a corrupted label becomes: any other class with equal chance (symmetric), or the next class (pairflip)."""


class GivenTeacher(Config):
    """Who teaches under the strategy kd."""

    section: ClassVar[str] = "train.kd"

    teacher: PathLike | None = None
    """For the strategy kd: model.safetensors of `attar train`, or squeeze/teacher.safetensors of a run. It must know
    the same classes."""


class Following(Config):
    """By which protocol sets are judged."""

    section: ClassVar[str] = "evaluate"

    protocol: Annotated[str, Flag(completes="protocols", default="the recipe's, or the method's")] = "mtt"
    """How networks are trained to judge images: a name from `attar list protocols`, or a YAML file. It takes the place
    of what recipe and method set of the section train; flags and --set go above it, and records say what they
    changed."""

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, name: str) -> str:
        from attar.protocols import protocol

        protocol(name)
        return name


class Judging(Following):
    """What a distilled set is compared with."""

    section: ClassVar[str] = "evaluate"

    models: Annotated[Several[ModelLike], Flag(completes="models")] = Field(default=("auto",), min_length=1)
    """Networks that are trained, names from `attar list models`; auto: the protocol's, else the one used for
    distillation, or a ConvNet for the resolution."""
    seeds: int = Field(default=3, ge=1)
    """Number of trainings of each network on each set, from different initial weights."""
    baselines: Several[Baseline] = ("random", "full")
    """What the set is compared with, or none: real images at the same count per class, random or chosen (herding,
    kcenter, kmeans, by the features of the teacher that labels them, or by pixels; easy, by that teacher's loss), and
    full, the whole training split."""
    scores: bool = False
    """Run all that the scores of DD-Ranking (HLR, IOR, LRS, ARS) are made of: both kinds of labels, random images and
    the whole set, and distilled and random images without augmentation too."""


class Compared(Config):
    """Which methods are compared, and how they are judged."""

    methods: Annotated[Several[MethodLike], Flag(completes="methods")] = Field(
        default=("tesla", "sre2l", "rded", "kmeans"), min_length=1
    )
    """Names from `attar list methods`, separated by commas. Random real images always stand beside them."""
    ipc: Several[int] = Field(default=(1,), min_length=1)
    """Synthetic images per class, one number or several."""
    labels: Several[Literal["hard", "soft"]] = Field(default=("hard", "soft"), min_length=1)
    """Kinds of labels to train with: hard, the classes; soft, one teacher's labels of each view, of random real images
    too."""
    seeds: int = Field(default=3, ge=1)
    """Number of trainings on each set, from different initial weights."""
    model: Annotated[ModelLike, Flag(completes="models")] = "auto"
    """The network that judges, a name from `attar list models`; auto: the protocol's, or a ConvNet for the
    resolution."""
    protocol: Annotated[str, Flag(completes="protocols")] = "bench"
    """How that network is trained: a name from `attar list protocols`, or a YAML file; --set train.KEY=VALUE changes
    it, and records say how."""
    split: Literal["test", "validation"] = "test"
    """Real images that judge."""
    full_epochs: int = Field(default=20, ge=0)
    """Epochs of training on all real images; that accuracy stands below the table. 0: leave it out."""


class Arriving(Config):
    """How classes arrive in continual learning."""

    section: ClassVar[str] = "continual"

    model: Annotated[ModelLike, Flag(completes="models")] = "auto"
    """Network that is trained at each step, a name from `attar list models`; auto: the one used for distillation, or a
    ConvNet for the resolution."""
    steps: int = Field(default=5, ge=1)
    """Number of steps in which the classes arrive, as evenly as they divide, in an order drawn by the seed."""
    seeds: int = Field(default=1, ge=1)
    """Number of orders of the classes to try, each with its own initial weights."""
    baseline: bool = True
    """Compare with random real images at the same count per class, as GDumb keeps them (Prabhu et al. 2020)."""
    labels: Several[LabelKind] = Field(default=("stored",), min_length=1)
    """Labels of the distilled images: stored with them, soft where there are some, or hard, their classes."""


class Assigned(Config):
    """Any other setting."""

    settings: Annotated[Assignments, Flag("--set", metavar="KEY=VALUE", repeated=True, completes="settings")] = ()
    """Any other setting, such as recover.iterations=300; `attar show NAME` lists them."""

    @property
    def assigned(self) -> tuple[str, ...]:
        """The settings as texts, `recover.iterations=300`."""
        return assignments(self.settings)


class Followed(Config):
    """Who follows what happens."""

    panel: ClassVar[str] = PROGRESS

    loggers: Annotated[Several[Literal["tensorboard", "wandb"]], Flag("--logger", metavar="NAME", repeated=True)] = ()
    """Also log to tensorboard or wandb, each of which needs its package; they write into the output folder."""
    callbacks: Annotated[Any, Flag(program=True)] = ()
    """Functions that are called with each `attar.Event`: stage, name, item, step and values such as the loss. An error
    that one raises ends the work, which can be gone on with."""

    @field_validator("callbacks")
    @classmethod
    def _callable(cls, callbacks: Any) -> tuple[Any, ...]:
        found = tuple(callbacks) if isinstance(callbacks, list | tuple) else (callbacks,)
        if odd := [one for one in found if not callable(one)]:
            raise ConfigError(f"{odd[0]!r} is no callback", expected="a function of one attar.Event, or a list of such")
        return found


class Sharded(Config):
    """Which part of the work is done here, where it is shared by processes that never meet."""

    panel: ClassVar[str] = MACHINE

    shard: Annotated[str | None, Flag(metavar="K/N", default="all of it")] = None
    """Make only every N-th item, from the K-th on, such as 3/64, in a run folder that N such commands share, at once or
    one after another; auto: by the numbers of a Slurm job array. The shard that finds all items of a stage there puts
    them together, to the bytes of a run without shards. Where others' items are missing, a shard ends and says so."""
    shard_wait: Annotated[str | None, Flag(metavar="TIME", default="not at all")] = None
    """How long a shard waits for items of others after the last one came, such as 30m, before it ends."""

    @field_validator("shard")
    @classmethod
    def _a_shard(cls, text: str | None) -> str | None:
        from attar.runtime.shards import parse_shard

        if text is not None:
            parse_shard(text)
        return text

    @field_validator("shard_wait")
    @classmethod
    def _some_time(cls, text: str | None) -> str | None:
        if text is not None:
            parse_duration(text)
        return text


class Quiet(Config):
    """What is said on the way."""

    panel: ClassVar[str] = PROGRESS

    quiet: Annotated[bool, Flag(short="-q")] = True
    """Show no progress."""


def path_of(value: Any) -> Any:
    """The path of a Path, or of an object that is kept in a folder, such as a distilled dataset; else the value."""
    path = getattr(value, "path", value)
    return str(path) if isinstance(path, Path) else value


def _source(value: Any) -> Any:
    """The name or path of real images, whatever stands for them."""
    value = path_of(value)
    return value if value is None else handed_over("attar.sources", value)


def assignments(settings: Assignments) -> tuple[str, ...]:
    """`{"recover.iterations": 300}` as `("recover.iterations=300",)`; texts pass as they are."""
    import json
    from collections.abc import Mapping

    if isinstance(settings, Mapping):
        return tuple(f"{key}={json.dumps(value, default=str)}" for key, value in settings.items())
    return (settings,) if isinstance(settings, str) else tuple(settings)


def given(options: Config) -> dict[str, dict[str, Any]]:
    """The values that were given to a command and are settings, by the section that each belongs to.

    A field that only has its default is left out, so that a recipe or a method may have another.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in type(options).model_fields:
        section = section_of(type(options), name)
        if section and name in options.model_fields_set:
            into = found
            for part in section.split("."):
                into = into.setdefault(part, {})
            into[name] = getattr(options, name)
    return found


def section_of(kind: type[Config], field: str) -> str | None:
    """The section of the settings that a command's option belongs to; None for one that is the command's own."""
    found: str | None = vars(_owner(kind, field)).get("section")
    return found


def panel_of(kind: type[Config], field: str) -> str | None:
    """The panel of a command's help that an option belongs to; None for that of the command's own."""
    found: str | None = vars(_owner(kind, field)).get("panel")
    return found


def arranged(*kinds: type[Config]) -> dict[str, FieldInfo]:
    """Fields of some classes in the order of signatures and help: those that most commands have come last."""
    common: tuple[type[Config], ...] = (Assigned, Reading, Seeded, _Accelerated, AtATime, Threads, Quiet)
    places = {name: i + 1 for i, group in enumerate(common) for name in group.model_fields}
    fields = {name: info for kind in kinds for name, info in kind.model_fields.items()}
    return dict(sorted(fields.items(), key=lambda field: places.get(field[0], 0)))


def _owner(kind: type[Config], field: str) -> type[Config]:
    """The class that states a field."""
    owners: list[type[Config]] = [one for one in kind.__mro__ if issubclass(one, Config)]
    return [one for one in owners if field in one.model_fields][-1]
