from pathlib import Path

import pytest

from attar.data.named import NAMED
from attar.data.readers.classes import read_classes
from attar.data.sources import Source, SourceSettings, open_source
from attar.errors import AttarError, ConfigError, DataError


def opened(name: str, **settings: object) -> Source:
    return open_source(f"classes:{name}", SourceSettings.model_validate(settings), without_images=True)


def test_names_of_a_file_and_in_a_text_stand_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufefftench\n\n golf ball \nchurch, church building\n", "utf-8")
    assert read_classes(str(tmp_path / "names.txt")).class_names == ("tench", "golf ball", "church, church building")
    assert read_classes("tench, golf ball").class_names == ("tench", "golf ball")


def test_classes_of_imagenet_are_those_of_its_folders() -> None:
    whole, few = read_classes("imagenet-1k"), read_classes("imagenet-nette")
    assert len(set(whole.class_names)) == 1000
    assert (whole.class_names[0], whole.class_names[134], whole.class_names[-1]) == (
        "tench",
        "crane, n02012849",
        "toilet tissue",
    )
    assert few.class_names[:2] == ("tench", "English springer")
    assert set(few.class_names) < set(whole.class_names)
    assert (whole.resolution, few.resolution) == (224, 128)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b,a", "'a' twice"),
        ("a,", "no name"),
        ("nowhere.txt", "unknown set of classes"),
        ("imagenet-nete", "did you mean imagenet-nette"),
        ("tiny-imagenet", "unknown set of classes"),
    ],
)
def test_what_names_no_classes_is_refused(text: str, says: str) -> None:
    with pytest.raises(AttarError, match=says):
        read_classes(text)


@pytest.mark.parametrize("content", [b"only\n", b"\xff\xfe\x00", b"x" * 4_000_001])
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match="names"):
        read_classes(str(tmp_path / "names.txt"))


def test_a_source_of_classes_has_a_task_and_no_images() -> None:
    source = opened("a,b", resolution=16)
    assert source.task.shape == (3, 16, 16)
    assert not source.has_images
    assert source.num_test == len(source.train) == len(source.validation) == len(source.test) == 0
    assert source.fingerprint != opened("b,a", resolution=16).fingerprint
    grey = opened("a,b", resolution=16, normalization="mnist")
    assert grey.task.shape == (1, 16, 16)


def test_what_has_to_be_told_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="--resolution 224"):
        opened("a,b")
    with pytest.raises(ConfigError, match="zca"):
        opened("a,b", resolution=16, zca=True)
    with pytest.raises(DataError, match="no images"):
        open_source("classes:a,b", SourceSettings(resolution=16))


def test_whoever_names_classes_names_no_splits() -> None:
    known = {name: source.without_images for name, source in NAMED.own.items() if source.without_images}
    assert "imagenet-1k" in known
    assert all(not found().splits and found().without_images for found in known.values())
