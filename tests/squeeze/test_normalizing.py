"""Which normalisation foreign weights were trained under: told by their statistics, their loss, or their library."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.augment.operations import Crop
from attar.config import build as build_sections
from attar.data.loading import MemorySplit, RealSet
from attar.errors import ConfigError
from attar.losses.statistics import Watched
from attar.models.factory import build
from attar.normalizations import NAMES, PUBLISHED, parse_normalization
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.squeeze.normalizing import Found, candidates, distance, find_normalization
from attar.squeeze.teacher_files import TrainedTeacher
from attar.squeeze.teachers import TeacherSettings, make_teacher
from attar.task import Normalization, Task, Whitening

ENGINE = Engine("cpu")
NET = "convnet-d2-w8-batch"
SIZE = 16


def photographs(num: int = 120, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Smooth images whose class is their colour, brighter than mid-grey on the whole; uint8."""
    rng, labels = torch.Generator().manual_seed(0), torch.arange(num) % 3
    coarse = torch.rand(num, channels, 4, 4, generator=rng)
    pixels = nn.functional.interpolate(coarse, SIZE, mode="bilinear") * 150 + 30
    for place in range(channels):
        pixels[:, place] += 60.0 * (labels == place).view(-1, 1, 1)
    return pixels.round().to(torch.uint8), labels


def make_task(channels: int = 3, size_px: int = SIZE) -> Task:
    pixels = photographs(channels=channels)[0].float().div(255)
    own = Normalization(tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3)).tolist()))
    return Task(("red", "green", "blue"), channels, size_px, size_px, own)


def make_set(task: Task) -> RealSet:
    return RealSet(MemorySplit(*photographs(channels=task.channels)), task.normalization)


@torch.no_grad()
def trained_under(theirs: Normalization, how: str = "whole", pixels: Tensor | None = None) -> nn.Module:
    """A network whose BatchNorms have learnt the statistics of images normalised like this."""
    pixels = (photographs()[0] if pixels is None else pixels).float().div(255)
    network = build(NET, make_task(), seed=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    crop, rng = Crop(), torch.Generator().manual_seed(9)
    for _ in range(10):
        shift = crop.draw(rng, len(pixels), tuple(pixels.shape[1:]))
        shown = crop.apply(pixels, shift) if how == "black" else pixels
        images = theirs.normalize(shown)
        network(crop.apply(images, shift) if how == "grey" else images)
    return network.eval()


def find(network: nn.Module, name: str = NET, **changes: Any) -> Found:
    task = changes.pop("task", make_task())
    given = {"channels": task.channels, "seed": 1, "engine": ENGINE, "data": make_set(make_task(task.channels))}
    return find_normalization(network, name, task=task, **(given | changes))


@pytest.mark.parametrize("how", ["whole", "black", "grey"])
@pytest.mark.parametrize("name", ["source", "imagenet", "half", "unit", "cifar", "cifar100", "svhn"])
def test_the_statistics_tell_what_a_network_was_trained_under(name: str, how: str) -> None:
    theirs = make_task().normalization if name == "source" else parse_normalization(name)
    found = find(trained_under(theirs, how))
    assert (found.name, found.by, found.normalization) == (name, "statistics", theirs)
    assert found.fits[name] == min(found.fits.values())
    assert f"{name} {found.fits[name]:.4g}" in (found.sentence() or "")


def test_the_distance_is_the_loss_that_recovery_minimises() -> None:
    network, images = trained_under(PUBLISHED["imagenet"]), torch.randn(70, 3, SIZE, SIZE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert distance(network, images) == pytest.approx(Watched(network)(images)[1].item(), rel=1e-4)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_network_on_grey_images_may_want_three_channels() -> None:
    theirs, task, (pixels, labels) = PUBLISHED["imagenet"], make_task(1), photographs(channels=1)
    network = trained_under(theirs, pixels=pixels.expand(-1, 3, -1, -1))
    found = find(network, task=task, channels=3, data=RealSet(MemorySplit(pixels, labels), task.normalization))
    assert (found.name, len(found.normalization.mean)) == ("imagenet", 3)
    assert list(candidates(NET, task, 1)) == ["source", "half", "unit", "mnist", "fashion-mnist"]


@pytest.mark.parametrize("name", ["unit", "half", "source"])
@torch.no_grad()
def test_without_batch_norm_the_loss_tells(name: str) -> None:
    """Classes are drawn from what the network says of images that it sees as it should: no other is as likely."""
    task, pixels = make_task(), photographs()[0]
    theirs = task.normalization if name == "source" else parse_normalization(name)
    network = build("convnet-d1-w8-none", task, seed=2)
    logits = network(theirs.normalize(pixels))
    network.classifier.weight *= 4 / logits.std()
    network.classifier.bias *= 0
    rng = torch.Generator().manual_seed(0)
    labels = network(theirs.normalize(pixels)).softmax(1).multinomial(1, generator=rng).squeeze(1)
    found = find(network, "convnet-d1-w8-none", data=RealSet(MemorySplit(pixels, labels), task.normalization))
    assert (found.by, found.name) == ("loss", name), found.fits
    assert "cross-entropy" in (found.sentence() or "")


def test_a_network_that_knows_no_class_tells_nothing() -> None:
    found = find(build("convnet-d1-w8-none", make_task(), seed=2).eval(), "convnet-d1-w8-none")
    assert (found.by, found.normalization, found.fits) == ("assumed", make_task().normalization, {})
    assert "assumed, as the weights do not say" in (found.sentence() or "")


def test_a_librarys_own_comes_first_and_stays_in_doubt() -> None:
    lite, half = "tf_efficientnet_lite0", parse_normalization("half")
    assert next(iter(candidates(lite, make_task(), 3).items())) == ("library", half)
    assert candidates("resnet18", make_task(), 3)["library"] == PUBLISHED["imagenet"]
    assert candidates("torchvision:googlenet", make_task(), 3)["library"] == half
    assert "library" not in candidates("resnet18-small", make_task(), 3)
    nothing = RealSet(MemorySplit(torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0)), half)
    assert find(trained_under(half), lite, data=nothing).by == "library"
    doubtful = trained_under(Normalization((0.49, 0.49, 0.49), (0.31, 0.31, 0.31)))  # nearer to others, but not by far
    found = find(doubtful, lite)
    assert found.fits["library"] > min(found.fits.values()) > 0.5 * found.fits["library"]
    assert found.name == "library"
    assert find(trained_under(PUBLISHED["imagenet"]), lite).name == "imagenet"  # somebody's own training


def test_large_images_have_no_constants_of_small_ones() -> None:
    task = make_task(size_px=128)
    assert list(candidates(NET, task, 3)) == ["source", "imagenet", "half", "unit"]


def test_grey_images_have_one_number_for_all_channels_of_a_network() -> None:
    own = make_task(1).normalization
    assert candidates(NET, make_task(1), 3)["source"] == Normalization(own.mean * 3, own.std * 3)
    assert "mnist" not in candidates(NET, make_task(1), 3)


def test_a_network_whose_values_overflow_tells_nothing() -> None:
    network = trained_under(PUBLISHED["imagenet"])
    network.features[0].weight.data *= 1e30
    found = find(network)
    assert (found.name, found.by, found.fits) == ("source", "assumed", {})


def test_whitened_images_have_one_normalisation() -> None:
    task = make_task().whitened(Whitening(0.1, "00"))
    assert candidates("resnet18", task, 3) == {"source": task.normalization}
    assert find(trained_under(PUBLISHED["imagenet"]), task=task).by == "assumed"


def adopt(folder: Path, network: nn.Module, **settings: Any) -> tuple[Path, dict[str, Any]]:
    task = make_task()
    folder.mkdir()
    torch.save({"net": network.state_dict()}, folder / "mine.pth")
    made = TeacherSettings(model=NET, weights=str(folder / "mine.pth"), **settings)
    events = Events(folder / "events.jsonl", quiet=True)
    validation = RealSet(MemorySplit(*photographs(30)), task.normalization)
    make_teacher(make_set(task), validation, task, made, seed=1, folder=folder, engine=ENGINE, events=events)
    (event,) = [event for event in read_events(folder / "events.jsonl") if event["event"] == "normalization"]
    return folder, event


def test_a_teacher_sees_images_as_it_was_trained_while_the_task_stays_the_sources(tmp_path: Path) -> None:
    network, theirs, task = trained_under(PUBLISHED["imagenet"]), PUBLISHED["imagenet"], make_task()
    folder, event = adopt(tmp_path / "run", network)
    assert (event["name"], event["by"]) == ("imagenet", "statistics")
    assert event["fits"]["imagenet"] < event["fits"]["source"]
    note = read_tensors(folder / "teacher.safetensors")[1]
    assert note["normalization"]["fits"] == event["fits"]
    assert Task.from_json(note["task"]) == task
    teacher, pixels = TrainedTeacher(folder, task, ENGINE), photographs(6)[0]
    assert torch.allclose(
        teacher.logits(task.normalization.normalize(pixels)), network(theirs.normalize(pixels)), atol=1e-4
    )
    teacher.save_to(tmp_path / "distilled")
    assert read_tensors(tmp_path / "distilled" / "teacher.safetensors")[1]["normalization"] == note["normalization"]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"weights_normalization": "half"}, parse_normalization("half")),
        ({"weights_normalization": "source"}, make_task().normalization),
        ({"weights_mean": (0.1, 0.2, 0.3), "weights_std": (1, 1, 1)}, Normalization((0.1, 0.2, 0.3), (1, 1, 1))),
    ],
)
def test_what_a_person_states_is_taken_and_nothing_is_measured(
    stated: dict[str, Any], expected: Normalization, tmp_path: Path
) -> None:
    event = adopt(tmp_path / "run", trained_under(PUBLISHED["imagenet"]), **stated)[1]
    assert (event["by"], event["fits"]) == ("stated", {})
    assert Normalization(tuple(event["mean"]), tuple(event["std"])) == expected


def test_constants_of_another_number_of_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="normalisation has 1 channels and the network takes 3"):
        adopt(tmp_path / "run", trained_under(PUBLISHED["imagenet"]), weights_normalization="mnist")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights_normalization": "half"}, "without `weights` the network is trained here"),
        ({"weights": "x.pt", "weights_normalization": "haf"}, "weights_normalization"),
        (
            {"weights": "x.pt", "weights_normalization": "half", "weights_mean": [0.5], "weights_std": [0.5]},
            "say the same thing",
        ),
    ],
)
def test_settings_that_cannot_be_are_told(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_sections({"squeeze": TeacherSettings}, {"squeeze": changes})


def test_normalisations_have_names_or_numbers() -> None:
    assert parse_normalization("unit", 1) == Normalization((0.0,), (1.0,))
    assert parse_normalization("0.1,0.2/1,2") == Normalization((0.1, 0.2), (1.0, 2.0))
    assert len({*NAMES}) == 8
    with pytest.raises(ConfigError, match="did you mean imagenet"):
        parse_normalization("imagenett")
    for text in ("0.5", "0.5/0", "0.5,0.5/0.5", "/"):
        with pytest.raises(ConfigError, match="is no normalisation"):
            parse_normalization(text)
