"""WebDataset shards: tar files with a few files for each image, read in a stream.

    train-000000.tar    000000.png        the image, 8-bit
                        000000.cls        its class, a number
                        000000.json       the same with its name, and its place in the dataset
                        000000.image.npy  the normalised image, float32 (c, h, w), where 8 bits are not enough
                        000000.soft.npy   probabilities, float16 (classes,), where labels are soft

The same dataset gives the same bytes. Other people's shards are read where they hold png or jpg (jpeg) and cls. Nothing
is unpacked to disk, and what is larger than an image of its kind may be is refused before it is read. Names are taken
apart as the webdataset package does it: at the first dot behind the last slash. Folders, and names without a dot, are
left out.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from attar.artifacts.arrays import Array
from attar.artifacts.distilled import Distilled
from attar.artifacts.parquet import encode_png
from attar.data.readers.shards import sample_name
from attar.errors import ArtifactError, AttarError
from attar.interop.folder import Export, Note, exported, exporting, imported, lost_always, read_note, tiles_of
from attar.interop.images import decode_images
from attar.interop.loaded import Loaded, Origin
from attar.interop.settings import ForeignSettings
from attar.runtime.archives import require_end
from attar.runtime.files import write_bytes
from attar.task import Task

SHARD_BYTES = 200_000_000
"""A shard ends before it grows past this."""
_MOST_MEMBER_BYTES = 1 << 28
IMAGES = ("png", "jpg", "jpeg", "webp")
_FLOATS, SOFT = "image.npy", "soft.npy"

_Sample = dict[str, bytes]


def export_webdataset(distilled: Distilled, out: Path, *, overwrite: bool = False) -> Export:
    """Write `train-000000.tar` and on, and say what is lost by it.

    Raises ResourceError where `out` is not empty; `overwrite` replaces an earlier export.
    """
    lost = lost_always(distilled)
    if distilled.exact_8bit and distilled.task.normalization.whitening is not None:
        lost.append("the whitening, for other readers: networks take the whitened images, and these are the pixels")
    with exporting(distilled, out, lost, loader="webdataset", whitened=True, overwrite=overwrite) as building:
        for number, shard in enumerate(_shards(distilled)):
            write_bytes(building / f"train-{number:06d}.tar", shard)
    return exported(out, lost)


def read_webdataset(source: Path, origin: Origin | None = None, settings: ForeignSettings | None = None) -> Loaded:
    """Read such shards."""
    shards = find_shards(source)
    note = read_note(shards[0].parent)
    task = _task(note, origin, shards[0])
    samples = [sample for shard in shards for sample in _samples(shard)]
    if not samples:
        raise ArtifactError(f"{source} holds no images", expected="shards with a png or jpg and a cls for each image")
    labels = torch.tensor([_class(name, sample) for name, sample in samples])
    floats = all(_FLOATS in sample for _, sample in samples)
    if floats:
        stored = torch.from_numpy(np.stack([_array(n, s, _FLOATS, "<f4", task.shape) for n, s in samples]))
    else:
        images = [(f"{name}.{_image(name, sample)}", sample[_image(name, sample)]) for name, sample in samples]
        stored = torch.from_numpy(decode_images(images, task.shape))
    soft = all(SOFT in sample for _, sample in samples)
    shape = (task.num_classes,)
    probabilities = np.stack([_array(n, s, SOFT, "<f2", shape) for n, s in samples]) if soft else None
    return Loaded(
        path=source,
        task=task,
        stored=stored,
        labels=labels,
        soft_labels=None if probabilities is None else torch.from_numpy(probabilities).float(),
        learning_rate=note.learning_rate if note else None,
        tiles=tiles_of(note, settings),
        provenance=imported(note, "webdataset"),
        image_bytes=sum(len(sample[_FLOATS if floats else _image(name, sample)]) for name, sample in samples),
        label_bytes=sum(len(sample[SOFT if soft else _field(sample, ("cls",))]) for _, sample in samples),
    )


def find_shards(source: Path) -> list[Path]:
    """The tar files of a folder in order of their names, or this one; raises ArtifactError where there are none."""
    shards = [source] if source.is_file() else sorted(source.glob("*.tar"))
    if not shards:
        raise ArtifactError(f"{source} holds no shards", expected="files such as train-000000.tar")
    return shards


def _shards(distilled: Distilled) -> Iterator[bytes]:
    stream, tar = _new()
    for place in range(len(distilled)):
        files = _files(distilled, place)
        grown = sum(len(data) + 1024 for data in files.values())
        if stream.tell() and stream.tell() + grown > SHARD_BYTES:
            tar.close()
            yield stream.getvalue()
            stream, tar = _new()
        for ending, data in files.items():
            member = tarfile.TarInfo(f"{place:06d}.{ending}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    tar.close()
    yield stream.getvalue()


def _new() -> tuple[io.BytesIO, tarfile.TarFile]:
    stream = io.BytesIO()
    return stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)


def _files(distilled: Distilled, place: int) -> _Sample:
    label, one = int(distilled.labels[place]), torch.tensor([place])
    about = {"label": label, "class_name": distilled.task.class_names[label], "image_id": place}
    stored = distilled.stored[one]
    pixels = stored if distilled.exact_8bit else distilled.pixels(one).clamp(0, 1).mul(255).round()
    files = {
        "png": encode_png(pixels[0].to(torch.uint8).numpy()),
        "cls": str(label).encode(),
        "json": json.dumps(about, ensure_ascii=False).encode(),
    }
    if not distilled.exact_8bit:
        files[_FLOATS] = _npy(stored[0].numpy())
    if distilled.soft_labels is not None:
        files[SOFT] = _npy(distilled.soft_labels[place].half().numpy())
    return files


def _npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _task(note: Note | None, origin: Origin | None, shard: Path) -> Task:
    if note:
        return note.task
    if origin:
        return origin.task
    raise ArtifactError(
        f"{shard.parent} holds shards only",
        expected="the class names, image shape and normalisation that they are for",
        fix="name the source that they were made from, with --source",
    )


def _samples(shard: Path) -> Iterator[tuple[str, _Sample]]:
    """Files of each image by their endings, with the image's name; files of one image follow each other."""
    name, sample = "", _Sample()
    for member, data in _members(shard):
        named = sample_name(member)
        if named is None:
            continue
        key, ending = named
        if key != name and sample:
            yield f"{shard}: {name}", sample
            sample = _Sample()
        if ending in sample:
            raise ArtifactError(f"{shard} holds {member} twice", expected="one file of each kind for each image")
        name = key
        sample[ending] = data
    if sample:
        yield f"{shard}: {name}", sample


def _members(shard: Path) -> Iterator[tuple[str, bytes]]:
    try:
        left = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if not member.isreg():
                    raise ValueError(f"{member.name!r} is no plain file")
                if member.size > min(_MOST_MEMBER_BYTES, left):
                    raise ValueError(f"{member.name!r} says that it has {member.size:,} bytes")
                left -= member.size
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if len(data) != member.size:
                    raise ValueError(f"{member.name!r} is cut off")
                yield member.name, data
            require_end(tar)
    except AttarError:
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise ArtifactError(
            f"{shard} cannot be read as a shard: {error}",
            expected="a tar file, not compressed, of small files",
            fix="fetch or write it again",
        ) from error


def _class(name: str, sample: Mapping[str, bytes]) -> int:
    text = sample.get(_field(sample, ("cls",)), b"").strip()
    if not text.isdigit() or len(text) > 9:
        raise ArtifactError(f"{name} has no class", expected="a file cls with a whole number")
    return int(text)


def _image(name: str, sample: Mapping[str, bytes]) -> str:
    ending = _field(sample, IMAGES)
    if not ending:
        raise ArtifactError(f"{name} has no image", expected=f"a file {' or '.join(IMAGES)}")
    return ending


def _field(sample: Mapping[str, bytes], endings: Sequence[str]) -> str:
    """The file of a sample that ends so, by itself (`png`) or as the only one behind a name (`image.png`); or none."""
    named = [field for field in sample if field.rpartition(".")[2] in endings]
    return next((field for field in endings if field in sample), named[0] if len(named) == 1 else "")


def _array(name: str, sample: Mapping[str, bytes], ending: str, dtype: str, shape: tuple[int, ...]) -> Array:
    """An npy file of this kind and shape; its header is checked before anything is allocated."""
    data, size = sample[ending], np.dtype(dtype).itemsize * math.prod(shape)
    try:
        stream = io.BytesIO(data)
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("another version of npy")
        found, fortran, kind = np.lib.format.read_array_header_1_0(stream)
        if (found, fortran, kind) != (shape, False, np.dtype(dtype)) or len(data) - stream.tell() != size:
            raise ValueError(f"{kind} {found} of {len(data) - stream.tell()} bytes")
    except Exception as error:
        raise ArtifactError(
            f"{name}.{ending} cannot be read: {error}", expected=f"npy, {dtype} {shape}", fix="fetch or write it again"
        ) from error
    array: Array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
    return array
