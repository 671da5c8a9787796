"""The options of every command, one class each: signatures, flags, help and the pages about them are made of these.

What several commands or sections share is stated in `attar.options`. Needs no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from attar.config import Config, parse_bytes, parse_duration
from attar.marks import Flag
from attar.options import (
    Arriving,
    Assigned,
    AtATime,
    Budget,
    Compared,
    Effort,
    Followed,
    Following,
    GivenTeacher,
    Judging,
    LabelNoise,
    Machine,
    MaybeSource,
    ModelLike,
    Network,
    PathLike,
    PoolKind,
    Quiet,
    Reading,
    Redo,
    Seeded,
    SetLike,
    Several,
    Sharded,
    SourceLike,
    Supervision,
    Threads,
    Until,
    Wanted,
    Weights,
)

HOME = "the run folder, or one beside the dataset"


class MadeOptions(
    Quiet, Machine, Reading, Seeded, Assigned, Effort, Following, Budget, PoolKind, Weights, Network, Wanted
):
    """What a run is made of."""

    recipe: Annotated[str, Flag(completes="recipes")] = "auto"
    """auto (a bundled one made for this source, method and number of images), none, a name from `attar list recipes`,
    or a YAML file. What it sets is the default of the other options."""


class Hosted(Config):
    """How many work together."""

    hosts: Annotated[int | None, Flag(default="one")] = Field(default=None, ge=1, le=100_000)
    """Also say what this many processes would gain, each on a machine or a GPU like this one: the seconds of every
    stage that they share, the number beyond which nothing is gained, and the hours of all together."""


class PlanOptions(Hosted, MadeOptions):
    """What a run is made of, and how many would work on it."""


class RunOptions(Followed, MadeOptions):
    """What a run is made of, where it is kept, and how far it goes."""

    out: Annotated[PathLike | None, Flag(default="one under runs/")] = None
    """Folder to write to: config.yaml, events.jsonl, a folder for each stage, distilled/, evaluation.json and
    report.html; an interrupted run in it resumes, and what is complete is skipped."""
    until: Until = "evaluate"
    """The last stage to run."""


class DistillOptions(Sharded, RunOptions):
    """A run, or a shard of one, and what of it is done again."""

    fresh: bool = False
    """Start over: delete what an earlier run left in the folder."""
    redo: Redo | None = None
    """Redo this stage and those after it, with new settings if given, and keep what the earlier stages made."""


class Queued(Config):
    """How jobs are queued, and what each of them has."""

    panel: ClassVar[str] = "Jobs"

    shards: int = Field(default=8, ge=1, le=10_000)
    """Tasks that share the items of a stage, each in a process of its own."""
    cluster: Literal["slurm", "local"] = "slurm"
    """slurm; or local, to try it: all tasks at once on this machine, and the command waits for them."""
    job_time: Annotated[str, Flag(metavar="TIME")] = "4h"
    """How long a task may run, such as 90m or 12h; one that needs longer, or is preempted, is queued again and goes on
    from its checkpoint."""
    cpus: int = Field(default=1, ge=1)
    """CPU cores of a task; they are its `workers` unless those are given."""
    gpus: int = Field(default=0, ge=0, le=1)
    """GPUs of a task, of which a shard uses one."""
    memory: Annotated[str | None, Flag(metavar="SIZE", default="the cluster's")] = None
    """Main memory of a task, such as 16GB."""
    partition: Annotated[str | None, Flag(metavar="NAME", default="the cluster's")] = None
    """Slurm's partition."""
    at_once: Annotated[int | None, Flag(default="all")] = Field(default=None, ge=1)
    """Tasks that may run at one time."""
    slurm: Annotated[Several[str], Flag("--slurm", metavar="KEY=VALUE", repeated=True)] = ()
    """Any other option of sbatch, such as account=vision or constraint=a100."""

    @field_validator("job_time")
    @classmethod
    def _a_time(cls, text: str) -> str:
        parse_duration(text)
        return text

    @field_validator("memory")
    @classmethod
    def _a_size(cls, text: str | None) -> str | None:
        if text is not None:
            parse_bytes(text)
        return text

    @field_validator("slurm")
    @classmethod
    def _key_and_value(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            key, equals, value = option.partition("=")
            if not key.strip() or not equals or not value.strip():
                raise ValueError(f"{option!r} is not KEY=VALUE, such as account=vision")
        return options


class SubmitOptions(Queued, RunOptions):
    """A run, and the jobs that make it."""


class ResumeOptions(Followed, Sharded, Quiet, Threads, Assigned, Budget):
    """How a run goes on."""

    run: PathLike = Field(kw_only=False)
    """A run folder."""
    until: Until = Field(default="evaluate", kw_only=False)
    """The last stage to run."""
    redo: Redo | None = None
    """Redo this stage and those after it, with new settings if given, and keep what the earlier stages made."""


class ExpertsOptions(Reading, Assigned):
    """Which experts are listed, and what they are wanted for."""

    folder: PathLike = Field(kw_only=False)
    """A run folder, or its `squeeze` folder."""
    source: MaybeSource = Field(default=None, kw_only=False)
    """Real images that they are wanted for."""


class TrainOptions(Followed, Quiet, Machine, Reading, Seeded, Assigned, LabelNoise, GivenTeacher, Supervision):
    """What is trained on what."""

    data: Annotated[SourceLike, Flag(completes="datasets")] = Field(kw_only=False)
    """A source of real images, a distilled dataset, or a run folder that holds one."""
    model: Annotated[ModelLike, Flag(completes="models")] = Field(default="auto", kw_only=False)
    """A name from `attar list models`; auto: a ConvNet for the resolution."""
    source: Annotated[MaybeSource, Flag(metavar="SOURCE", completes="datasets")] = None
    """For distilled data, the real images whose validation split judges the network."""
    out: Annotated[PathLike | None, Flag(default="one under runs/")] = None
    """Folder to write to: model.safetensors and events.jsonl; an interrupted training in it resumes, and one that
    has ended is not done again."""
    keep: bool = True
    """Write what is trained to a folder."""


class JudgedOptions(Quiet, Machine, Reading, Seeded, Assigned):
    """What is judged, and by what."""

    distilled: SetLike = Field(kw_only=False)
    """A distilled dataset, or a run folder that holds one, whose settings are then the defaults; or what another
    program left: a folder of images, .pt tensors, shards (`attar show foreign`). From Python also what `distill`
    returned, or (images, labels) as arrays or tensors, which are kept in a file under `runs/`."""
    source: Annotated[SourceLike, Flag("--source", metavar="SOURCE", completes="datasets")] = Field(kw_only=False)
    """The real images that the set was made from; their test split judges it."""
    out: Annotated[PathLike | None, Flag(default=HOME)] = None
    """Folder to write to: records, and report.html."""


class EvaluateOptions(Followed, JudgedOptions, AtATime, Judging):
    """What is judged, and what it is compared with."""

    out: Annotated[PathLike | None, Flag(default=HOME)] = None
    """Folder to write to: evaluation.json, by_class.json, evaluation/ with the finished trainings, and report.html; the
    dataset's card has the new numbers too, unless another folder than that of its run is given."""


class ContinualOptions(Followed, JudgedOptions, AtATime, Arriving):
    """What is judged, and how its classes arrive."""

    out: Annotated[PathLike | None, Flag(default=HOME)] = None
    """Folder to write to: continual.json, evaluation/ with the finished trainings, and report.html."""


class PlanStudyOptions(Quiet, Machine, Reading, Assigned):
    """Which study, and where it is kept."""

    file: Annotated[PathLike, Flag(completes="studies")] = Field(kw_only=False)
    """A name from `attar list studies`, or a YAML file; `attar show study` lists its fields."""
    out: Annotated[PathLike | None, Flag(default="one under runs/")] = None
    """Folder to write to: study.yaml, study.json, study.csv, the finished trainings and report.html; what has been
    trained in it is kept, and trained again only where its settings change."""


class StudyOptions(Followed, PlanStudyOptions, AtATime):
    """Which study, where it is kept, and how many work on it."""


class BenchOptions(Followed, Quiet, Machine, Reading, Seeded, Assigned, Effort, AtATime, Compared):
    """What is compared, on what, and where it is kept."""

    source: Annotated[SourceLike, Flag(completes="datasets")] = Field(kw_only=False)
    """The real images, as `attar distill` takes them."""
    out: Annotated[PathLike | None, Flag(default="one under runs/")] = None
    """Folder to write to: bench.json, report.html, and a folder for each set; what has been made and trained in it is
    kept."""


class CompareOptions(Config):
    """What is compared."""

    runs: Several[PathLike] = Field(kw_only=False)
    """Run folders, or evaluated distilled datasets that are in none; two or more."""
    out: Annotated[PathLike | None, Flag(default="no page")] = Field(default=None, kw_only=False)
    """Folder to write to: comparison.html, a page about them."""


class ReportOptions(Config):
    """What a page is about."""

    path: Annotated[PathLike, Flag(metavar="RUN")] = Field(kw_only=False)
    """A run folder, a study's folder, or another distilled dataset that was judged."""
    out: Annotated[PathLike | None, Flag(default="the folder itself")] = Field(default=None, kw_only=False)
    """Folder to write to: report.html."""


class VerifyOptions(Config):
    """What is checked."""

    distilled: PathLike = Field(kw_only=False)
    """A distilled dataset, or a run folder that holds one."""


class ExportOptions(Config):
    """What is written where, in which format."""

    distilled: PathLike = Field(kw_only=False)
    """A distilled dataset, or a run folder that holds one."""
    out: Annotated[PathLike, Flag("--out", metavar="PATH")] = Field(kw_only=False)
    """Folder to write to: images and a loader; it must be new or empty, unless `overwrite` replaces an export in it."""
    to: Annotated[str, Flag(metavar="FORMAT")] = Field(default="imagefolder", kw_only=False)
    """The format: imagefolder, tensors, medmnist or webdataset."""
    overwrite: bool = False
    """Replace an export that is there."""


class OpenOptions(Quiet, Reading, Seeded, Assigned):
    """Which images are opened, and what they are where that can't be told from them."""

    data: Any = Field(kw_only=False)
    """A source as the other functions take it: a name, a path or an address; (images, labels) as NumPy arrays or torch
    tensors, uint8 or floats in 0..1; a torch Dataset of (image, label), by index and without augmentation; a Dataset of
    Hugging Face's library; or, by split, {"train": ..., "test": ...} of these or a DatasetDict."""
    name: str | None = None
    """What images in memory go by; without it a name is made of their content."""
    class_names: Several[str] | None = None
    """Names of the classes of images in memory, in label order; without it those that they carry, or their labels."""
    layout: Literal["auto", "NCHW", "NHWC", "NHW"] = "auto"
    """Axes of arrays; auto tells them apart by the channels, 1 or 3, and asks where both ends have as many."""


class ImportOptions(Quiet, Reading, Assigned):
    """What is read, in which format, and where it goes."""

    path: PathLike = Field(kw_only=False)
    """A folder of images, .pt tensors or shards; or one such file."""
    out: Annotated[PathLike, Flag("--out", metavar="PATH")] = Field(kw_only=False)
    """Folder to write to: the distilled dataset; it must be new or empty, unless `overwrite` replaces one in it."""
    kind: Annotated[str, Flag("--from", metavar="FORMAT")] = Field(default="auto", kw_only=False)
    """The format of these files: auto, imagefolder, tensors or webdataset."""
    source: Annotated[MaybeSource, Flag(metavar="SOURCE", completes="datasets")] = None
    """The real images that the set was made from: they give class names, and normalisation where need be."""
    overwrite: bool = False
    """Replace a distilled dataset that is there."""


class PushOptions(Config):
    """What is uploaded where."""

    distilled: PathLike = Field(kw_only=False)
    """A distilled dataset, or a run folder that holds one."""
    repository: Annotated[str, Flag(metavar="OWNER/NAME")] = Field(kw_only=False)
    """Repository on the Hugging Face hub; it is created if it does not exist."""
    private: bool = False
    """Create the repository as private: only its owner sees it."""
    dry_run: bool = False
    """List what would be uploaded, without contacting the hub."""
