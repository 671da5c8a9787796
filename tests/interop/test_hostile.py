"""Damaged and hostile files of other programs: each is read, or ends in one error for people, and costs little.

`damage` changes bytes; the rest is made by hand: numbers and shapes that make no sense, sizes that lie, names that lead
elsewhere, values that unfold without end.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import resource
import shutil
import struct
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attar import api
from attar.errors import AttarError
from attar.interop.fkd import FkdLabels
from attar.interop.foreign import recognise, require_recognised
from attar.interop.images import decode_images
from attar.interop.loaded import Loaded, Origin
from attar.interop.opening import import_foreign
from attar.interop.settings import ForeignSettings
from attar.interop.unpacking import unpack_labels
from attar.interop.webdataset import read_webdataset
from attar.models.checkpoints import read_state
from attar.runtime.seeding import generator
from attar.runtime.torchfile import read_torch
from attar.task import Normalization, Task
from damage import refusals

SIDE, CLASSES, NUM = 8, 3, 6
TASK = Task(("ant", "bee", "cat"), 3, SIDE, SIDE, Normalization((0.45, 0.5, 0.4), (0.22, 0.2, 0.25)))
LABELS = torch.arange(NUM) % CLASSES
READ = ForeignSettings(pixels="normalized", fkd_unchecked=True)
MOST_SECONDS, MOST_BYTES = 20, 500_000_000


def images() -> Tensor:
    return torch.randn(NUM, 3, SIDE, SIDE, generator=generator(0, "images"))


def picture(kind: str = "JPEG", mode: str = "RGB", seed: int = 0) -> bytes:
    pixels, stream = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def batch(num: int = NUM) -> dict[str, Any]:
    """What SRe2L's code stores of a batch."""
    return {
        "crops": torch.tensor([[0, 0, 1.0, 1.0]]).repeat(num, 1),
        "mirrored": torch.zeros(num, dtype=torch.bool),
        "partners": torch.arange(num).flip(0),
        "share": 0.9,
        "box": [np.int64(edge) for edge in (0, 0, 2, 2)],
        "logits": torch.randn(num, CLASSES, generator=generator(0, "logits")).half(),
    }


def write_tensors(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"images_best": images(), "labels_best": LABELS, "lr_best": torch.tensor(0.01), **changed}
    for name, value in values.items():
        torch.save(value, folder / f"{name}.pt")
    return folder


def write_experiments(folder: Path) -> Path:
    folder.mkdir()
    found = {"data": [[images(), LABELS]], "accs_all_exps": {"ConvNet": [np.float64(0.3)]}}
    torch.save(found, folder / "res.pt")
    return folder / "res.pt"


def write_old_experiments(folder: Path) -> Path:
    path = write_experiments(folder)
    torch.save(torch.load(path, weights_only=False), path, _use_new_zipfile_serialization=False)
    return path


def write_folder(folder: Path) -> Path:
    for place in range(NUM):
        label, number = place % CLASSES, place // CLASSES
        (folder / f"new{label:03d}").mkdir(parents=True, exist_ok=True)
        (folder / f"new{label:03d}/class{label:03d}_id{number:03d}.jpg").write_bytes(picture(seed=place))
    (folder / "fkd/epoch_0").mkdir(parents=True)
    torch.save(list(batch().values()), folder / "fkd/epoch_0/batch_0.tar")
    return folder


def write_shards(folder: Path, members: list[tuple[str, bytes]] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    if members is None:
        members = [
            (f"{place:03d}.{ending}", data)
            for place in range(NUM)
            for ending, data in (("jpg", picture(seed=place)), ("cls", str(place % CLASSES).encode()))
        ]
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder


def write_archive(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "FKD.tar.gz", "w:gz") as tar:
        tar.add(write_folder(folder / "made") / "fkd", arcname="FKD")
    shutil.rmtree(folder / "made")
    return folder / "FKD.tar.gz"


def read(path: Path) -> Loaded:
    found = require_recognised(path)
    found.resolution(READ)
    loaded = found.read(Origin(TASK), READ)
    loaded.open()
    return loaded


def unpack(archive: Path) -> None:
    """Unpack and read; nothing half unpacked may stay."""
    folder = archive.parent / "FKD-unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    with_labels = False
    try:
        unpack_labels(archive)
        with_labels = True
        FkdLabels(folder, LABELS, CLASSES, TASK.shape, unchecked=True)
    finally:
        assert {path.name for path in archive.parent.iterdir()} == {archive.name} | (
            {folder.name} if with_labels else set()
        )


FORMATS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], str]] = {
    "tensors": (write_tensors, read, "*.pt"),
    "experiments": (write_experiments, read, "*.pt"),
    "old experiments": (write_old_experiments, read, "*.pt"),
    "images": (write_folder, read, "new000/*000.jpg"),
    "labels": (write_folder, read, "fkd/*/*.tar"),
    "shards": (write_shards, read, "*.tar"),
    "archive": (write_archive, unpack, "*.gz"),
}
"""How each is written and read, and the files in it that are damaged."""


@contextmanager
def cheap() -> Iterator[None]:
    """Hold the block to a bounded time, and to memory that the process did not have before."""
    started, before = time.process_time(), most_bytes()
    yield
    assert time.process_time() - started < MOST_SECONDS
    assert most_bytes() - before < MOST_BYTES


def most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("num", [4, pytest.param(80, marks=pytest.mark.slow)])
def test_damaged_bytes_are_read_or_told(tmp_path: Path, name: str, num: int) -> None:
    write, reading, pattern = FORMATS[name]
    path = write(tmp_path / "x")
    reading(path)
    files = sorted((path if path.is_dir() else path.parent).glob(pattern))
    for file in files:
        assert refusals(file, lambda: reading(path), num)
    assert files
    reading(path)


def refused(reading: Callable[[], Any], *words: str) -> None:
    with pytest.raises(AttarError) as told:
        reading()
    assert all(word in str(told.value) for word in words), str(told.value)


nan, inf = float("nan"), float("inf")
laughs: Any = [0] * 100
for _ in range(6):
    laughs = [laughs] * 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crops", torch.tensor(1.0)),
        ("crops", torch.full((NUM, 4), nan)),
        ("crops", torch.full((NUM, 4), 1e30)),
        ("crops", torch.full((NUM, 4), -1.0)),
        ("crops", torch.ones(NUM, 4, dtype=torch.int64)),
        ("crops", [1]),
        ("mirrored", {1: 2}),
        ("mirrored", [[1], [1, 2]]),
        ("mirrored", ["a"] * NUM),
        ("mirrored", [inf] * NUM),
        ("mirrored", laughs),
        ("mirrored", torch.zeros(NUM, 2)),
        ("partners", torch.full((NUM,), nan)),
        ("partners", torch.zeros(NUM, dtype=torch.int64)),
        ("partners", [0] * NUM),
        ("partners", torch.arange(1, NUM + 1)),
        ("box", [inf] * 4),
        ("box", [nan] * 4),
        ("box", [0.5, 0, 2, 2]),
        ("box", [0, 0, SIDE + 1, 1]),
        ("box", [3, 0, 2, 1]),
        ("box", "1234"),
        ("box", {1: 2, 3: 4, 5: 6, 7: 8}),
        ("box", [0] * 1000),
        ("box", [10**70] * 4),
        ("logits", torch.full((NUM, CLASSES), inf)),
        ("logits", torch.tensor(1.0)),
        ("logits", torch.ones(NUM, CLASSES, dtype=torch.int64)),
        ("logits", torch.ones(NUM, CLASSES + 1)),
        ("logits", torch.ones(0, CLASSES)),
        ("logits", [[1.0] * CLASSES] * NUM),
    ],
)
def test_stored_labels_that_make_no_sense_are_told(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "epoch_0").mkdir()
    torch.save(list((batch() | {name: value}).values()), tmp_path / "epoch_0/batch_0.tar")
    with cheap():
        refused(lambda: FkdLabels(tmp_path, LABELS, CLASSES, TASK.shape, unchecked=True), "batch_0.tar")


@pytest.mark.parametrize("share", [nan, -1.0, 2.0, "x", 10**70, torch.ones(2), None])
def test_a_share_of_mixup_that_is_none_is_told(tmp_path: Path, share: Any) -> None:
    (tmp_path / "epoch_0").mkdir()
    torch.save(list((batch() | {"box": None, "share": share}).values()), tmp_path / "epoch_0/batch_0.tar")
    refused(lambda: FkdLabels(tmp_path, LABELS, CLASSES, TASK.shape, unchecked=True), "batch_0.tar")


@pytest.mark.parametrize(
    "changed",
    [
        {"labels_best": LABELS - 1},
        {"labels_best": LABELS + 99},
        {"labels_best": torch.zeros(NUM, 0)},
        {"labels_best": torch.zeros(NUM, CLASSES)},
        {"labels_best": torch.full((NUM, CLASSES), nan)},
        {"labels_best": LABELS[:, None]},
        {"labels_best": LABELS.float()},
        {"labels_best": LABELS.bool()},
        {"labels_best": LABELS[:-1]},
        {"images_best": torch.zeros(0, 3, SIDE, SIDE), "labels_best": LABELS[:0]},
        {"images_best": images()[:, :, 0]},
        {"images_best": images().transpose(1, 3)},
        {"images_best": torch.full((NUM, 3, SIDE, SIDE), nan)},
        {"images_best": torch.full((NUM, 3, SIDE, SIDE), 1e300, dtype=torch.float64)},
        {"images_best": list(images())},
        {"lr_best": torch.tensor(nan)},
        {"lr_best": torch.tensor(inf)},
        {"lr_best": -1.0},
        {"lr_best": torch.ones(2)},
        {"lr_best": "fast"},
        {"soft_labels_best": torch.ones(NUM, CLASSES + 1)},
        {"soft_labels_best": torch.full((NUM, CLASSES), inf)},
    ],
    ids=lambda changed: "-".join(f"{name} {getattr(value, 'shape', '')}" for name, value in changed.items()),
)
def test_tensors_that_make_no_sense_are_told(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = write_tensors(tmp_path / "x", **changed)
    refused(lambda: read(path), str(path))


@pytest.mark.parametrize("value", [-5, 300, 2**40])
def test_whole_numbers_that_are_no_bytes_are_not_taken_for_pixels(tmp_path: Path, value: int) -> None:
    path = write_tensors(tmp_path / "x", images_best=torch.full((NUM, 3, SIDE, SIDE), value))
    refused(lambda: require_recognised(path).read(Origin(TASK), ForeignSettings()), "foreign.pixels")


def pickled(path: Path, opcodes: bytes, data: bytes = b"") -> Path:
    """A file as torch.save's, of these opcodes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + opcodes + b".")
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data/0", data)
    return path


def streamed(
    path: Path, opcodes: bytes, *, version: bytes = b"M\xe9\x03", keys: bytes = b"]", data: bytes = b""
) -> Path:
    """A file as torch.save's before version 1.6, of these opcodes."""
    head = (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", version, b"}X\x0d\0\0\0little_endian\x88s")
    path.write_bytes(b"".join(b"\x80\x02" + part + b"." for part in (*head, opcodes, keys)) + data)
    return path


DEEP = 300_000
TEXT = b"X" + struct.pack("<I", 1_000_000) + b"x" * 1_000_000
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu%stQ"
MANY = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"


@pytest.mark.parametrize(
    ("name", "opcodes"),
    [
        pytest.param("a tuple nested so deep that its hash would overflow the stack",
                     b"}" + b")" + b"\x85" * DEEP + b"K\x01s", marks=pytest.mark.slow),
        ("bytes made of one text over and over", b"](c_codecs\nencode\nq\x01" + TEXT + b"q\x02"
         + b"h\x01h\x02\x85R" * 20_000 + b"e"),
        ("a call", b"cos\nsystem\nX\x04\0\0\0true\x85R"),
        ("a call of what looks harmless", b"cbuiltins\ngetattr\n]X\x05\0\0\0clear\x86R"),
        ("no values", b""),
        ("a value that is not there", b"0"),
        ("no mark", b"t"),
        ("memory of nothing", b"h\x09"),
        ("a storage larger than the file", b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE % MANY
         + b"K\x00(K\x02t(K\x01t\x89)tR"),
        ("a shape larger than its storage", b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE % b"K\x02"
         + b"K\x00(" + MANY + MANY + b"t(K\x00K\x00t\x89)tR"),
        ("an offset behind the end", b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE % b"K\x02"
         + b"K\x02(K\x01t(K\x01t\x89)tR"),
        ("a negative stride", b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE % b"K\x02"
         + b"K\x01(K\x02t(J\xff\xff\xff\xfft\x89)tR"),
        ("an unknown protocol of numbers", b"cnumpy.core.multiarray\nscalar\n)R"),
    ],
)  # fmt: skip
def test_pickles_that_do_more_than_hold_values_are_refused(tmp_path: Path, name: str, opcodes: bytes) -> None:
    path = pickled(tmp_path / "x.pt", opcodes, bytes(8))
    with cheap():
        refused(lambda: read_torch(path, "values"), "x.pt cannot be read")
        streamed(path, opcodes, keys=b"]X\x01\0\0\x000a", data=bytes(16))
        refused(lambda: read_torch(path, "values"), "x.pt cannot be read")


def test_names_that_are_no_texts_are_told_by_their_type(tmp_path: Path) -> None:
    nested = pickled(tmp_path / "x.pt", b"}" + b")" + b"\x85" * 5_000 + b"K\x01s")
    with cheap():
        refused(lambda: import_foreign(nested, tmp_path / "out"), "holds a tuple, which are no images")
        refused(lambda: read_state(nested), "holds no state dict")


ONE = struct.pack("<q", 1) + bytes(4)
"""How many numbers of a storage there are, and they: a zero."""
MANY_TIMES = b"]" + b"".join(b"q%c]h%ch%c\x86a" % (n, n, n) for n in range(40))
"""A list of two of a list of two..., of which nothing may be written out."""


@pytest.mark.parametrize("part", ["version", "keys"])
@pytest.mark.parametrize(
    "opcodes", [b"N", pytest.param(MANY_TIMES, marks=pytest.mark.slow), b"]K\x01a", b"]X\x01\0\0\x001a"]
)
def test_old_files_whose_frame_makes_no_sense_are_refused(tmp_path: Path, part: str, opcodes: bytes) -> None:
    numbers = STORAGE.replace(b"tQ", b"NtQ") % b"K\x01" + b"K\x00K\x01\x85K\x01\x85\x89}tR"
    made = {"version": b"M\xe9\x03", "keys": b"]X\x01\0\0\x000a"}
    whole = b"ctorch._utils\n_rebuild_tensor_v2\n(" + numbers
    assert read_torch(streamed(tmp_path / "x.pt", whole, **made, data=ONE), "values").tolist() == [0]
    path = streamed(tmp_path / "x.pt", whole, **(made | {part: opcodes}), data=ONE)
    with cheap():
        refused(lambda: read_torch(path, "values"), "x.pt cannot be read")


def test_lists_nested_deeply_or_in_themselves_are_only_lists(tmp_path: Path) -> None:
    with cheap():
        assert type(read_torch(pickled(tmp_path / "x.pt", b"]" * 50_000 + b"a" * 49_999), "values")) is list
        inner = read_torch(pickled(tmp_path / "x.pt", b"]q\x01h\x01a"), "values")
    assert inner[0] is inner


def test_archives_that_lie_about_their_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps([0] * 1_000_000))
    refused(lambda: read_torch(path, "values"), "compressed")
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("a/data.pkl", b"\x80\x02].")
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    refused(lambda: read_torch(path, "values"), "same name")
    pickled(path, b"]")
    whole = path.read_bytes()
    place = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: place + 20] + struct.pack("<II", 1 << 30, 1 << 30) + whole[place + 28 :])
    refused(lambda: read_torch(path, "values"), "larger than the file")


def member(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "out"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_archives_are_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    (tmp_path / "shards").mkdir()
    for file, inside in (("shards/a.tar", f"{name}.png"), ("labels.tar", f"{name}/epoch_0/batch_0.tar")):
        with tarfile.open(tmp_path / file, "w") as tar:
            member(tar, inside, type=kind, linkname="/etc/passwd")
    refused(lambda: read_webdataset(tmp_path / "shards", Origin(TASK)), "no plain file")
    refused(lambda: unpack_labels(tmp_path / "labels.tar"), "no batch of labels")
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "labels.tar"}


@pytest.mark.parametrize("name", ["../epoch_0/batch_0.tar", "/tmp/epoch_0/batch_0.tar", "a/../epoch_0/batch_0.tar"])
def test_names_in_an_archive_lead_nowhere(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "labels.tar", "w") as tar:
        member(tar, name, b"labels")
        member(tar, "../../evil", b"evil")
    folder = unpack_labels(tmp_path / "labels.tar")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    inside = ["labels-unpacked/attar-unpacked.json", "labels-unpacked/epoch_0/batch_0.tar"]
    assert sorted(files) == [*inside, "labels.tar"]
    assert (folder / "epoch_0/batch_0.tar").read_bytes() == b"labels"


def test_an_archive_with_a_batch_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "labels.tar", "w") as tar:
        member(tar, "epoch_0/batch_0.tar", b"one")
        member(tar, "epoch_00/batch_00.tar", b"other")
    refused(lambda: unpack_labels(tmp_path / "labels.tar"), "twice")
    assert not (tmp_path / "labels-unpacked").exists()


@pytest.mark.parametrize("name", ["epoch_0/batch_0.tar", "beside.bin", "PaxHeaders"])
def test_archives_that_unfold_are_refused_before_they_do(tmp_path: Path, name: str) -> None:
    """A batch, a file beside, and a header of tar itself, of 300 MB of zeros."""
    header, num = tarfile.TarInfo(name), 300_000_000
    header.size, header.type = num, tarfile.XHDTYPE if name == "PaxHeaders" else tarfile.REGTYPE
    with gzip.open(tmp_path / "labels.tar.gz", "wb", compresslevel=1) as stream:
        stream.write(header.tobuf())
        for _ in range(num // 1_000_000):
            stream.write(bytes(1_000_000))
    with cheap():
        refused(lambda: unpack_labels(tmp_path / "labels.tar.gz"), "labels.tar.gz cannot be unpacked")
    assert not (tmp_path / "labels-unpacked").exists()


def test_shards_of_folders_are_read_as_the_webdataset_package_does(tmp_path: Path) -> None:
    """As `tar cf` of a folder makes them: entries of the folder, dots in its name, endings in capitals."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member(tar, "./v1.0", type=tarfile.DIRTYPE)
        for place in range(NUM):
            member(tar, f"./v1.0/{place}.JPG", picture(seed=place))
            member(tar, f"./v1.0/{place}.cls", str(place % CLASSES).encode())
        member(tar, "./v1.0/README", b"no ending")
        member(tar, "./v1.0/._0.jpg", b"left by a Mac")
    found = read_webdataset(tmp_path, Origin(TASK))
    assert found.labels.tolist() == LABELS.tolist()
    assert found.stored.shape == (NUM, *TASK.shape)


def test_a_shard_or_an_archive_that_stops_in_its_middle_is_told(tmp_path: Path) -> None:
    """tarfile takes a damaged header for the end, and would leave out the images behind it."""
    path = write_shards(tmp_path / "x") / "train-000000.tar"
    whole = path.read_bytes()
    place = whole.index(b"003.jpg")
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused(lambda: read(path.parent), "damaged or cut off")
    with tarfile.open(tmp_path / "labels.tar", "w") as tar:
        for number in range(3):
            member(tar, f"epoch_0/batch_{number}.tar", b"labels")
    damage = bytearray((tmp_path / "labels.tar").read_bytes())
    damage[damage.index(b"epoch_0/batch_1")] ^= 1
    (tmp_path / "labels.tar").write_bytes(damage)
    refused(lambda: unpack_labels(tmp_path / "labels.tar"), "damaged or cut off")


@pytest.mark.parametrize("cls", [b"", b"-1", b"1.5", b"3", b"99999999999999999999", "²".encode(), b"\xff", b"one"])
def test_classes_of_shards_that_are_none_are_told(tmp_path: Path, cls: bytes) -> None:
    members = [("0.jpg", picture()), ("0.cls", cls)]
    refused(lambda: read(write_shards(tmp_path / "x", members)), str(tmp_path))


def test_shards_that_hold_a_file_twice_or_lie_about_sizes_are_told(tmp_path: Path) -> None:
    twice = [("0.jpg", picture()), ("0.jpg", picture(seed=1)), ("0.cls", b"0")]
    refused(lambda: read(write_shards(tmp_path / "twice", twice)), "twice")
    path = write_shards(tmp_path / "large") / "train-000000.tar"
    header = tarfile.TarInfo("0.jpg")
    header.size = 1 << 40
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(lambda: read(path.parent), "says that it has")


GOOD = {"task": TASK.to_json(), "learning_rate": 0.125, "lost": [], "provenance": {"method": "x"}}
TEXT_OF_NOTE = json.dumps(GOOD)


def changed_note(**changed: Any) -> bytes:
    return json.dumps({**GOOD, **changed}).encode()


def changed_task(**changed: Any) -> bytes:
    return changed_note(task={**TASK.to_json(), **changed})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 200_000 + b"]" * 200_000,
        TEXT_OF_NOTE[:-1].encode() + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        *(TEXT_OF_NOTE.replace("0.125", rate).encode() for rate in ("1e400", "NaN", "-1", "0", "true", '"1"', "[1]")),
        TEXT_OF_NOTE.replace("0.125", "1" * 10_000).encode(),
        b"\xff\xfe" + TEXT_OF_NOTE.encode(),
        TEXT_OF_NOTE.encode("utf-16"),
        b"\xef\xbb\xbf" + TEXT_OF_NOTE.encode(),
        changed_task(class_names=["a", "a", "b"]),
        changed_task(class_names="abc"),
        changed_task(class_names=[["a"], ["b"], ["c"]]),
        changed_task(class_names=["\ud800", "b", "c"]),
        changed_task(height_px=1 << 60),
        changed_task(height_px=60_000, width_px=60_000),
        changed_task(height_px=8.5),
        changed_task(channels=4),
        changed_task(normalization={"mean": [nan] * 3, "std": [1, 1, 1]}),
        changed_task(normalization={"mean": [0.5] * 2, "std": [1, 1, 1]}),
        changed_task(normalization={"mean": [0.5] * 3, "std": [0, 0, 0]}),
        changed_task(normalization={"mean": "abc", "std": [1, 1, 1]}),
        changed_task(normalization={**TASK.normalization.to_json(), "whitening": {"kind": "zca"}}),
        changed_note(provenance=[1, 2]),
        changed_note(provenance={"settings": 3}),
        changed_note(provenance={"seed": "one"}),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_notes_that_make_no_sense_are_told_and_nothing_is_written(tmp_path: Path, text: bytes) -> None:
    path = write_tensors(tmp_path / "x")
    (path / "attar-export.json").write_bytes(text)
    refused(lambda: import_foreign(path, tmp_path / "out"), "attar-export.json is damaged")
    assert [found.name for found in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "changed", [{"labels_best": LABELS + 9}, {"images_best": torch.full((NUM, 3, SIDE, SIDE), nan)}]
)
def test_a_failed_import_leaves_what_was_there(tmp_path: Path, changed: dict[str, Any]) -> None:
    good = write_tensors(tmp_path / "good")
    (good / "attar-export.json").write_bytes(TEXT_OF_NOTE.encode())
    import_foreign(good, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    bad = write_tensors(tmp_path / "bad", **changed)
    (bad / "attar-export.json").write_bytes(TEXT_OF_NOTE.encode())
    refused(lambda: import_foreign(bad, tmp_path / "out", overwrite=True), "bad")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path.name for path in tmp_path.iterdir()} == {"good", "bad", "out"}


@pytest.mark.parametrize(
    ("mode", "kind", "grey"),
    [("CMYK", "JPEG", False), ("RGBA", "PNG", False), ("P", "PNG", False), ("LA", "PNG", True), ("1", "PNG", True)],
)
def test_images_of_any_mode_become_pixels(mode: str, kind: str, grey: bool) -> None:
    found = decode_images([("x", picture(kind, mode))])
    assert found.shape == (1, 1 if grey else 3, SIDE, SIDE)


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    deep, stream = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE), io.BytesIO()
    Image.fromarray(deep).save(stream, "PNG")
    found = decode_images([("deep.png", stream.getvalue())])
    assert found.shape == (1, 1, SIDE, SIDE)
    assert np.abs(found[0, 0] - deep / 257).max() <= 0.5


def test_what_is_transparent_is_laid_on_white_and_of_a_film_the_first_picture_is_taken() -> None:
    stream = io.BytesIO()
    clear, black = Image.new("RGBA", (2, 2), (255, 0, 0, 0)), Image.new("RGBA", (2, 2), (0, 0, 0, 255))
    clear.save(stream, "PNG", save_all=True, append_images=[black])
    assert (decode_images([("film.png", stream.getvalue())]) == 255).all()


@pytest.mark.parametrize("name", ["images_best.pt", "labels_best.pt", "lr_best.pt"])
def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path, name: str) -> None:
    path = write_tensors(tmp_path / "x")
    (path / name).unlink()
    (path / name).mkdir()
    if name == "lr_best.pt":  # which may be missing
        assert read(path).learning_rate is None
    else:
        refused(lambda: read(path), str(path))


def test_empty_folders_and_strange_files_are_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "empty/a").mkdir(parents=True)
    (tmp_path / "x.bin").write_bytes(b"x")
    for path in (tmp_path / "empty", tmp_path / "x.bin", tmp_path / "missing"):
        assert recognise(path) is None
        refused(lambda path=path: require_recognised(path), str(path))


def test_folders_without_permission_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the system's refusal, as tests may run as root."""
    write_folder(tmp_path / "x")

    def locked(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", locked)
    refused(lambda: read(tmp_path / "x"), "Permission denied", "to fix")


def test_judging_what_is_nothing_known_names_the_formats(tmp_path: Path) -> None:
    (tmp_path / "x/deeper").mkdir(parents=True)
    for path in (tmp_path / "x", tmp_path / "missing"):
        refused(lambda path=path: api.evaluate(path, "digits", quiet=True), str(path), "images_best.pt", "attar")
