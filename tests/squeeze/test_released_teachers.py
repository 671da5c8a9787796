"""Networks that others trained and published, on real photographs: found accuracies against what they are known by.

ATTAR_DATA names a folder with `teachers/`, `cifar10/` and `imagenette/`: safetensors of akamaster's ResNets for
CIFAR-10 and of timm's tf_efficientnet_lite0, under the key names of those who trained them.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.data.loading import RealSet
from attar.data.sources import Source, open_source
from attar.models.weights import load_weights, read_weights
from attar.normalizations import parse_normalization
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.squeeze.normalizing import distance
from attar.squeeze.teachers import TeacherSettings, make_teacher
from attar.task import Task

pytestmark = pytest.mark.slow
LITE = "tf_efficientnet_lite0"


@pytest.fixture
def data() -> Path:
    root = Path(os.environ.get("ATTAR_DATA", ""))
    if "ATTAR_DATA" not in os.environ or not (root / "teachers").is_dir():
        pytest.skip("ATTAR_DATA names no folder with teachers/ in it")
    return root


def adopt(folder: Path, source: Source, model: str, file: Path) -> tuple[dict[str, Any], float]:
    """The event about the normalisation, and the accuracy on the test split."""
    real = RealSet(source.train, source.task.normalization)
    judged = RealSet(source.test, source.task.normalization)
    settings, events = TeacherSettings(model=model, weights=str(file)), Events(folder / "events.jsonl", quiet=True)
    given: dict[str, Any] = {"seed": 0, "folder": folder, "engine": Engine("cpu"), "events": events}
    make_teacher(real, judged, source.task, settings, **given)
    found = {event["event"]: event for event in read_events(folder / "events.jsonl")}
    return found["normalization"], found["teacher"]["validation_accuracy"]


@pytest.mark.parametrize(("depth", "published"), [(20, 91.73), (56, 93.39)])
def test_cifar_resnets_reach_what_they_are_known_by(depth: int, published: float, data: Path, tmp_path: Path) -> None:
    file = data / "teachers" / f"cifar10-resnet{depth}.safetensors"
    event, accuracy = adopt(tmp_path, open_source(str(data / "cifar10")), f"resnet{depth}-cifar", file)
    assert (event["name"], event["by"]) == ("imagenet", "statistics")
    assert event["fits"]["imagenet"] < 0.6 * min(fit for name, fit in event["fits"].items() if name != "imagenet")
    assert accuracy == pytest.approx(published, abs=0.05)


def test_efficientnet_lite_sees_images_as_timm_trained_it(data: Path, tmp_path: Path) -> None:
    source, file = open_source(str(data / "imagenette")), data / "teachers" / f"{LITE}.safetensors"
    event, accuracy = adopt(tmp_path, source, LITE, file)
    assert (event["name"], event["by"]) == ("library", "statistics")
    assert (event["mean"], event["std"]) == ([0.5] * 3, [0.5] * 3)
    assert min(event["fits"], key=event["fits"].__getitem__) == "library"
    assert accuracy > 98


@torch.no_grad()
def test_efficientnet_lite_among_all_classes_of_imagenet(data: Path) -> None:
    from timm.data.imagenet_info import ImageNetInfo

    source, half = open_source(str(data / "imagenette")), parse_normalization("half")
    ids = [ImageNetInfo("imagenet-1k").index_to_label_name(row) for row in range(1000)]
    every = Task(tuple(ids), 3, 224, 224, half)
    weights = read_weights(str(data / "teachers" / f"{LITE}.safetensors"), LITE, every)
    network, besides = load_weights(weights, LITE, every, 3)
    assert besides is None
    network.eval()
    pixels = source.test.pixels(torch.arange(200))
    fits = {name: distance(network, parse_normalization(name).normalize(pixels)) for name in ("half", "imagenet")}
    assert fits["half"] == pytest.approx(3640, rel=0.1)
    assert fits["imagenet"] == pytest.approx(11061, rel=0.1)
    wanted = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916"]
    wanted += ["n03417042", "n03425413", "n03445777", "n03888257"]
    rows = torch.tensor([ids.index(wordnet_id) for wordnet_id in wanted])
    logits = torch.cat([network(half.normalize(some)) for some in pixels.split(50)])
    right = (logits.argmax(1) == rows[source.test.labels[:200]]).float().mean().item()
    assert 100 * right == pytest.approx(79.5, abs=2.5)
