import ast
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from attar.data.loading import LazySplit, MemorySplit, RealSet
from attar.data.named import NAMED
from attar.data.raster import to_pixels
from attar.data.sources import PLACES, Source, SourceSettings, open_source
from attar.errors import ConfigError, DataError
from attar.runtime.events import Events

Make = Callable[..., Path]


def everything(source: Source, split: str) -> torch.Tensor:
    images = getattr(source, split)
    return images.pixels(torch.arange(len(images)))


def open_at(path: Path, **settings: object) -> Source:
    return open_source(str(path), SourceSettings.model_validate(settings))


class Heard(Events):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_digits() -> None:
    source = open_source("digits")
    assert source.task.shape == (1, 8, 8)
    assert source.task.class_names == tuple("0123456789")
    assert (len(source.train), len(source.validation), len(source.test)) == (1293, 144, 360)
    assert source.size_bytes == 1293 * 64
    assert source.licence == "CC-BY-4.0"
    assert int(everything(source, "train").max()) == 255
    assert "1,293 training, 144 validation and 360 test images of 10 classes, 8x8 px, grey" in source.description


def test_normalization_is_that_of_the_training_split() -> None:
    source = open_source("digits")
    images = RealSet(source.train, source.task.normalization).images(torch.arange(len(source.train))).double()
    assert abs(float(images.mean())) < 1e-6
    assert abs(float(images.std(correction=0)) - 1) < 1e-6


def test_splits_that_are_given_are_kept(make_folder: Make) -> None:
    source = open_at(make_folder({"train": 5, "val": 3, "test": 2}), validation_fraction=0.4)
    assert [len(split) for split in (source.train, source.validation, source.test)] == [10, 6, 4]
    assert source.task.class_names == ("ant", "bee")


def test_validation_is_cut_where_there_is_none(make_folder: Make) -> None:
    source = open_at(make_folder({"train": 10, "test": 2}), validation_fraction=0.2)
    assert [len(split) for split in (source.train, source.validation, source.test)] == [16, 4, 4]
    assert source.validation.labels.bincount().tolist() == [2, 2]


def test_a_lone_validation_split_becomes_the_test_split(make_folder: Make) -> None:
    root = make_folder({"train": 10, "valid": 3})
    source = open_at(root)
    assert [len(split) for split in (source.train, source.validation, source.test)] == [18, 2, 6]
    expected = [to_pixels(file.read_bytes()) for file in sorted((root / "valid").rglob("*.png"))]
    assert np.array_equal(everything(source, "test").permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_both_are_cut_from_a_plain_folder_and_nothing_is_in_two_splits(make_folder: Make) -> None:
    source = open_at(make_folder({"": 10}))
    assert [len(split) for split in (source.train, source.validation, source.test)] == [14, 2, 4]
    images = [
        tuple(row) for split in ("train", "validation", "test") for row in everything(source, split).flatten(1).tolist()
    ]
    assert len(set(images)) == 20


def test_no_validation_on_request(make_folder: Make) -> None:
    source = open_at(make_folder({"train": 4, "test": 2}), validation_fraction=0)
    assert (len(source.train), len(source.validation)) == (8, 0)
    assert source.validation.pixels(torch.arange(0)).shape == (0, 3, 8, 8)


def test_cuts_do_not_depend_on_the_seed(make_folder: Make) -> None:
    root = make_folder({"": 10})
    first, second = (open_source(str(root), seed=seed) for seed in (0, 1))
    assert first.fingerprint == second.fingerprint
    for split in ("train", "validation", "test"):
        assert torch.equal(everything(first, split), everything(second, split))


def test_train_per_class_leaves_validation_and_test_alone(make_folder: Make) -> None:
    root = make_folder({"": 20})
    whole, part, other = (
        open_at(root),
        *(open_source(str(root), SourceSettings(train_per_class=3), seed=seed) for seed in (0, 1)),
    )
    assert part.train.labels.bincount().tolist() == [3, 3]
    for split in ("validation", "test"):
        assert torch.equal(everything(whole, split), everything(part, split))
    assert len({whole.fingerprint, part.fingerprint, other.fingerprint}) == 3


def test_the_fingerprint_follows_content_and_settings_not_place(make_folder: Make, tmp_path: Path) -> None:
    root = make_folder({"train": 6, "test": 2}, kind="BMP")
    first = open_at(root).fingerprint
    assert open_at(root, memory_gib=0).fingerprint == first
    moved = root.rename(tmp_path / "moved")
    assert open_at(moved).fingerprint == first
    assert open_at(moved, resolution=8).fingerprint == first
    assert open_at(moved, resolution=4).fingerprint != first
    assert open_at(moved, validation_fraction=0.5).fingerprint != first
    files = sorted(moved.rglob("train/ant/*"))
    before = files[0].read_bytes()
    files[0].write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # same name, same size, other pixels
    assert open_at(moved).fingerprint != first
    files[0].write_bytes(before)
    assert open_at(moved).fingerprint == first
    (moved / "test" / "ant" / "0001.png").rename(moved / "test" / "ant" / "0009.png")
    assert open_at(moved).fingerprint != first


def test_swapped_test_images_of_equal_size_are_other_content(make_folder: Make) -> None:
    root = make_folder({"train": 6, "test": 2}, kind="BMP")
    first = open_at(root)
    before = first.content("test")
    assert before == open_at(root, memory_gib=0).content("test")
    assert first.content("test").by == "every byte"
    ant, bee = (root / "test" / name / "0000.png" for name in ("ant", "bee"))
    swapped = bee.read_bytes(), ant.read_bytes()
    assert len(swapped[0]) == len(swapped[1])
    ant.write_bytes(swapped[0])
    bee.write_bytes(swapped[1])
    again = open_at(root)
    assert again.fingerprint == first.fingerprint, "of names and sizes of the test split, which is not read before"
    assert again.content("test") != before
    assert again.content("train") == first.content("train")


def test_too_large_for_memory_is_decoded_on_demand_with_the_same_result(make_folder: Make) -> None:
    root = make_folder({"train": 6, "test": 3})
    memory, lazy = open_at(root), open_at(root, memory_gib=0)
    assert isinstance(memory.train, MemorySplit)
    assert isinstance(lazy.train, LazySplit)
    assert lazy.task == memory.task
    for split in ("train", "validation", "test"):
        assert torch.equal(everything(lazy, split), everything(memory, split))


def test_one_colour_image_makes_the_source_colour(make_folder: Make, make_image: Callable[..., bytes]) -> None:
    root = make_folder({"train": 4, "test": 2}, mode="L")
    assert open_at(root).task.channels == 1
    (root / "train" / "bee" / "0001.png").write_bytes(make_image(1))
    source = open_at(root, validation_fraction=0)
    assert source.task.channels == 3
    assert len(source.task.normalization.mean) == 3
    pixels = everything(source, "train")
    assert torch.equal(pixels[:5, 0], pixels[:5, 2])
    assert not torch.equal(pixels[5, 0], pixels[5, 2])
    images = RealSet(source.train, source.task.normalization).images(torch.arange(8)).double()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    assert torch.equal(everything(open_at(root, validation_fraction=0, memory_gib=0), "train"), pixels)


def test_a_grey_source_takes_the_luma_of_a_colour_test_image(
    make_folder: Make, make_image: Callable[..., bytes]
) -> None:
    root = make_folder({"train": 4, "test": 2}, mode="L")
    (root / "test" / "ant" / "0000.png").write_bytes(make_image(1))
    assert everything(open_at(root), "test").shape == (4, 1, 8, 8)


def test_every_kind_of_image_in_one_source(make_folder: Make, make_image: Callable[..., bytes]) -> None:
    root = make_folder({"train": 3, "test": 1})
    for i, (mode, kind) in enumerate([("L", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP")]):
        (root / "train" / "ant" / f"more{i}.{kind.lower()}").write_bytes(make_image(i, mode=mode, kind=kind))
    cmyk, exif = Image.new("CMYK", (8, 8), (255, 0, 0, 0)), Image.Exif()
    exif[0x0112] = 6
    cmyk.save(root / "train" / "bee" / "c.jpg", exif=exif)
    assert len(open_at(root, validation_fraction=0).train) == 12


def test_mixed_sizes_need_a_resolution(make_folder: Make, make_image: Callable[..., bytes]) -> None:
    root = make_folder({"train": 4, "test": 2}, size=(40, 48))
    assert open_at(root).task.shape == (3, 40, 48)
    (root / "train" / "ant" / "0001.png").write_bytes(make_image(1, size=(20, 30)))
    with pytest.raises(DataError, match=r"48x40, 30x20 px(.|\n)*--resolution 32"):
        open_at(root)
    assert open_at(root, resolution=16).task.shape == (3, 16, 16)


def test_a_size_that_differs_where_headers_were_not_probed_is_named(
    make_folder: Make, make_image: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.data.decoding._PROBED", 1)
    root = make_folder({"train": 4, "test": 2})
    odd = root / "train" / "ant" / "0002.png"
    odd.write_bytes(make_image(1, size=(8, 9)))
    with pytest.raises(DataError, match=f"9x8 px; {odd} is the first that differs"):
        open_at(root, validation_fraction=0)
    odd.write_bytes(make_image(1))
    (root / "test" / "bee" / "0001.png").write_bytes(make_image(1, size=(16, 16)))
    source = open_at(root)
    with pytest.raises(DataError, match="different sizes"):
        _ = source.test


def test_test_images_of_another_size_are_told_before_any_work(
    make_folder: Make, make_image: Callable[..., bytes]
) -> None:
    root = make_folder({"train": 4, "test": 2})
    odd = root / "test" / "bee" / "0001.png"
    odd.write_bytes(make_image(1, size=(16, 9)))
    with pytest.raises(DataError, match=f"9x16 px; {odd} is the first that differs"):
        open_at(root)
    assert open_at(root, resolution=8).num_test == 4


def test_a_corrupt_image_is_named_or_skipped_and_listed(make_folder: Make) -> None:
    root = make_folder({"train": 6, "test": 3})
    broken = root / "train" / "bee" / "0003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    torn = root / "test" / "ant" / "0000.png"
    torn.write_bytes(b"not an image")
    with pytest.raises(DataError, match=rf"{broken} can't be read(.|\n)*--skip-corrupt"):
        open_at(root, validation_fraction=0)
    heard = Heard()
    settings = SourceSettings(skip_corrupt=True, validation_fraction=0)
    source = open_source(str(root), settings, events=heard)
    assert len(source.train) == 11
    assert source.train.labels.bincount().tolist() == [6, 5]
    assert source.skipped == [str(broken)]
    assert len(source.test) == 5
    assert source.skipped == [str(broken), str(torn)]
    assert [line.split(":")[0].split(", ")[-1] for line in heard.lines] == ["1 of 12 images", "1 of 6 images"]
    assert open_source(str(root), settings).fingerprint == source.fingerprint


def test_a_class_of_corrupt_images_is_an_error(make_folder: Make) -> None:
    root = make_folder({"train": 2, "test": 1})
    for file in (root / "train" / "bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no training image of 'bee'"):
        open_at(root, skip_corrupt=True, validation_fraction=0)
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="can't be read"):
        open_at(root, skip_corrupt=True, validation_fraction=0)


def test_the_test_split_is_not_read_until_asked_for(make_folder: Make) -> None:
    root = make_folder({"train": 4, "test": 2})
    for file in (root / "test").rglob("*.png"):
        file.write_bytes(b"")
    source = open_at(root)
    with pytest.raises(DataError, match="can't be read"):
        _ = source.test


def test_constant_images_have_a_normalization(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4), 255).save(tmp_path / name / "x.png")
    source = open_at(tmp_path)
    assert source.task.normalization.std == (1.0,)
    assert (len(source.train), len(source.test)) == (2, 0)
    assert len(source.test.pixels(torch.arange(0))) == 0


def test_progress_is_shown_for_many_images(
    make_folder: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("attar.data.decoding._BAR_FROM", 5)
    open_source(str(make_folder({"train": 8, "test": 2})), events=Events())
    assert "reading train images of" in capsys.readouterr().err


def test_names_and_paths_that_do_not_exist(tmp_path: Path, make_folder: Make) -> None:
    with pytest.raises(ConfigError, match="did you mean cifar10"):
        open_source("cifr10")
    with pytest.raises(DataError, match="does not exist"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="the source has no name"):  # and is not the folder that one is in
        open_source("")


def test_classes_that_no_test_image_is_of_are_told(make_folder: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder({"": 4}, classes=("ant", "bee", "cat"))
    open_source(str(root), events=Events())
    assert "no test image" not in " ".join(capsys.readouterr().err.split())
    for path in list((root / "bee").iterdir())[1:]:
        path.unlink()
    open_source(str(root), events=Events())
    assert "no test image is of 'bee'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("notes.txt", "a table or text", "labels.csv"),
        ("set.tar.gz", "a compressed archive", "unpack it"),
        ("images_best.pt", "a file of tensors", "attar evaluate"),
        ("data.pkl", "a pickle", "npz"),
        ("x.npy", "without labels", "npz"),
        ("x.h5", "HDF5", "npz"),
        ("cat.jpg", "one image", "folder"),
        ("train-images-idx3-ubyte", "MNIST", "--data-dir"),
        ("x.odd", r"not read \(.odd\)", "list datasets"),
        ("Makefile", "without an ending", "list datasets"),
    ],
)
def test_a_file_that_is_not_read_is_told_by_what_it_is(tmp_path: Path, name: str, what: str, fix: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"{name} is .*{what}(.|\n)*to fix: .*{fix}"):
        open_source(str(tmp_path / name))


def test_no_advice_harms_files_that_attar_did_not_write() -> None:
    """Errors about sources and other people's sets never say to delete or remove a file."""
    for room in ("data", "interop"):
        for file in (Path(attar.__file__).parent / room).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(call, ast.keyword) and call.arg == "fix":
                    assert not re.search(r"\b(delete|remove)\b", ast.unparse(call.value)), (file, call.lineno)


def test_settings_are_checked() -> None:
    for wrong in ({"validation_fraction": 0.6}, {"train_per_class": 0}, {"resolution": 2}, {"memory_gib": -1}):
        with pytest.raises(ValueError, match="Input should be"):
            SourceSettings.model_validate(wrong)
    assert all(info.description for info in SourceSettings.model_fields.values())


def test_sources_are_listed() -> None:
    by_name = {"digits", "cifar10", "cifar100", "tiny-imagenet", "imagenet-1k"}
    by_name |= {"mnist", "fashion-mnist", "kmnist", "svhn", "stl10", "eurosat"}
    by_name |= {"flowers102", "oxford-pets", "food101", "caltech101"}
    by_name |= {f"imagenet-{name}" for name in ("nette", "woof", "fruit", "meow", "squawk", "yellow")}
    assert by_name == set(NAMED)
    places = {"ARCHIVE", "CSV", "FOLDER", "NPZ", "PARQUET", "SAVED"}
    places |= {"classes:NAMES", "hf:OWNER/NAME", "medmnist:NAME", "wds:PATTERN"}
    assert {name for name, _ in PLACES} == places


@pytest.mark.slow
def test_cifar10_in_parquet() -> None:
    root = Path(os.environ.get("ATTAR_DATA", "")) / "cifar10"
    if "ATTAR_DATA" not in os.environ or not root.exists():
        pytest.skip("ATTAR_DATA names no folder with cifar10/ in it")
    source = open_at(root)
    assert (len(source.train), len(source.validation), len(source.test)) == (45_000, 5_000, 10_000)
    assert source.task.class_names[:2] == ("airplane", "automobile")
    assert source.task.shape == (3, 32, 32)
    published = torch.tensor([0.4914, 0.4822, 0.4465])
    torch.testing.assert_close(torch.tensor(source.task.normalization.mean), published, atol=1e-3, rtol=0)
    assert source.test.labels.bincount().tolist() == [1000] * 10


def test_a_column_is_refused_where_there_are_none(make_folder: Make) -> None:
    with pytest.raises(ConfigError, match=r"--label-column coarse, and digits has no columns(.|\n)*PARQUET"):
        open_source("digits", SourceSettings(label_column="coarse"))
    with pytest.raises(ConfigError, match="has no columns"):
        open_at(make_folder({"": 2}), label_column="coarse")


def test_a_misspelt_folder_is_told_the_nearest_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mixed", ".mixd", "cifar"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"there is no such file or folder here\nexpected: did you mean \./mixed\?"):
        open_source("mixd")
    with pytest.raises(ConfigError, match=r"did you mean cifar10 or cifar100 or \./cifar\?"):
        open_source("cifar1")
