"""A distilled dataset of whitened images: stored, opened elsewhere, damaged, and unlike one that is not whitened."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor

from attar.artifacts import whitening as files
from attar.artifacts.checksums import write_sums
from attar.artifacts.distilled import load_distilled, write_distilled
from attar.artifacts.verify import verify
from attar.data.loading import MemorySplit
from attar.data.whitening import measure_whitening
from attar.errors import ArtifactError
from attar.methods.base import Distillate
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.task import Task, Whitening

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")


def real(task: Task) -> Tensor:
    return torch.randint(256, (200, *task.shape), generator=generator(0, "real"), dtype=torch.uint8)


def measured(task: Task, epsilon: float = 0.1) -> Whitening:
    split = MemorySplit(real(task), torch.zeros(200))
    return measure_whitening(split, task.shape, epsilon, Events(quiet=True))


@pytest.fixture
def white(task: Task) -> Task:
    return task.whitened(measured(task))


@pytest.fixture
def folder(tmp_path: Path, white: Task, floats: Distillate) -> Path:
    write_distilled(tmp_path / "run/distilled", floats, white)
    return tmp_path / "run/distilled"


def test_it_opens_elsewhere_as_it_was_written(folder: Path, tmp_path: Path, white: Task, floats: Distillate) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    opened = load_distilled(tmp_path / "elsewhere")
    assert opened.task == white
    assert torch.equal(opened.images, floats.images)
    assert torch.equal(opened.task.normalization.normalize(real(white)), white.normalization.normalize(real(white)))
    assert torch.equal(opened.pixels(), white.normalization.pixels(floats.images))
    assert verify(tmp_path / "elsewhere").problems == []


def test_its_pictures_are_pixels(folder: Path, white: Task, floats: Distillate) -> None:
    from attar.artifacts.parquet import read_shard

    (block,) = read_shard(folder / "data/train-00000-of-00001.parquet", white.shape)
    expected = white.normalization.pixels(floats.images).clamp(0, 1).mul(255).round().byte()
    assert torch.equal(torch.from_numpy(block.pixels), expected)
    assert torch.equal(load_distilled(folder).pixels_8bit(), expected)


def test_real_images_are_stored_as_pixels_and_whitened_when_asked_for(tmp_path: Path, white: Task) -> None:
    pixels = real(white)[: white.num_classes]
    images = white.normalization.normalize(pixels)
    distillate = Distillate(images, torch.arange(white.num_classes), exact_8bit=True)
    opened = write_distilled(tmp_path / "d", distillate, white)
    assert torch.equal(opened.stored, pixels)
    assert torch.equal(opened.pixels_8bit(), pixels)
    torch.testing.assert_close(opened.images, images, rtol=0, atol=1e-5)
    assert verify(tmp_path / "d").problems == []
    assert not list((tmp_path / "d").glob("pixels-*"))


def test_the_matrix_counts_towards_the_size_and_is_half_of_what_it_was(folder: Path, white: Task) -> None:
    d = math.prod(white.shape)
    opened = load_distilled(folder)
    size = (folder / "whitening.safetensors").stat().st_size
    assert opened.sizes["whitening"] == size
    assert 4 * (d + d * (d + 1) // 2) < size < 4 * (d + d * (d + 1) // 2) + 300
    assert opened.sizes["total"] == sum(size for name, size in opened.sizes.items() if name != "total")
    card = (folder / "README.md").read_text()
    assert "kB of whitening" in card
    assert "whitened (ZCA) by the matrix in `whitening.safetensors`" in card


def test_the_description_names_it(folder: Path, white: Task) -> None:
    info = json.loads((folder / "attar.json").read_text())
    assert info["format_version"] == 3
    whitening = white.normalization.whitening
    assert whitening is not None
    named = {"kind": "zca", "epsilon": 0.1, "fingerprint": whitening.fingerprint}
    assert info["task"]["normalization"]["whitening"] == named
    assert info["files"]["whitening"] == "whitening.safetensors"
    mean, triangle = files.read_whitening(folder, math.prod(white.shape))
    assert files.fingerprint(mean, triangle) == whitening.fingerprint


def test_without_whitening_nothing_is_told_of_it(tmp_path: Path, task: Task, floats: Distillate) -> None:
    write_distilled(tmp_path / "d", floats, task)
    text = (tmp_path / "d/attar.json").read_text() + (tmp_path / "d/README.md").read_text()
    assert "whiten" not in text
    assert json.loads((tmp_path / "d/attar.json").read_text())["format_version"] == 2
    assert list(json.loads((tmp_path / "d/attar.json").read_text())["sizes"]) == [
        "images",
        "labels",
        "teacher",
        "total",
    ]


def edit(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def tell(folder: Path) -> None:
        tensors = safetensors.numpy.load_file(folder / "whitening.safetensors")
        change(tensors)
        (folder / "whitening.safetensors").write_bytes(safetensors.numpy.save(tensors))

    return tell


def edit_json(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def tell(folder: Path) -> None:
        values = json.loads((folder / "attar.json").read_text())
        change(values)
        (folder / "attar.json").write_text(json.dumps(values))

    return tell


def put(name: str, value: float) -> Callable[[Path], None]:
    return edit(lambda t: t[name].__setitem__(3, value))


LIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another value": (put("matrix", 0.25), "another matrix"),
    "another mean": (put("mean", 0.25), "another matrix"),
    "not finite": (put("matrix", np.nan), "not finite"),
    "other type": (edit(lambda t: t.update(matrix=t["matrix"].astype(np.float64))), r"matrix F64 \(4095,\)"),
    "other size": (edit(lambda t: t.update(matrix=t["matrix"][1:])), r"matrix F32 \(4094,\)"),
    "a tensor more": (edit(lambda t: t.update(more=np.zeros(3, np.float32))), "more F32"),
    "missing": (lambda folder: (folder / "whitening.safetensors").unlink(), r"whitening\.safetensors is missing"),
    "text": (lambda folder: (folder / "whitening.safetensors").write_text("no matrix"), "whitening.* damaged"),
    "not named": (edit_json(lambda v: v["task"]["normalization"].pop("whitening")), "disagree on whether"),
    "no file named": (edit_json(lambda v: v["files"].pop("whitening")), "disagree on whether"),
    "no size": (edit_json(lambda v: (v["sizes"].pop("whitening"), measured_total(v))), "disagree on whether"),
    "other size told": (
        edit_json(lambda v: (v["sizes"].update(whitening=7), measured_total(v))),
        "7 bytes of whitening",
    ),
    "older version": (edit_json(lambda v: v.update(format_version=2)), "what it holds needs 3"),
    "other fingerprint": (
        edit_json(lambda v: v["task"]["normalization"]["whitening"].update(fingerprint="0" * 64)),
        "another matrix",
    ),
    "file outside": (edit_json(lambda v: v["files"].update(whitening="../whitening.safetensors")), "files.whitening"),
    "huge images": (edit_json(lambda v: v["task"].update(height_px=60000, width_px=60000)), "it holds matrix F32"),
}


def measured_total(values: dict) -> None:
    values["sizes"]["total"] = sum(size for name, size in values["sizes"].items() if name != "total")


@pytest.mark.parametrize("case", LIES)
def test_a_lie_is_found_though_the_sums_hold(folder: Path, case: str) -> None:
    tell, message = LIES[case]
    tell(folder)
    write_sums(folder)
    problems = verify(folder).problems
    assert any(re.search(message, problem) for problem in problems), problems
    if case != "other size told":
        with pytest.raises(ArtifactError):
            load_distilled(folder)


def test_a_changed_byte_is_found_by_the_sums(folder: Path) -> None:
    put("matrix", 0.25)(folder)
    assert verify(folder).problems == [
        "whitening.safetensors is damaged: its bytes are not those that SHA256SUMS lists"
    ]
    with pytest.raises(ArtifactError, match=r"whitening\.safetensors is damaged"):
        load_distilled(folder)


def test_a_matrix_that_cannot_be_undone_is_found(folder: Path) -> None:
    put("matrix", 9.0)(folder)
    found = safetensors.numpy.load_file(folder / "whitening.safetensors")
    name = files.fingerprint(found["mean"], found["matrix"])
    edit_json(lambda v: v["task"]["normalization"]["whitening"].update(fingerprint=name))(folder)
    write_sums(folder)
    assert verify(folder).problems == ["whitening.safetensors is damaged: its matrix is not positive definite"]


def test_previews_of_other_images_are_found(folder: Path) -> None:
    images = safetensors.numpy.load_file(folder / "pixels-00000.safetensors")["images"].copy()
    images[5] *= 0.9
    (folder / "pixels-00000.safetensors").write_bytes(safetensors.numpy.save({"images": images}))
    write_sums(folder)
    (problem,) = verify(folder).problems
    assert re.search("1 of 14 previews .* the first is 5", problem)


def test_the_page_on_formats_tells_how_to_whiten(tmp_path: Path, white: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = real(white)[: white.num_classes]
    distillate = Distillate(white.normalization.normalize(pixels), torch.arange(white.num_classes), exact_8bit=True)
    opened = write_distilled(tmp_path / "runs/mine/distilled", distillate, white)
    block = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "whitening" in b)
    names = {"folder": opened.path, "about": opened.info, "pixels": pixels.permute(0, 2, 3, 1).numpy()}
    exec("import numpy as np\nfrom safetensors.numpy import load_file\n" + block, names)
    theirs = torch.from_numpy(names["normalised"](names["pixels"]))
    torch.testing.assert_close(theirs, opened.images, rtol=0, atol=1e-5)
