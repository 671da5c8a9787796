"""Images and networks that a program hands over, and the lists of what goes by a name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

import attar
from attar.api.distilling import Distillation
from attar.config import Config
from attar.errors import ArtifactError, ConfigError, DataError
from attar.runtime.machine import device_name

QUICK = {
    "train.epochs": 1,
    "evaluate.seeds": 1,
    "evaluate.baselines": [],
    "evaluate.models": ["convnet-d1-w4"],
}


@pytest.fixture
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray[Any, Any]:
    return np.arange(40) % 2


class Pairs(Dataset[tuple[Any, Any]]):
    """A torch dataset of what a function makes of an index."""

    def __init__(self, num: int, example: Callable[[int], tuple[Any, Any]]) -> None:
        self._num, self._example = num, example

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._example(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def shown(source: Any) -> Tensor:
    """Every training image of a source that has no other splits, in the order of its labels."""
    found: Tensor = source.train.pixels(torch.arange(len(source.train)))
    return found


def opened(data: Any, **options: Any) -> Any:
    return attar.open(data, settings={"source.validation_fraction": 0}, **options)


def test_arrays_tensors_and_data_sets_of_the_same_images_are_the_same_source(pixels: Any, labels: Any) -> None:
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    kinds: list[Any] = [
        (pixels, labels),
        (channels_first, torch.from_numpy(labels)),
        (channels_first.float() / 255, labels.tolist()),
        (channels_first.double() / 255, labels[:, None]),
        ((pixels / 255).astype(np.float32), labels.astype(np.float32)),
        (pixels.astype(np.int64), labels),
        TensorDataset(channels_first, torch.from_numpy(labels)),
        Pairs(40, lambda i: (Image.fromarray(pixels[i]), int(labels[i]))),
        Pairs(40, lambda i: (channels_first[i].float() / 255, labels[i])),
    ]
    sources = [opened(kind) for kind in kinds]
    for source in sources:
        assert torch.equal(shown(source), shown(sources[0]))
        assert torch.equal(source.train.labels, sources[0].train.labels)
        assert source.task == sources[0].task
    assert len({source.name for source in sources[:7]}) == 1  # the same content, the same name
    assert len({source.fingerprint for source in sources[:7]}) == 1


def test_other_content_has_another_name(pixels: Any, labels: Any) -> None:
    first = opened((pixels, labels))
    changed = pixels.copy()
    changed[3, 0, 0, 0] ^= 1
    assert opened((changed, labels)).name != first.name
    assert opened((pixels, 1 - labels)).name != first.name
    assert opened({"train": (pixels, labels), "test": (pixels, labels)}).name != first.name


def test_splits_class_names_and_a_name_of_ones_own(pixels: Any, labels: Any) -> None:
    data = {"train": (pixels, labels), "val": (pixels[:6], labels[:6]), "test": (pixels[:4], labels[:4])}
    source = attar.open(data, name="mine", class_names=("cat", "dog"))
    assert source.name == "mine"
    assert source.task.class_names == ("cat", "dog")
    assert (len(source.train), len(source.validation), source.num_test) == (40, 6, 4)
    named = opened((pixels, np.array(["b", "a"])[labels]))
    assert named.task.class_names == ("a", "b")


def test_class_names_that_are_the_same_are_refused_before_any_work(pixels: Any, labels: Any) -> None:
    with pytest.raises(DataError, match="several classes are called 'cat'"):
        attar.open((pixels, labels), class_names=("cat", "cat"))


def test_grey_images_stay_grey(pixels: Any, labels: Any) -> None:
    grey = pixels[..., 0]
    for data in (grey, grey[..., None], torch.from_numpy(grey)[:, None]):
        source = opened((data, labels))
        assert source.task.shape == (1, 8, 8)
        assert torch.equal(shown(source)[0, 0], shown(opened((grey, labels)))[0, 0])


def test_subsets_take_labels_without_reading_images(pixels: Any, labels: Any) -> None:
    read = []

    class Listed(Pairs):
        targets = labels.tolist()
        classes = ("no list",)

    def example(index: int) -> tuple[Any, Any]:
        read.append(index)
        return pixels[index], labels[index]

    source = opened(Subset(Listed(40, example), list(range(20))))
    assert len(source.train) + source.num_test == 20
    assert max(read) < 20


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x, y: (x[:39], y), "39 train images have 40 labels"),
        (lambda x, y: (x / 127.5 - 1, y), "undo their normalisation"),
        (lambda x, y: (x.astype(np.uint16) * 257, y), "uint16 from"),
        (lambda x, y: ((x > 127).astype(np.uint8), y), "from 0 to 1"),
        (lambda x, y: (np.full(x.shape, np.nan), y), "nan"),
        (lambda x, y: (x[:, :3, :, :], y), "layout="),
        (lambda x, y: (x[..., :2], y), "no channels"),
        (lambda x, y: (x, np.eye(2)[y]), "argmax"),
        (lambda x, y: (x, y + 0.5), "whole numbers"),
        (lambda x, y: (x, [None] * 40), "40 of 40 train images have no class"),
        (lambda x, y: {"train": (x, y), "other": (x, y)}, "'other'"),
        (lambda x, y: Stream(), "by index"),
        (lambda x, y: Pairs(40, lambda i: (torch.rand(3, 8, 8), y[i])), "without random transforms"),
        (lambda x, y: Pairs(40, lambda i: {"image": x[i]}), "gives pairs"),
        (lambda x, y: Pairs(40, lambda i: ("a path", y[i])), "is str"),
        (lambda x, y: Pairs(0, lambda i: (x, y)), "is empty"),
    ],
)
def test_what_cannot_be_told_is_refused(pixels: Any, labels: Any, make: Any, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        opened(make(pixels, labels))


@pytest.mark.parametrize("thing", [3, object(), [1, 2, 3], ("digits", 1)])
def test_what_is_no_source_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigError, match="no source of images"):
        attar.open(thing)
    with pytest.raises(ConfigError, match="no source of images"):
        attar.plan(thing)


def test_axes_that_are_said(pixels: Any, labels: Any) -> None:
    odd = pixels[:, :3]  # 3 at both ends
    assert opened((odd, labels), layout="NHWC").task.shape == (3, 3, 8)
    assert opened((odd, labels), layout="NCHW").task.shape == (3, 8, 3)
    with pytest.raises(DataError, match="NHW with"):
        opened((odd, labels), layout="NHW")
    with pytest.raises(ConfigError, match="layout given with 'digits'"):
        attar.open("digits", layout="NCHW")


def test_a_run_from_memory_goes_on_with_the_same_images(pixels: Any, labels: Any, tmp_path: Path) -> None:
    def distill() -> Distillation:
        data = (pixels.copy(), labels.copy())
        return attar.distill(data, "random", 1, out=tmp_path / "run", settings=QUICK, workers=1)

    first = distill()
    (shard,) = (tmp_path / "run" / "distilled" / "data").iterdir()
    written = shard.stat().st_mtime_ns
    again = distill()
    assert first.records == again.records
    assert shard.stat().st_mtime_ns == written
    # and what was made can be handed over, too
    evaluation = attar.evaluate(
        first.load(),
        (pixels, labels),
        models=["convnet-d1-w4"],
        seeds=1,
        baselines=[],
        settings=QUICK,
        out=tmp_path / "e",
    )
    assert evaluation.records[0].mean == first.records[0].mean
    training = attar.train(first, "convnet-d1-w4", source=(pixels, labels), settings={"train.epochs": 1}, keep=False)
    assert "validation" in training.accuracies
    with pytest.raises(ArtifactError, match="source"):
        attar.distill((255 - pixels, labels), "random", 1, out=tmp_path / "run", settings=QUICK)


def test_what_attar_open_gave_is_read_again_as_it_was(tmp_path: Path) -> None:
    source = attar.open("digits", settings={"source.train_per_class": 5, "source.validation_fraction": 0.2})
    assert len(source.train) == 50
    made = attar.distill(source, "random", 1, out=tmp_path, settings=QUICK)
    assert made.load().info["source"] == {
        "name": "digits",
        "fingerprint": source.fingerprint,
        "licence": source.licence,
        "num_train_images": 50,
    }


def test_images_of_another_process_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="handed over"):
        attar.open("memory-0123456789")


def test_a_distilled_set_is_read_like_a_list(tmp_path: Path) -> None:
    made = attar.distill("digits", "random", 2, out=tmp_path, until="relabel", settings={"source.train_per_class": 5})
    tiny = attar.load(made)
    assert len(tiny) == 20
    assert len(list(tiny)) == 20
    image, label = tiny[-1]
    assert torch.equal(image, tiny.images[-1])
    assert label == 9
    with pytest.raises(IndexError):
        tiny[20]


def test_networks_of_one_class_are_told_apart(tmp_path: Path) -> None:
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    settings = {**QUICK, "source.train_per_class": 5}
    del settings["evaluate.models"]
    made = attar.distill("digits", "random", 1, out=tmp_path, until="relabel", settings=settings)
    evaluation = attar.evaluate(
        made, "digits", models=[network(4), network(8)], seeds=1, baselines=[], settings=settings
    )
    names = [record.model for record in evaluation.records]
    assert len(set(names)) == 2
    assert all(name.startswith("Sequential-") for name in names)


def test_a_device_may_be_torchs_own() -> None:
    assert device_name(torch.device("cuda", 1)) == "cuda:1"
    assert device_name("cpu") == "cpu"
    with pytest.raises(ConfigError, match="did you mean"):
        device_name("cudda")
    result = attar.plan("digits", "random", device=torch.device("cpu"), settings={"source.train_per_class": 5})
    assert result.total_s > 0
    with pytest.raises(ConfigError, match=r"device.*cuda:x"):
        attar.plan("digits", device="cuda:x")


def test_what_goes_by_a_name_is_listed() -> None:
    assert {"sre2l", "mtt", "tesla", "teddy", "rded", "random"} <= set(attar.list_methods())
    assert set(attar.list_models("resnet*-small")) == {f"resnet{depth}-small" for depth in (18, 34, 50, 101, 152)}
    assert "convnet-d3-w128" in attar.list_models("d3-w128")
    assert "tesla-digits-ipc1" in attar.list_recipes()
    assert "digits" in attar.list_datasets()
    assert "dlb" in attar.list_strategies()
    assert {"open", "list_models", "distill"} <= set(dir(attar))
    assert not [name for name in dir(attar) if not hasattr(attar, name)]


def test_data_sets_of_hugging_faces_library(pixels: Any, labels: Any) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [Image.fromarray(image) for image in pixels]
    whole = datasets.Dataset.from_dict({"image": images, "label": labels.tolist()}, features=features)
    source = opened(whole)
    assert source.task.class_names == ("cat", "dog")
    assert torch.equal(shown(source), shown(opened((pixels, labels))))
    assert opened(whole).name == source.name
    split = whole.train_test_split(0.25, seed=0)
    both = attar.open(split)
    assert both.num_test == 10
    picked = attar.open(datasets.DatasetDict({"train": whole.select(range(30)), "test": whole.select(range(30, 40))}))
    assert picked.num_test == 10
    assert torch.equal(picked.test.pixels(torch.tensor([0]))[0].permute(1, 2, 0), torch.from_numpy(pixels[30]))


def test_options_stay_plain() -> None:
    assert issubclass(attar.open.options, Config)  # type: ignore[attr-defined]


def test_a_distilled_set_in_memory_is_judged_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: Any, labels: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"models": ["convnet-d1-w4"], "seeds": 1, "baselines": [], "settings": {"train.epochs": 1}}
    tiny = (torch.from_numpy(pixels[:2]).permute(0, 3, 1, 2), torch.from_numpy(labels[:2]))
    first = attar.evaluate(tiny, (pixels, labels), **given)
    again = attar.evaluate((pixels[:2].transpose(0, 3, 1, 2), labels[:2]), (pixels, labels), **given)
    assert first.records[0].num_images == 2
    assert first.records == again.records
    (kept,) = (tmp_path / "runs").glob("set-*.safetensors")
    assert list((tmp_path / "runs").glob("set-*-evaluation"))
    with pytest.raises(DataError, match="one label for each"):
        attar.evaluate((pixels[:3], labels[:2]), (pixels, labels), **given)
    assert kept.stat().st_size > 2 * 3 * 64


def test_a_black_image_in_a_data_set_of_bytes_is_one() -> None:
    grey = torch.arange(0, 200, 20, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    source = opened({split: Pairs(10, lambda i: (grey[i], i % 2)) for split in ("train", "test")})
    assert torch.equal(shown(source), grey)
