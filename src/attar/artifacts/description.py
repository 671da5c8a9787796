"""attar.json: what a distilled dataset says about itself. Needs no torch.

Nothing in it depends on when, where or on what machine it was made, so that the same
run gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from attar.errors import ArtifactError
from attar.plain import listed_problems

NAME = "attar.json"
FORMAT = "attar-distilled"
FORMAT_VERSION = 5
"""2 knows no whitening, 3 no views stored beside labels, 4 no tiles. A set says the least that tells what it holds."""
WHITENING: Literal["whitening.safetensors"] = "whitening.safetensors"
"""The file of the matrix that images are whitened by."""

MOST_TILES = 9
MOST_LEFT_OUT = 1000
IMAGE_LIMIT = 1e4
"""Normalised values lie within a few units of 0; an image that reaches this has diverged."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^(data/train|pixels|labels)-[0-9a-z-]+\.(parquet|safetensors)$")]
BELOW_TEACHER = r"\w[\w.+-]*(/\w[\w.+-]*)*"
"""Names of files below teacher/, none of which leads out of it."""
TeacherName = Annotated[str, Field(pattern=f"^teacher/{BELOW_TEACHER}$")]
LabelKind = Literal["hard", "soft", "epochs", "online"]
"""hard: the class. soft: probabilities, one label an image. epochs: a teacher's logits on replayed views, for each
stored epoch and image. online: a teacher comes along and labels replayed views in training."""


class Part(BaseModel):
    """A group of fields of attar.json; types are exact, nothing is coerced, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())


class Lean(Part):
    """Fields that came after format version 2, `whitening` and `views`, are written only where they are used."""

    @model_serializer(mode="wrap")
    def _used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        return {name: value for name, value in values.items() if name not in ("whitening", "views") or value}


class Whitened(Part):
    """The whitening of the images; see `attar.task.Whitening`."""

    kind: Literal["zca"]
    epsilon: Annotated[Finite, Field(gt=0)]
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the mean and the matrix's upper triangle, float32, little-endian."""


class Scale(Lean):
    """Per-channel mean and standard deviation of the source's pixels, in 0..1."""

    mean: tuple[Finite, ...]
    std: tuple[Annotated[Finite, Field(gt=0)], ...]
    whitening: Whitened | None = None
    """In the place of both: images are whitened pixels."""


class Classes(Part):
    """The task: class names in label order, image shape, normalisation."""

    class_names: tuple[str, ...]
    channels: Literal[1, 3]
    height_px: Annotated[int, Field(ge=1, le=65535)]
    width_px: Annotated[int, Field(ge=1, le=65535)]
    normalization: Scale

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names must be there and differ from each other")
        if not len(self.normalization.mean) == len(self.normalization.std) == self.channels:
            raise ValueError(f"normalization must have {self.channels} means and stds, one a channel")
        return self

    @property
    def num_values(self) -> int:
        """Values of an image."""
        return self.channels * self.height_px * self.width_px


class Sizes(Lean):
    """Bytes that training on the dataset needs."""

    images: Count
    """The PNGs, or the float pixels where there are some."""
    labels: Count
    """The label column as stored, and soft labels where there are some."""
    teacher: Count
    """Networks that training needs beside the data."""
    whitening: Count = 0
    """What real images are whitened by, to be told apart by networks trained on these."""
    total: Count


class StoredLabels(Lean):
    """Labels stored by epoch and image: the fields of `attar.labels.plan.LabelPlan`."""

    codec: str
    num_classes: Annotated[int, Field(ge=2)]
    num_images: Annotated[int, Field(ge=1)]
    num_epochs: Annotated[int, Field(ge=1, le=1_000_000)]
    """Stored epochs; training may be longer, and takes them again in other pairings."""
    keep: Count = 0
    epochs_per_shard: Annotated[int, Field(ge=1)]
    views: bool = False
    """Whether the views of other programs are stored beside the labels."""


class StatedError(Part):
    """How far labels read back are from the teacher's logits; see `attar.labels.error.QuantizationError`."""

    max_abs: Annotated[Finite, Field(ge=0)]
    kl_1: Annotated[Finite, Field(ge=0)]
    kl_20: Annotated[Finite, Field(ge=0)]
    num: Count


class Labels(Part):
    """What training is told about each image."""

    kind: LabelKind
    stored: StoredLabels | None = None
    """For the kind epochs."""
    error: StatedError | None = None
    """Of the stored labels."""
    views: dict[str, Any] | None = None
    """By what the views are replayed, for the kinds epochs and online."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not (self.kind == "epochs") == bool(self.stored) == bool(self.error):
            raise ValueError("stored and error are for the kind epochs, and only there")
        if (self.kind in ("epochs", "online")) != (self.views is not None):
            raise ValueError("views are for the kinds epochs and online, and only there")
        return self


class Files(Lean):
    """Names of the data files, shards in order."""

    images: tuple[FileName, ...]
    pixels: tuple[FileName, ...] = ()
    soft_labels: tuple[FileName, ...] = ()
    labels: tuple[FileName, ...] = ()
    """Labels stored by epoch and image."""
    teacher: tuple[TeacherName, ...] = ()
    whitening: Literal["whitening.safetensors"] | None = None

    def every(self) -> tuple[str, ...]:
        """All names."""
        whitening = (self.whitening,) if self.whitening else ()
        return (*self.images, *self.pixels, *self.soft_labels, *self.labels, *self.teacher, *whitening)


class LeftOut(Part):
    """Images of the source that could not be read and were left out, as `skip_corrupt` lets them be."""

    num: Count
    names: tuple[str, ...]
    """Below the source's folder; the first MOST_LEFT_OUT."""

    @classmethod
    def of(cls, names: Sequence[str], *roots: str) -> LeftOut | None:
        """These names, without the folders of a machine that they begin with; None for no names."""
        shown = tuple(_below(_as_text(name), roots) for name in names[:MOST_LEFT_OUT])
        return cls(num=len(names), names=shown) if names else None


class Source(Part):
    """The real dataset that it was made from."""

    model_config = ConfigDict(extra="allow")

    name: str = ""
    fingerprint: str = ""
    licence: str | None = None
    num_train_images: Count | None = None
    left_out: LeftOut | None = None
    """Of the training and validation images."""

    @model_serializer(mode="wrap")
    def _used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        return {name: value for name, value in values.items() if name != "left_out" or value}


class Provenance(Part):
    """How the dataset was made; further fields are kept as they are."""

    model_config = ConfigDict(extra="allow")

    method: str = "unknown"
    summary: str | None = None
    """The method in one line."""
    paper: str | None = None
    """Where the method is published."""
    source: Source = Source()
    ipc: Count | None = None
    seed: int | None = None
    precision: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    """Sections of settings, as a recipe file holds them."""
    knowledge: Any = None
    """Ids and hashes of the teachers or experts."""
    command: str | None = None
    """The command that makes it again, without paths of a machine; the card writes one where it is missing."""


class Description(Provenance):
    """All of attar.json: what the dataset is, then how it was made."""

    format: Literal["attar-distilled"]
    format_version: Literal[2, 3, 4, 5]
    attar_version: str
    num_images: Annotated[int, Field(ge=1)]
    task: Classes
    pixels: Literal["uint8", "float32"]
    """uint8: the PNGs are the images. float32: pixels-*.safetensors are, and the PNGs are previews."""
    image_range: tuple[Finite, Finite] | None
    """Least and greatest value of the float images, normalised; none for uint8."""
    soft_labels: Literal["float16"] | None
    """Precision of the soft labels, one an image, where there are some."""
    labels: Labels
    learning_rate: Annotated[Finite, Field(gt=0)] | None
    """The rate learnt for training on these images."""
    tiles: Annotated[int, Field(ge=1, le=MOST_TILES)] = 1
    """How many others, along a side, each image holds, to be trained on one at a time; written where it is not 1."""
    sizes: Sizes
    files: Files

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        floats = self.pixels == "float32"
        if not self.files.images or floats != bool(self.files.pixels) or floats != bool(self.image_range):
            raise ValueError("pixels, image_range and files disagree on whether there are float images")
        if self.image_range and not -IMAGE_LIMIT <= self.image_range[0] <= self.image_range[1] <= IMAGE_LIMIT:
            raise ValueError(f"image_range must ascend within {-IMAGE_LIMIT:g}..{IMAGE_LIMIT:g}")
        if bool(self.soft_labels) != bool(self.files.soft_labels):
            raise ValueError("soft_labels and files disagree on whether there are soft labels")
        if (self.labels.kind == "soft") != bool(self.soft_labels):
            raise ValueError("labels.kind and soft_labels disagree on whether there are soft labels")
        self._agrees_on_stored()
        sizes = self.sizes
        if sizes.total != sizes.images + sizes.labels + sizes.teacher + sizes.whitening:
            raise ValueError("sizes.total is not the sum of the sizes")
        whitened = bool(self.task.normalization.whitening)
        if not whitened == bool(self.files.whitening) == bool(sizes.whitening):
            raise ValueError("task, files and sizes disagree on whether images are whitened")
        if self.tiles > min(self.task.height_px, self.task.width_px):
            raise ValueError(f"tiles is {self.tiles}, and a side of the images has fewer pixels")
        if self.format_version != (least := _version(self.labels.stored, whitened, self.tiles)):
            raise ValueError(f"format_version is {self.format_version}, and what it holds needs {least}")
        return self

    def _agrees_on_stored(self) -> None:
        stored = self.labels.stored
        if bool(stored) != bool(self.files.labels):
            raise ValueError("labels and files disagree on whether there are labels by epoch")
        if stored and (stored.num_images, stored.num_classes) != (self.num_images, len(self.task.class_names)):
            raise ValueError("labels.stored is of another number of images or classes")
        if self.labels.kind == "online" and not self.files.teacher:
            raise ValueError("labels of the kind online need the files of a teacher")

    def to_json(self) -> dict[str, Any]:
        """Plain values for attar.json, in the order in which a person reads them."""
        values = self.model_dump(mode="json")
        made = {name: value for name, value in values.items() if name not in _OWN and value is not None}
        if self.tiles == 1:
            del values["tiles"]
        return {**{name: values[name] for name in _OWN if name in values}, **made}


def _below(name: str, roots: Sequence[str]) -> str:
    """A name without the root that it begins with; of an absolute one that is below none, the last three parts."""
    root = next((root.rstrip("/") for root in roots if root and name.startswith(root.rstrip("/") + "/")), None)
    if root is not None:
        return name.removeprefix(root).lstrip("/")
    return "/".join(name.split("/")[-3:]) if name.startswith("/") else name


def _as_text(name: str) -> str:
    """A file's name as text that can be written, whatever its bytes are."""
    return name.encode("utf-8", "backslashreplace").decode()


def _version(stored: StoredLabels | None, whitened: bool, tiles: int) -> int:
    """The least format version that can tell what a dataset holds; 1 said the same as 2."""
    if tiles > 1:
        return 5
    if stored and stored.views:
        return 4
    return 3 if whitened else 2


_OWN = tuple(name for name in Description.model_fields if name not in Provenance.model_fields)


def locate(path: Path | str) -> Path:
    """Find the folder of a distilled dataset: this one, or `distilled/` in it where it is a run folder.

    Raises ArtifactError where there is no folder, or the run has not distilled anything yet.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}",
            expected="the folder of a distilled dataset, or a run folder that holds one as distilled/",
            fix="give the folder that `attar distill` wrote",
        )
    if not (folder / NAME).exists() and (folder / "distilled").is_dir():
        return folder / "distilled"
    return folder


def describe(provenance: Mapping[str, Any], **values: Any) -> Description:
    """Make and check a description from plain values; raises ArtifactError that names all that is wrong."""
    from attar.version import __version__

    stored = values["labels"].get("stored")
    labels = StoredLabels.model_validate(stored) if stored else None
    version = _version(labels, bool(values["files"].get("whitening")), values.get("tiles", 1))
    own = {"format": FORMAT, "format_version": version, "attar_version": __version__, **values}
    whole = {**provenance, **own}
    return _checked(json.dumps(whole), NAME)


def provenance_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """The part of attar.json that says how the dataset was made, as `write_distilled` takes it."""
    return {name: value for name, value in info.items() if name not in _OWN}


def read_description(folder: Path) -> Description:
    """Read and check the attar.json of a distilled dataset; raises ArtifactError."""
    path = folder / NAME
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is not a distilled dataset: it has no {NAME}",
            expected="the folder of a distilled dataset, or a run folder that holds one as distilled/",
            fix="give the folder that `attar distill` wrote, or run that to its end",
        )
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}", fix="see who may read it") from error
    version = re.search(rb'"format_version":\s*(\d{1,9})', text)
    if version and int(version[1]) > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {int(version[1])}",
            expected=f"at most {FORMAT_VERSION}",
            fix="install a newer attar",
        )
    return _checked(text, str(path))


def _checked(text: str | bytes, name: str) -> Description:
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(
            f"{name} does not describe a distilled dataset: {listed_problems(error)}",
            fix="run `attar verify` on the folder, and make it again",
        ) from error
