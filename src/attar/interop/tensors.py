"""Files of plain tensors, `images_*.pt` and `labels_*.pt`: what trajectory-matching code reads and writes.

    images_best.pt         float (n, c, h, w); normalised or ZCA whitened in published code, or pixels
    labels_best.pt         int64 (n,), or float (n, classes): probabilities, or logits as DATM learns them
    soft_labels_best.pt    float (n, classes), of attar's exports
    lr_best.pt             the learnt learning rate, a number: of DATM's code and attar's exports

DC, DSA and DM save all of their experiments in one file: {"data": [[images, labels], ...], "accs_all_exps": ...}.
Images and labels in one file otherwise: see `pairs`; a set in several files: see `parts`.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from attar.artifacts.checks import image_problems
from attar.artifacts.distilled import EIGHT_BIT_TOLERANCE, Distilled
from attar.data.whitening import measure_whitening
from attar.errors import ArtifactError
from attar.interop.folder import Export, Note, exported, exporting, imported, lost_always, read_note, tiles_of
from attar.interop.loaded import Loaded, Origin
from attar.interop.pairs import pair_in, values_of
from attar.interop.parts import numbered
from attar.interop.scales import Kind, constants_of, normalization_of, tell
from attar.interop.settings import ForeignSettings
from attar.runtime.events import Events
from attar.runtime.files import write_bytes
from attar.runtime.torchfile import read_tensor, read_torch
from attar.task import Normalization, Task

STEMS = ("_best", "")
"""Endings of the two names, in the order in which they are looked for; the first is written."""
AS_SAID = ForeignSettings(pixels="normalized", normalization="source", soft_labels="probabilities")
"""Tensors on the scale of the task that comes with them."""


@dataclass(frozen=True)
class Tensors:
    """What the files hold, as it is: images, labels, soft labels and the learnt rate, and where they lie.

    `code` tells whose they are, by a name in `scales.BY_SOURCE`.
    """

    path: Path
    images: Tensor
    labels: Tensor
    soft: Tensor | None = None
    rate: float | None = None
    bytes: int = 0
    label_bytes: int = 0
    code: str = "trajectories"
    parts: int = 1


def export_tensors(distilled: Distilled, out: Path, *, overwrite: bool = False) -> Export:
    """Write `images_best.pt` and `labels_best.pt`, and `soft_labels_best.pt` and `lr_best.pt` where there are such.

    Raises ResourceError where `out` is not empty; `overwrite` replaces an earlier export.
    """
    lost = lost_always(distilled)
    if distilled.soft_labels is not None:
        lost.append("readers of labels_best.pt train on hard labels; the soft ones are in soft_labels_best.pt")
    with exporting(distilled, out, lost, loader="tensors", whitened=True, overwrite=overwrite) as building:
        _save(building / "images_best.pt", distilled.images)
        _save(building / "labels_best.pt", distilled.labels)
        if distilled.soft_labels is not None:
            _save(building / "soft_labels_best.pt", distilled.soft_labels)
        if distilled.learning_rate is not None:
            _save(building / "lr_best.pt", torch.tensor(distilled.learning_rate, dtype=torch.float64))
    return exported(out, lost)


def read_tensors(source: Path, origin: Origin | None = None, settings: ForeignSettings | None = None) -> Loaded:
    """Read such files; see `import_tensors`."""
    settings = settings or AS_SAID
    found = _read(source, settings.part)
    note = read_note(found.path.parent)
    if note is None and origin is None:
        raise ArtifactError(
            f"{found.path.parent} holds tensors only",
            expected="the class names, image shape and normalisation that they were made with",
            fix="name the source that they were made from, with --source",
        )
    whole = origin.task if origin else note.task if note else None
    assert whole is not None
    labels, soft = _labels(found, whole, settings)
    stored, scale, read_as = _images(found, len(labels), whole, note, origin, settings)
    rate = found.rate if found.rate is not None else note.learning_rate if note else None
    return Loaded(
        path=source,
        task=replace(whole, normalization=scale),
        stored=stored,
        labels=labels,
        soft_labels=soft,
        learning_rate=rate,
        tiles=tiles_of(note, settings),
        provenance=imported(note, "tensors"),
        image_bytes=found.bytes,
        label_bytes=found.label_bytes,
        read_as=read_as + (f", {found.parts} parts joined" if found.parts > 1 else ""),
    )


def find_tensors(source: Path) -> list[tuple[Path, Path | None]]:
    """Files of images, each with that of its labels, or None where it holds them too; several of a set in parts.

    A folder may have them in `Normal/`, as DATM's code leaves them. `images_zca_5000.pt`, which MTT's code makes of
    whitened images by undoing that, has the labels of `images_5000.pt`. Raises ArtifactError where there are none.
    """
    if source.is_file() and source.name.startswith(("images", "labels")):
        stem = re.sub(r"^(images|labels)", "", source.name)
        pairs = [(source.with_name(f"images{stem}"), source.with_name(f"labels{stem}"))]
        if source.name.startswith("images_zca_"):
            pairs.append((source, source.with_name(source.name.replace("images_zca", "labels", 1))))
    elif source.is_file():
        return [(source, None)]
    else:
        folders = [folder for folder in (source, source / "Normal") if folder.is_dir()] or [source]
        pairs = [(folder / f"images{stem}.pt", folder / f"labels{stem}.pt") for folder in folders for stem in STEMS]
    for images, labels in pairs:
        if images.is_file() and labels.is_file():
            return [(images, labels)]
    if source.is_file() and source.name.startswith("images") and not any(labels.is_file() for _, labels in pairs):
        return [(source, None)]
    if source.is_dir() and (found := _parts(source)):
        return found
    raise ArtifactError(
        f"{source} holds no pair of images and labels",
        expected=" or ".join(f"{images.name} and {labels.name}" for images, labels in pairs),
        fix=unchosen(source) or "give the folder that they are in",
    )


def _parts(folder: Path) -> list[tuple[Path, Path | None]]:
    """The files of a set in numbered parts, or the only file of a set that there is; or none."""
    files = numbered(folder)
    if not files:
        single = [
            path for path in folder.iterdir() if path.suffix.lower() in (".npz", ".safetensors") and path.is_file()
        ]
        return [(single[0], None)] if len(single) == 1 else []
    found: list[tuple[Path, Path | None]] = []
    for images in files:
        labels = images.with_name(images.name.replace("images", "labels", 1))
        found.append((images, labels if labels != images and labels.is_file() else None))
    return found


def unchosen(source: Path) -> str:
    """What to do about a folder with sets of several iterations, none of them the best; empty where it is none."""
    found = sorted(
        (int(match[1]), path)
        for path in [*source.glob("images_*.pt"), *source.glob("Normal/images_*.pt")]
        if (match := re.fullmatch(r"images_(\d+)\.pt", path.name))
    )
    return f"give one of the {len(found)} sets in it, such as {found[-1][1]}" if found else ""


def image_shape(source: Path, part: int = 0) -> tuple[int, ...]:
    """Shape of all images together, (n, c, h, w) where they are such."""
    return tuple(_read(source, part).images.shape)


def _read(source: Path, part: int) -> Tensors:
    """What the files hold; of a set in parts, all of them one after the other."""
    files = find_tensors(source)
    found = [_read_one(images, labels, part) for images, labels in files]
    if len(found) == 1:
        return found[0]
    whole = found[0]
    for other, (path, _) in zip(found[1:], files[1:], strict=True):
        if other.images.shape[1:] != whole.images.shape[1:] or (other.soft is None) != (whole.soft is None):
            raise ArtifactError(
                f"{path} is of another shape than {files[0][0].name}: {_kind(other.images)} and {_kind(whole.images)}",
                expected="parts of one set",
                fix="give one of the files, to judge it alone",
            )
    return replace(
        whole,
        images=torch.cat([one.images for one in found]),
        labels=torch.cat([one.labels for one in found]),
        soft=None if whole.soft is None else torch.cat([one.soft for one in found if one.soft is not None]),
        bytes=sum(one.bytes for one in found),
        label_bytes=sum(one.label_bytes for one in found),
        parts=len(found),
    )


def _read_one(images_file: Path, labels_file: Path | None, part: int) -> Tensors:
    if labels_file is None:
        values = values_of(images_file)
        pair = pair_in(read_torch(images_file, "sets of tensors") if values is None else values, part, images_file)
        sizes = _bytes(pair.images, pair.labels if pair.soft is None else pair.soft)
        code = "condensation" if pair.experiments else "trajectories"
        return Tensors(images_file, pair.images, pair.labels, pair.soft, pair.rate, *sizes, code=code)
    images, labels = read_tensor(images_file), read_tensor(labels_file)
    soft_file = labels_file.with_name(f"soft_{labels_file.name}")
    soft = read_tensor(soft_file) if soft_file.is_file() else None
    rate_file = images_file.with_name(images_file.name.replace("images", "lr", 1))
    rate_file = rate_file if rate_file.is_file() else images_file.with_name("lr.pt")
    rate = _rate(rate_file) if rate_file.is_file() else None
    return Tensors(images_file, images, labels, soft, rate, *_bytes(images, labels if soft is None else soft))


def _rate(file: Path) -> float:
    values = read_torch(file, "a learning rate")
    rate = values.item() if isinstance(values, Tensor) and values.numel() == 1 else values
    if not isinstance(rate, float) or not 0 < rate < math.inf:
        raise ArtifactError(
            f"{file} holds no learning rate", expected="a number above 0", fix="write the rate into it again"
        )
    return rate


def _labels(found: Tensors, task: Task, settings: ForeignSettings) -> tuple[Tensor, Tensor | None]:
    """Classes int64 (n,) and probabilities float32 (n, classes) or None."""
    labels, soft = found.labels, found.soft
    if labels.is_floating_point() and labels.ndim == 2:
        if not labels.shape[1]:
            raise _unfit(found, task)
        soft, labels = labels, labels.argmax(dim=1)
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise _unfit(found, task)
    if soft is None:
        return labels.long(), None
    if tuple(soft.shape) != (len(labels), task.num_classes) or not soft.is_floating_point():
        raise ArtifactError(
            f"{found.path}: soft labels {_kind(soft)}",
            expected=f"float ({len(labels)}, {task.num_classes}), a row for each image and a column for each class",
            fix="name the source that they were made from, with --source",
        )
    return labels.long(), _probabilities(soft.float(), settings)


def _probabilities(soft: Tensor, settings: ForeignSettings) -> Tensor:
    """Probabilities; of logits by softmax. Values that are neither are left, and refused when they are checked."""
    logits = settings.soft_labels == "logits"
    if settings.soft_labels == "auto" and soft.isfinite().all():
        logits = bool((soft < 0).any())
    return soft.softmax(dim=1) if logits else soft


def _images(
    found: Tensors, num: int, task: Task, note: Note | None, origin: Origin | None, settings: ForeignSettings
) -> tuple[Tensor, Normalization, str]:
    """The images as they are stored, their scale, and in words what they were taken to be."""
    images = found.images
    by_values = settings is not AS_SAID and note is None
    exported = note is not None and images.dtype == torch.uint8
    if (
        not (images.is_floating_point() or by_values or exported)
        or tuple(images.shape) != (num, *task.shape)
        or num == 0
    ):
        raise _unfit(found, task)
    if note and images.is_floating_point():
        scale = note.task.normalization
        return (_whole(images.float(), scale) if note.exact_8bit else images.float()), scale, ""
    if images.is_floating_point() and (problems := image_problems(images.float().numpy())):
        raise ArtifactError(f"{found.path}: {'; '.join(problems)}", fix="fetch or save them again")
    kind: Kind = tell(images, str(found.path)) if settings.pixels == "auto" else settings.pixels
    kind = "bytes" if exported else kind
    own = replace(task.normalization, whitening=None)
    match kind:
        case "normalized":
            named = settings.normalization
            named = constants_of(origin.name if origin else "", found.code) if named == "auto" else named
            return images.float(), normalization_of(named, own), f"normalised images, foreign.normalization={named}"
        case "unit":
            return own.normalize(images.float()), own, "pixels of 0..1"
        case "bytes":
            whole = images.round().clamp(0, 255)
            exact = bool((images == whole).all())
            return whole.to(torch.uint8) if exact else own.normalize(images.float() / 255), own, "pixels of 0..255"
        case "zca":
            whitened = _whitened(task, origin, settings, found.path).normalization
            return images.float(), whitened, f"ZCA whitened images, foreign.zca_epsilon={settings.zca_epsilon:g}"


def _whole(images: Tensor, scale: Normalization) -> Tensor:
    """The pixels uint8 that images were made of; the images where somebody has changed them since."""
    levels = scale.pixels(images) * 255
    whole = levels.round().clamp(0, 255)
    return whole.to(torch.uint8) if bool(((levels - whole).abs() <= EIGHT_BIT_TOLERANCE).all()) else images


def _whitened(task: Task, origin: Origin | None, settings: ForeignSettings, path: Path) -> Task:
    if task.normalization.whitening is not None:
        return task
    if origin is None or origin.train is None:
        raise ArtifactError(
            f"{path} holds whitened images",
            expected="the real images, by which they were whitened",
            fix="name the source",
        )
    return task.whitened(measure_whitening(origin.train, task.shape, settings.zca_epsilon, Events(quiet=True)))


def _unfit(found: Tensors, task: Task) -> ArtifactError:
    return ArtifactError(
        f"{found.path}: images {_kind(found.images)} with labels {_kind(found.labels)}",
        expected=f"float images (n, {', '.join(map(str, task.shape))}), and int labels (n,) or float "
        f"probabilities (n, {task.num_classes})",
        fix="name the source and resolution that they were made from, with --source and --resolution",
    )


def _bytes(images: Tensor, labels: Tensor) -> tuple[int, int]:
    return images.numel() * images.element_size(), labels.numel() * labels.element_size()


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _save(path: Path, tensor: Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(tensor.contiguous().clone(), buffer)  # a clone: a view would drag its whole storage along
    write_bytes(path, buffer.getvalue())
