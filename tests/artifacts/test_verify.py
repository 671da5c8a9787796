from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.artifacts import parquet
from attar.artifacts.checksums import NAME as SUMS
from attar.artifacts.checksums import files_of, write_sums
from attar.artifacts.distilled import write_distilled
from attar.artifacts.verify import verify
from attar.errors import ArtifactError, AttarError
from attar.methods.base import Distillate
from attar.task import Task

SHARD = "data/train-00000-of-00001.parquet"


@pytest.fixture
def folder(tmp_path: Path, task: Task, floats: Distillate, provenance: dict[str, Any]) -> Path:
    write_distilled(tmp_path / "run/distilled", floats, task, provenance)
    return tmp_path / "run/distilled"


def test_a_fresh_dataset_has_no_problems(folder: Path, tmp_path: Path, task: Task, exact: Distillate) -> None:
    report = verify(folder)
    assert report.problems == []
    assert report.ok
    assert report.files == len(files_of(folder)) == 6
    assert report.bytes == sum((folder / name).stat().st_size for name in files_of(folder))
    assert verify(folder.parent).path == folder
    write_distilled(tmp_path / "exact", exact, task)
    assert verify(tmp_path / "exact").ok


def test_sha256sum_agrees(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True, capture_output=True)


def test_it_needs_no_torch() -> None:
    code = "import sys, attar.artifacts.verify; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_flipped_byte_is_found(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [*files_of(folder), SUMS]:
        good = (folder / name).read_bytes()
        for place in {0, len(good) - 1, *rng.integers(0, len(good), 4).tolist()}:
            bad = bytearray(good)
            bad[place] ^= 1 << int(rng.integers(0, 8))
            (folder / name).write_bytes(bad)
            problems = verify(folder).problems
            assert problems, (name, place)
            assert name == SUMS or any(name in problem for problem in problems)
        (folder / name).write_bytes(good)
    assert verify(folder).ok


def test_every_truncated_missing_or_added_file_is_found(folder: Path) -> None:
    for name in [*files_of(folder), SUMS]:
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(good[: len(good) // 2])
        assert any(name in problem for problem in verify(folder).problems), name
        (folder / name).unlink()
        assert any(f"{name} is missing" in problem for problem in verify(folder).problems), name
        (folder / name).write_bytes(good)
    (folder / "data/extra.parquet").touch()
    assert verify(folder).problems == ["data/extra.parquet is not listed in SHA256SUMS"]


def test_what_the_hub_lays_beside_is_left_alone(folder: Path) -> None:
    (folder / ".gitattributes").touch()
    (folder / ".cache/huggingface").mkdir(parents=True)
    (folder / ".cache/huggingface/x.lock").touch()
    assert verify(folder).ok


def edit_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "attar.json").read_text())
        change(values)
        (folder / "attar.json").write_text(json.dumps(values))

    return edit


def edit_rows(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = safetensors.numpy.load_file(folder / name)
        changed = {key: np.ascontiguousarray(change(rows.copy())) for key, rows in tensors.items()}
        (folder / name).write_bytes(safetensors.numpy.save(changed))

    return edit


def edit_shard(change: Callable[[parquet.Block], dict[str, Any]]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (shard,) = parquet.read_shard(folder / SHARD, (3, 6, 5))
        values = {"pixels": shard.pixels, "labels": shard.labels, "class_names": shard.class_names, **change(shard)}
        parquet.write_shards(folder, **values)

    return edit


def put(value: object) -> Callable[[Any], Any]:
    def change(rows: Any) -> Any:
        rows[1].flat[2] = value
        return rows

    return change


def swap(names: list[str]) -> None:
    names[0], names[1] = names[1], names[0]


def relabel(shard: parquet.Block) -> dict[str, Any]:
    return {"labels": np.where(np.arange(len(shard.labels)) == 3, 7, shard.labels)}


def repaint(shard: parquet.Block) -> dict[str, Any]:
    pixels = shard.pixels.copy()
    pixels[5, 0, 0, 0] ^= 1
    return {"pixels": pixels}


LIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "classes swapped": (edit_json(lambda v: swap(v["task"]["class_names"])), "class 0 is 'yes' in data/train"),
    "class dropped in parquet": (edit_shard(lambda s: {"class_names": s.class_names[:-1]}), "names 6 classes"),
    "classes swapped in the card": (
        lambda f: (f / "README.md").write_text((f / "README.md").read_text().replace("'5':", "'6':", 1)),
        "README.md",
    ),
    "no header in the card": (lambda f: (f / "README.md").write_text("# no"), "no readable YAML header"),
    "label out of range": (edit_shard(relabel), r"1 of 14 labels lie outside 0\.\.6, the first is 7 of image 3"),
    "fewer images": (edit_shard(lambda s: {"pixels": s.pixels[:9], "labels": s.labels[:9]}), "holds 9 images"),
    "image of another size": (edit_shard(lambda s: {"pixels": s.pixels[..., :4]}), "RGB of 4x6 px where RGB of 5x6"),
    "grey image": (edit_shard(lambda s: {"pixels": s.pixels[:, :1]}), "L of 5x6 px where RGB"),
    "preview of other pixels": (edit_shard(repaint), "1 of 14 previews .* the first is 5"),
    "nan pixel": (edit_rows("pixels-00000.safetensors", put(np.nan)), "1 of 14 images .* not finite, the first is 1"),
    "infinite pixel": (edit_rows("pixels-00000.safetensors", put(-np.inf)), "not finite"),
    "pixel out of range": (edit_rows("pixels-00000.safetensors", put(1e3)), "reach from .* to 1000, outside"),
    "fewer float images": (edit_rows("pixels-00000.safetensors", lambda r: r[:3]), "holds 3 rows"),
    "float64 images": (edit_rows("pixels-00000.safetensors", lambda r: r.astype(np.float64)), "F64 rows"),
    "flat images": (edit_rows("pixels-00000.safetensors", lambda r: r.reshape(14, -1)), r"shape \(90,\)"),
    "negative probability": (edit_rows("labels-00000.safetensors", put(-0.5)), "negative"),
    "nan probability": (edit_rows("labels-00000.safetensors", put(np.nan)), "not finite"),
    "sum of probabilities": (edit_rows("labels-00000.safetensors", put(0.9)), "soft labels of image 1 sum to"),
    "other tensor name": (
        lambda f: (f / "pixels-00000.safetensors").write_bytes(safetensors.numpy.save({"x": np.zeros(3)})),
        r"tensors \['x'\]",
    ),
    "text for parquet": (lambda f: (f / SHARD).write_text("PAR1 not PAR1"), "train-00000-of-00001.parquet is damaged"),
    "text for safetensors": (lambda f: (f / "labels-00000.safetensors").write_text("no"), "not|damaged"),
    "size": (
        edit_json(lambda v: v["sizes"].update(images=1, total=1 + v["sizes"]["labels"])),
        "says 1 bytes of images",
    ),
    "sum of sizes": (edit_json(lambda v: v["sizes"].update(total=1)), "not the sum"),
    "count": (edit_json(lambda v: v.update(num_images=15)), "attar.json says 15"),
    "no count": (edit_json(lambda v: v.pop("num_images")), "num_images: Field required"),
    "count in words": (edit_json(lambda v: v.update(num_images="14")), "num_images: Input should be a valid integer"),
    "rate": (edit_json(lambda v: v.update(learning_rate=float("inf"))), "learning_rate"),
    "range": (edit_json(lambda v: v.update(image_range=[-1e30, 1e30])), "image_range must ascend"),
    "std of zero": (edit_json(lambda v: v["task"]["normalization"]["std"].__setitem__(0, 0.0)), "greater than 0"),
    "file outside": (edit_json(lambda v: v["files"].update(images=["../../secret"])), r"files\.images\.0"),
    "file not there": (
        edit_json(lambda v: v["files"]["pixels"].append("pixels-00001.safetensors")),
        "00001.* is missing",
    ),
    "newer format": (edit_json(lambda v: v.update(format_version=99)), "format version 99"),
    "no json": (lambda f: (f / "attar.json").write_text("[" * 100_000), "does not describe"),
    "other json": (lambda f: (f / "attar.json").write_text("[]"), "does not describe"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lie_is_found_though_the_sums_hold(folder: Path, case: str) -> None:
    tell, message = LIES[case]
    tell(folder)
    write_sums(folder)
    problems = verify(folder).problems
    assert problems
    assert any(re.search(message, problem) for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense\n", f"{'0' * 64}  ../../etc/passwd\n", f"{'0' * 64}  /etc/passwd\n", f"{'0' * 64}  a\n" * 2, "\0"],
)
def test_damaged_sums_are_told(folder: Path, text: str) -> None:
    (folder / SUMS).write_text(text)
    problems = verify(folder).problems
    assert any(SUMS in problem for problem in problems)
    (folder / SUMS).write_bytes(b"\xff\xfe")
    assert any(SUMS in problem for problem in verify(folder).problems)


def test_without_sums_the_content_is_still_checked(folder: Path) -> None:
    (folder / SUMS).unlink()
    edit_rows("pixels-00000.safetensors", put(np.nan))(folder)
    problems = verify(folder).problems
    assert len(problems) == 2
    assert "not finite" in problems[1]


def test_strange_files_are_told_and_not_opened(folder: Path) -> None:
    (folder / "preview.png").unlink()
    os.mkfifo(folder / "preview.png")
    (folder / "bad\x1b[31m\nname").touch()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "attar.json").unlink()
    (folder / "attar.json").mkdir()
    text = "\n".join(verify(folder).problems)
    assert "preview.png is not a plain file" in text
    assert "bad\\x1b[31m name is not listed" in text
    assert "dangling is not listed" in text
    assert "attar.json is not a plain file" in text


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no folder"):
        verify(tmp_path / "none")
    (tmp_path / "cat.png").touch()
    with pytest.raises(ArtifactError, match="is no distilled dataset: it has neither"):
        verify(tmp_path)
    (tmp_path / "attar.json").touch()
    assert verify(tmp_path).problems


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_damage_with_fresh_sums_never_escapes_as_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    from attar.artifacts.distilled import load_distilled

    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        _write_small(folder)
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    name = data.draw(st.sampled_from([n for n in files_of(folder) if n != "preview.png"]))
    content = bytearray((copy / name).read_bytes())
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[place] = value
    (copy / name).write_bytes(content[: data.draw(st.sampled_from([None, len(content) // 2]))])
    write_sums(copy)
    report = verify(copy)
    try:
        load_distilled(copy)
    except AttarError:
        assert not report.ok


def _write_small(folder: Path) -> None:
    import torch

    from attar.task import Normalization

    images = torch.linspace(-1, 1, 12).view(3, 1, 2, 2)
    distillate = Distillate(images, torch.arange(3), torch.eye(3))
    write_distilled(folder, distillate, Task(("a", "b", "c"), 1, 2, 2, Normalization((0.5,), (0.5,))))
