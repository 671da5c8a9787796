"""Images and labels in one file, and sets in numbered parts."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

import attar
from attar.artifacts.distilled import write_distilled
from attar.errors import AttarError, ConfigError, DataError
from attar.interop import EXPORTERS
from attar.interop.foreign import READERS, recognise, require_recognised
from attar.interop.loaded import Loaded, Origin
from attar.interop.parts import numbered
from attar.interop.settings import ForeignSettings
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task
from damage import refusals

TASK = Task(("ant", "bee"), 3, 8, 8, Normalization((0.5,) * 3, (0.25,) * 3))
IMAGES = torch.rand(6, 3, 8, 8, generator=generator(0, "pairs"))
LABELS = torch.arange(6) % 2
BYTES = (IMAGES * 255).round().to(torch.uint8)
Values = dict[str, Tensor]


def save_pt(path: Path, values: Values) -> None:
    torch.save(values, path)


def save_list(path: Path, values: Values) -> None:
    torch.save([values["images"], values["labels"]], path)


def save_npz(path: Path, values: Values) -> None:
    np.savez_compressed(path, **{name: value.numpy() for name, value in values.items()})


def save_safetensors(path: Path, values: Values) -> None:
    safetensors.torch.save_file({name: value.contiguous() for name, value in values.items()}, path)


WRITERS: dict[str, tuple[str, Callable[[Path, Values], None]]] = {
    "dict": ("x.pt", save_pt),
    "list": ("x.pth", save_list),
    "npz": ("x.npz", save_npz),
    "safetensors": ("x.safetensors", save_safetensors),
}


def read(path: Path, **settings: Any) -> Loaded:
    foreign = ForeignSettings(**{"pixels": "unit", **settings})
    return require_recognised(path).read(Origin(TASK), foreign)


@pytest.mark.parametrize("kind", WRITERS)
def test_images_and_labels_in_one_file(tmp_path: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / name, {"images": IMAGES, "labels": LABELS})
    found = recognise(tmp_path / name)
    assert found is not None
    assert found.resolution(ForeignSettings()) == 8
    loaded = read(tmp_path / name)
    assert torch.equal(loaded.stored, TASK.normalization.normalize(IMAGES))
    assert torch.equal(loaded.labels, LABELS)
    write(tmp_path / name, {"images": BYTES, "labels": LABELS})
    assert torch.equal(read(tmp_path / name, pixels="auto").stored, BYTES)
    with pytest.raises(ConfigError, match=r"foreign\.part=1, and .* holds 1 set"):
        read(tmp_path / name, part=1)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_folder_with_one_such_file(tmp_path: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / name, {"images": IMAGES, "labels": LABELS})
    assert torch.equal(read(tmp_path).labels, LABELS)


def test_channels_last_labels_in_a_column_soft_labels_and_the_rate(tmp_path: Path) -> None:
    last = {"images": BYTES.permute(0, 2, 3, 1), "labels": LABELS[:, None], "lr": torch.tensor(0.02)}
    save_npz(tmp_path / "x.npz", last)
    loaded = read(tmp_path / "x.npz", pixels="auto")
    assert torch.equal(loaded.stored, BYTES)
    assert torch.equal(loaded.labels, LABELS)
    assert loaded.learning_rate == pytest.approx(0.02)
    soft = torch.eye(2)[LABELS] * 0.5 + 0.25
    save_pt(tmp_path / "y.pt", {"images": IMAGES, "soft_labels": soft})
    loaded = read(tmp_path / "y.pt")
    assert loaded.soft_labels is not None
    assert torch.equal(loaded.soft_labels, soft)
    assert torch.equal(loaded.labels, LABELS)


def test_what_holds_no_pair_is_told(tmp_path: Path) -> None:
    for name, write in (WRITERS["dict"], WRITERS["npz"], WRITERS["safetensors"]):
        write(tmp_path / name, {"weight": IMAGES, "bias": LABELS})
        with pytest.raises(
            AttarError, match=r"holds (weight, bias|bias, weight), which are no images with labels(.|\n)*\[images, lab"
        ):
            read(tmp_path / name)


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_read_or_told(tmp_path: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / name, {"images": BYTES, "labels": LABELS})
    assert refusals(tmp_path / name, lambda: read(tmp_path / name, pixels="auto"), 4)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("form", ["images_best_{}", "images_part{}", "images-part-{}"])
def test_parts_with_labels_beside_them_are_joined_in_order(tmp_path: Path, form: str, first: int) -> None:
    for number in range(11):
        name = form.format(number + first)
        torch.save(IMAGES + number, tmp_path / f"{name}.pt")
        torch.save(LABELS, tmp_path / f"{name.replace('images', 'labels')}.pt")
    loaded = read(tmp_path, pixels="normalized", normalization="source")
    assert torch.equal(loaded.stored, torch.cat([IMAGES + number for number in range(11)]))
    assert torch.equal(loaded.labels, LABELS.repeat(11))
    assert loaded.read_as.endswith("11 parts joined")
    assert loaded.image_bytes == 11 * IMAGES.nbytes
    (tmp_path / f"{form.format(first + 3)}.pt").rename(tmp_path / "elsewhere")
    with pytest.raises(AttarError, match=f"10 parts of a set; missing are {first + 3}"):
        require_recognised(tmp_path).read(Origin(TASK), ForeignSettings())


def test_parts_that_hold_both(tmp_path: Path) -> None:
    for number in range(2):
        save_npz(tmp_path / f"set-{number:05d}-of-00002.npz", {"images": BYTES[3 * number :][:3], "labels": LABELS[:3]})
    assert torch.equal(read(tmp_path, pixels="auto").stored, BYTES)
    (tmp_path / "set-00001-of-00002.npz").rename(tmp_path / "elsewhere")
    with pytest.raises(AttarError, match="1 parts of a set; missing are 1"):
        require_recognised(tmp_path)


@pytest.mark.parametrize("names", [("set_part1", "set_part2000000"), ("set-00000-of-2000000",)])
def test_numbers_in_names_take_no_memory(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / f"{name}.npz").touch()
    first = 1 if "set_part1" in names else 0
    others = ", ".join(str(first + number) for number in range(1, 11))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"{len(names)} parts of a set; missing are {others}\n"):
            numbered(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_states_at_several_iterations_are_no_parts(tmp_path: Path) -> None:
    for number in (0, 1):
        torch.save(IMAGES, tmp_path / f"images_{number}.pt")
        torch.save(LABELS, tmp_path / f"labels_{number}.pt")
    with pytest.raises(DataError, match="give one of the 2 sets in it"):
        require_recognised(tmp_path)


@pytest.mark.parametrize(("kind", "options"), [("webp", {"lossless": True}), ("bmp", {}), ("tif", {}), ("png", {})])
def test_class_folders_of_any_kind_of_image(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    for number, (image, label) in enumerate(zip(BYTES, LABELS.tolist(), strict=True)):
        folder = tmp_path / TASK.class_names[label]
        (folder / ".ipynb_checkpoints").mkdir(parents=True, exist_ok=True)
        made = Image.fromarray(image.permute(1, 2, 0).numpy())
        made.save(folder / f"{number}.{kind}", **options)
        made.save(folder / ".ipynb_checkpoints" / f"{number}-checkpoint.{kind}", **options)
    (tmp_path / "__MACOSX").mkdir()
    loaded = read(tmp_path)
    assert torch.equal(loaded.stored, torch.cat([BYTES[LABELS == 0], BYTES[LABELS == 1]]))


def test_images_that_hold_others_are_told_by_a_setting(tmp_path: Path) -> None:
    save_pt(tmp_path / "x.pt", {"images": IMAGES, "labels": LABELS})
    assert read(tmp_path / "x.pt").open().tiles == 1
    found = read(tmp_path / "x.pt", tiles=2)
    assert found.open().tiles == 2
    assert len(found.open().dataset()) == 4 * len(IMAGES)
    assert found.write(tmp_path / "set", overwrite=False).tiles == 2
    with pytest.raises(ConfigError, match=r"foreign\.tiles=9 for images of"):
        read(tmp_path / "x.pt", tiles=9)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_an_export_says_that_images_hold_others_and_brings_it_back(tmp_path: Path, kind: str) -> None:
    images = TASK.normalization.normalize(BYTES)
    made = write_distilled(tmp_path / "set", Distillate(images, LABELS, exact_8bit=True, tiles=2), TASK)
    export = attar.export(made.path, tmp_path / "out", kind)
    assert "2 by 2 others" in export.lost[-1]
    if kind in READERS:
        assert attar.import_(tmp_path / "out", tmp_path / "back").tiles == 2
