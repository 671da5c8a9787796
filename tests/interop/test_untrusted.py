"""Whatever is in files of other people: it is read, or an error for people says why not. Never a traceback."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bringing import read_as
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from attar.artifacts.distilled import Distilled
from attar.errors import AttarError, DataError
from attar.interop import EXPORTERS
from attar.interop.fkd import FkdLabels
from attar.interop.foreign import READERS, recognise
from attar.interop.images import MOST_PIXELS, decode_images
from attar.interop.loaded import Origin
from attar.interop.settings import ForeignSettings
from attar.task import Task

Change = Callable[[bytes], bytes]

changes = st.one_of(
    st.floats(0, 0.999).map(lambda part: lambda data: data[: int(len(data) * part)]),
    st.tuples(st.floats(0, 0.999), st.integers(1, 255)).map(lambda drawn: lambda data: flipped(data, *drawn)),
    st.tuples(st.floats(0, 0.999), st.binary(max_size=40)).map(lambda drawn: lambda data: overwritten(data, *drawn)),
    st.binary(max_size=200).map(lambda new: lambda data: new),
)


def flipped(data: bytes, place: float, bits: int) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[int(place * len(changed))] ^= bits
    return bytes(changed)


def overwritten(data: bytes, place: float, new: bytes) -> bytes:
    first = int(place * len(data))
    return data[:first] + new + data[first + len(new) :]


many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def exports(tmp_path: Path, floats: Distilled, exact: Distilled) -> list[tuple[str, Path, dict[str, bytes]]]:
    """Each format's export of each kind: its name, its folder, and what its files hold."""
    found = []
    for name, distilled in (("floats", floats), ("exact", exact)):
        for to, (export, _) in EXPORTERS.items():
            folder = export(distilled, tmp_path / f"{to}-{name}").path
            files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
            found.append((to, folder, {file: data for file, data in files.items() if file != "loader.py"}))
    return found


@many
@given(which=st.integers(0, 2 * len(EXPORTERS) - 1), file=st.integers(0, 99), change=changes, settled=st.booleans())
def test_damaged_exports_are_read_or_told(
    exports: list[tuple[str, Path, dict[str, bytes]]], task: Task, which: int, file: int, change: Change, settled: bool
) -> None:
    to, folder, files = exports[which]
    name = sorted(files)[file % len(files)]
    (folder / name).write_bytes(change(files[name]))
    try:
        found = recognise(folder)
        assert found is not None
        assert found.format == read_as(to)
        found.resolution(ForeignSettings())
        READERS[read_as(to)](folder, Origin(task) if settled else None, ForeignSettings()).open()
    except AttarError:
        pass
    finally:
        (folder / name).write_bytes(files[name])


@pytest.fixture
def labels(tmp_path: Path) -> tuple[Path, bytes]:
    """Stored labels of six images, two batches in an epoch."""
    order = torch.randperm(6, generator=torch.Generator().manual_seed(42))
    for batch in range(2):
        logits = 9.0 * torch.nn.functional.one_hot(order[3 * batch : 3 * batch + 3] % 3, 3)
        crops = torch.tensor([[0, 0, 1.0, 1.0]]).repeat(3, 1)
        mirrored, partners = torch.tensor([True, False, True]), torch.tensor([1, 2, 0])
        config = [crops, mirrored, partners, 0.9, [np.int64(edge) for edge in (0, 0, 2, 2)], logits.half()]
        (tmp_path / "epoch_0").mkdir(exist_ok=True)
        torch.save(config, tmp_path / f"epoch_0/batch_{batch}.tar")
    return tmp_path, (tmp_path / "epoch_0/batch_1.tar").read_bytes()


@many
@given(change=changes)
def test_damaged_labels_are_read_or_told(labels: tuple[Path, bytes], change: Change) -> None:
    folder, whole = labels
    (folder / "epoch_0/batch_1.tar").write_bytes(change(whole))
    try:
        stored = FkdLabels(folder, torch.arange(6) % 3, 3, (3, 8, 8), unchecked=True)
        drawn = stored.draw(torch.zeros(6, dtype=torch.int64), torch.arange(6))
        assert torch.equal(drawn.partner.sort().values, torch.arange(6))
    except AttarError:
        pass


def test_undamaged_labels_are_read(labels: tuple[Path, bytes]) -> None:
    stored = FkdLabels(labels[0], torch.arange(6) % 3, 3, (3, 8, 8), unchecked=True)
    logits = stored.read(torch.zeros(6, dtype=torch.int64), torch.arange(6))
    assert logits.argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


def png_that_says(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("width", [5000, 12_000, 60_000])
def test_images_that_unfold_are_refused_before_they_are_decoded(width: int) -> None:
    assert width * width > MOST_PIXELS
    with pytest.raises(DataError, match=r"says that it has|cannot be read"):
        decode_images([("bomb.png", png_that_says(width, width))])


def test_an_image_of_another_size_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="has 4000x4000 px"):
        decode_images([("large.png", png_that_says(4000, 4000))], (3, 8, 8))


def test_turned_photographs_are_shown_upright() -> None:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(stream, "PNG", exif=exif)
    shown = decode_images([("turned.png", stream.getvalue())])
    assert shown.shape == (1, 3, 5, 4)
    assert shown[0, 0, 0, -1] == 0


def test_a_note_that_lies_is_told(exports: list[tuple[str, Path, dict[str, bytes]]]) -> None:
    for to, folder, files in exports:
        note = json.loads(files["attar-export.json"])
        for lie in (
            {"height_px": -1},
            {"channels": 4},
            {"class_names": []},
            {"width_px": 1 << 60},
            {"normalization": 3},
        ):
            (folder / "attar-export.json").write_text(json.dumps({**note, "task": {**note["task"], **lie}}))
            with pytest.raises(AttarError):
                READERS[read_as(to)](folder, None, ForeignSettings())
