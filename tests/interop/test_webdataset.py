from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bringing import bring_in, import_webdataset
from PIL import Image

from attar.artifacts.distilled import Distilled, write_distilled
from attar.artifacts.verify import verify
from attar.data.loading import MemorySplit
from attar.data.whitening import measure_whitening
from attar.errors import ArtifactError, AttarError
from attar.interop import EXPORTERS, webdataset
from attar.interop.webdataset import export_webdataset
from attar.methods.base import Distillate
from attar.runtime.events import Events
from attar.task import Task


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def png(value: int = 9, size: tuple[int, int] = (5, 6)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def same(back: Distilled, other: Distilled) -> bool:
    soft = back.soft_labels is None or (
        other.soft_labels is not None and torch.equal(back.soft_labels, other.soft_labels)
    )
    return (
        soft
        and torch.equal(back.images, other.images)
        and torch.equal(back.labels, other.labels)
        and (back.label_kind, back.learning_rate, back.task, back.exact_8bit)
        == (other.label_kind, other.learning_rate, other.task, other.exact_8bit)
    )


@pytest.mark.parametrize("kind", ["floats", "exact"])
def test_a_round_trip_loses_nothing(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    distilled: Distilled = request.getfixturevalue(kind)
    export = export_webdataset(distilled, tmp_path / "out")
    assert export.lost == ()
    back = import_webdataset(tmp_path / "out", tmp_path / "back")
    assert same(back, distilled)
    assert verify(tmp_path / "back").ok
    export_webdataset(distilled, tmp_path / "again")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_others_find_an_image_a_class_and_words(tmp_path: Path, exact: Distilled) -> None:
    export_webdataset(exact, tmp_path / "out")
    files = members(tmp_path / "out/train-000000.tar")
    assert list(files)[:3] == ["000000.png", "000000.cls", "000000.json"]
    assert [int(files[f"{place:06d}.cls"]) for place in range(8)] == exact.labels.tolist()
    assert json.loads(files["000002.json"]) == {"label": 2, "class_name": "a b/ç", "image_id": 2}
    pixels = np.asarray(Image.open(io.BytesIO(files["000003.png"])))
    assert np.array_equal(pixels.transpose(2, 0, 1), exact.stored[3].numpy())


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # it closes nothing
def test_webdataset_itself_reads_them(tmp_path: Path, floats: Distilled) -> None:
    wds = pytest.importorskip("webdataset")
    export_webdataset(floats, tmp_path / "out")
    data = wds.WebDataset(str(tmp_path / "out/train-000000.tar"), shardshuffle=False)
    rows = list(data.decode().to_tuple("image.npy", "cls", "soft.npy"))
    assert [label for _, label, _ in rows] == floats.labels.tolist()
    assert np.array_equal(np.stack([image for image, _, _ in rows]), floats.images.numpy())


def test_shards_end_before_they_are_too_large(
    tmp_path: Path, exact: Distilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "SHARD_BYTES", 12_000)
    export_webdataset(exact, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("train-*.tar"))
    assert len(shards) > 1
    assert sorted(name for shard in shards for name in members(shard)) == sorted(
        f"{place:06d}.{ending}" for place in range(8) for ending in ("png", "cls", "json")
    )
    assert same(import_webdataset(tmp_path / "out", tmp_path / "back"), exact)


@pytest.mark.parametrize("exact_8bit", [False, True])
@pytest.mark.parametrize("to", EXPORTERS)
def test_whitened_images_come_back_with_their_matrix_or_it_is_said(
    tmp_path: Path, task: Task, to: str, exact_8bit: bool
) -> None:
    pixels = torch.randint(256, (8, *task.shape), dtype=torch.uint8)
    whitening = measure_whitening(MemorySplit(pixels, torch.zeros(8)), task.shape, 0.1, Events(quiet=True))
    task = replace(task, normalization=replace(task.normalization, whitening=whitening))
    images = task.normalization.normalize(pixels)
    distillate = Distillate(images, torch.arange(4).repeat(2), exact_8bit=exact_8bit)
    distilled = write_distilled(tmp_path / "white", distillate, task)
    export = EXPORTERS[to][0](distilled, tmp_path / "out")
    back = bring_in(to, tmp_path / "out", tmp_path / "back")
    if to in ("imagefolder", "medmnist"):
        assert "whitening" in export.lost[-1]
        assert back.task.normalization == replace(task.normalization, whitening=None)
        assert torch.equal(back.stored, pixels)
    else:
        assert back.task == task
        assert torch.equal(back.images, distilled.images)
        assert bool(export.lost) == (exact_8bit and to == "webdataset")


def test_shards_of_other_programs_need_a_task(tmp_path: Path, task: Task) -> None:
    files = {"a.jpg": png(), "a.cls": b"2", "b.jpg": png(), "b.cls": b"0\n", "b.txt": b"x"}
    shard = pack(tmp_path / "theirs/part.tar", files)
    with pytest.raises(ArtifactError, match="shards only"):
        import_webdataset(shard, tmp_path / "out")
    back = import_webdataset(shard.parent, tmp_path / "out", task=task)
    assert back.labels.tolist() == [2, 0]
    assert back.exact_8bit


def test_shards_of_samples_with_named_fields(tmp_path: Path, task: Task) -> None:
    files = {"a.image.png": png(), "a.label.cls": b"2", "b.image.png": png(), "b.label.cls": b"0"}
    back = import_webdataset(pack(tmp_path / "a.tar", files), tmp_path / "out", task=task)
    assert back.labels.tolist() == [2, 0]
    several = {"a.left.png": png(), "a.right.png": png(), "a.cls": b"0"}
    with pytest.raises(ArtifactError, match="has no image"):
        import_webdataset(pack(tmp_path / "b.tar", several), tmp_path / "more", task=task)


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "no class": ({"a.png": png()}, "has no class"),
    "class": ({"a.png": png(), "a.cls": b"two"}, "has no class"),
    "range": ({"a.png": png(), "a.cls": b"4"}, r"outside 0\.\.3"),
    "no image": ({"a.cls": b"0"}, "has no image"),
    "image": ({"a.png": b"no image", "a.cls": b"0"}, "cannot be read"),
    "size": ({"a.png": png(size=(6, 6)), "a.cls": b"0"}, "has 6x6 px"),
    "empty": ({}, "holds no images"),
    "npy": ({"a.png": png(), "a.cls": b"0", "a.image.npy": b"\x93NUMPY\x01\x00"}, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_shards_are_told(tmp_path: Path, task: Task, case: str) -> None:
    files, message = BAD[case]
    with pytest.raises(AttarError, match=message):
        import_webdataset(pack(tmp_path / "bad/a.tar", files), tmp_path / "out", task=task)
    assert not (tmp_path / "out").exists()


def test_hostile_members_are_refused(tmp_path: Path, task: Task) -> None:
    shard = tmp_path / "evil.tar"
    for kind, message in ((tarfile.SYMTYPE, "no plain file"), (tarfile.REGTYPE, "says that it has|cannot be read")):
        with tarfile.open(shard, "w") as tar:
            member = tarfile.TarInfo("../a.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        if kind == tarfile.REGTYPE:
            member.size = 1 << 40
            shard.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(ArtifactError, match=message):
            import_webdataset(shard, tmp_path / "out", task=task)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    pack(shard, {"a.png": png(), "a.cls": b"0", "a.image.npy": header.getvalue()})
    with pytest.raises(ArtifactError, match=r"image\.npy cannot be read: float32 \(1099511627776,\)"):
        import_webdataset(shard, tmp_path / "out", task=task)
