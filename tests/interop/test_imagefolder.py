from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bringing import import_imagefolder
from PIL import Image
from torchvision.datasets import ImageFolder

from attar.artifacts.distilled import Distilled
from attar.artifacts.verify import verify
from attar.errors import ArtifactError, DataError, ResourceError
from attar.interop import EXPORTERS
from attar.interop.foreign import READERS
from attar.interop.imagefolder import export_imagefolder, folder_names, read_imagefolder
from attar.task import Normalization, Task


def draw(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (4, 3), value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).convert(mode).save(path)


def test_registry_names_functions_and_says_what_they_are() -> None:
    assert set(READERS) == {"imagefolder", "tensors", "webdataset"}
    assert set(EXPORTERS) == {*READERS, "medmnist"}
    assert EXPORTERS["imagefolder"][0] is export_imagefolder
    assert READERS["imagefolder"] is read_imagefolder
    assert all(text for _, text in EXPORTERS.values())


def test_others_read_the_export_with_labels_in_order(tmp_path: Path, exact: Distilled) -> None:
    export = export_imagefolder(exact, tmp_path / "out")
    folder = ImageFolder(str(tmp_path / "out"))
    assert sorted(label for _, label in folder.samples) == sorted(exact.labels.tolist())
    for path, label in folder.samples:
        place = int(Path(path).stem)
        assert exact.labels[place] == label
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(exact.task.normalization.normalize(pixels[None])[0], exact.images[place])
    assert export.lost == ()
    assert export.files == 8 + len(["attar-export.json", "loader.py"])
    assert export.bytes == sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())


def test_what_8_bits_lose_is_said(tmp_path: Path, floats: Distilled) -> None:
    lost = export_imagefolder(floats, tmp_path / "out").lost
    assert [text.split(" ")[0] for text in lost] == ["float", "soft", "the"]
    back = import_imagefolder(tmp_path / "out", tmp_path / "back")
    assert (back.pixels() - floats.pixels().clamp(0, 1)).abs().max() < 0.51 / 255
    assert back.soft_labels is None


def test_real_pixels_come_back_bit_identical_and_in_order(tmp_path: Path, exact: Distilled) -> None:
    export_imagefolder(exact, tmp_path / "out")
    back = import_imagefolder(tmp_path / "out", tmp_path / "back")
    assert torch.equal(back.images, exact.images)
    assert torch.equal(back.labels, exact.labels)
    assert back.task == exact.task
    assert back.info["seed"] == 7
    assert back.info["imported_from"] == "imagefolder"
    assert verify(tmp_path / "back").ok


def test_folder_names_are_safe_and_sort_as_labels() -> None:
    names = [f"/{i}\0é" for i in range(120)]
    folders = folder_names(names)
    assert folders == sorted(folders)
    assert folders[7] == "class007_7"
    assert folder_names(["..", "a b", ""]) == ["class00", "class01_a_b", "class02"]


def test_a_folder_of_anybody_is_imported_with_its_own_statistics(tmp_path: Path) -> None:
    draw(tmp_path / "src/train/wolf/1.png", value=51)
    draw(tmp_path / "src/train/ant/b.PNG", value=153)
    draw(tmp_path / "src/train/ant/a.png", value=153)
    (tmp_path / "src/train/ant/notes.txt").touch()
    back = import_imagefolder(tmp_path / "src", tmp_path / "out")
    assert back.task.class_names == ("ant", "wolf")
    assert back.labels.tolist() == [0, 0, 1]
    assert back.task.shape == (3, 3, 4)
    assert back.task.normalization.mean == pytest.approx((1.4 / 3,) * 3)
    assert torch.allclose(back.pixels()[:, 0, 0, 0], torch.tensor([0.6, 0.6, 0.2]))
    assert verify(tmp_path / "out").ok


def test_grey_images_stay_grey_unless_mixed(tmp_path: Path) -> None:
    draw(tmp_path / "src/a/1.png", mode="L")
    draw(tmp_path / "src/a/2.png", mode="1")
    assert import_imagefolder(tmp_path / "src", tmp_path / "grey").task.channels == 1
    draw(tmp_path / "src/a/3.jpg")
    assert import_imagefolder(tmp_path / "src", tmp_path / "mixed").task.channels == 3


def test_a_task_gives_order_and_normalisation(tmp_path: Path) -> None:
    task = Task(("wolf", "ant"), 1, 3, 4, Normalization((0.25,), (0.5,)))
    draw(tmp_path / "src/wolf/1.png")
    draw(tmp_path / "src/ant/1.png")
    back = import_imagefolder(tmp_path / "src", tmp_path / "out", task=task)
    assert back.task == task
    assert sorted(back.labels.tolist()) == [0, 1]


def test_bad_folders_are_told(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    with pytest.raises(DataError, match="not a folder"):
        import_imagefolder(src, out)
    src.mkdir()
    with pytest.raises(DataError, match="no class folders"):
        import_imagefolder(src, out)
    draw(src / "a/1.png")
    (src / "b").mkdir()
    with pytest.raises(DataError, match="no images of class b"):
        import_imagefolder(src, out)
    draw(src / "b/1.png", size=(5, 3))
    with pytest.raises(DataError, match=r"b/1\.png has 5x3 px"):
        import_imagefolder(src, out)
    (src / "b/1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b/1\.png cannot be read"):
        import_imagefolder(src, out)
    task = Task(("a", "c"), 3, 3, 4, Normalization((0.5,) * 3, (0.5,) * 3))
    draw(src / "b/1.png")
    with pytest.raises(DataError, match="b is none of the classes"):
        import_imagefolder(src, out, task=task)
    assert not out.exists()


def test_nothing_is_replaced_unasked(tmp_path: Path, exact: Distilled) -> None:
    out = tmp_path / "out"
    export_imagefolder(exact, out)
    with pytest.raises(ArtifactError, match="--overwrite"):
        export_imagefolder(exact, out)
    export_imagefolder(exact, out, overwrite=True)
    with pytest.raises(ArtifactError, match="not empty"):
        import_imagefolder(out, exact.path)
    assert import_imagefolder(out, exact.path, overwrite=True).path == exact.path
    (out / "attar-export.json").unlink()
    with pytest.raises(ResourceError, match="not empty"):
        export_imagefolder(exact, out, overwrite=True)
    assert (out / "class00_cat").is_dir()


def test_a_damaged_note_is_told(tmp_path: Path, exact: Distilled) -> None:
    export_imagefolder(exact, tmp_path / "out")
    (tmp_path / "out/attar-export.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        import_imagefolder(tmp_path / "out", tmp_path / "back")
