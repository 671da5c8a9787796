"""Weights from elsewhere: every format, what does not fit, and a file that would run code."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from attar.data.sources import open_source
from attar.errors import ArtifactError, ConfigError, DataError
from attar.models import factory, weights
from attar.models.class_names import ClassNames
from attar.models.weights import Renormalization, Weights, assemble, is_path, load_into, read_weights
from attar.task import Normalization, Task
from damage import refusals

GREY = Normalization((0.4,), (0.2,))
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NET = "convnet-d1-w4-batch"


def make_task(names: tuple[str, ...] = ("ant", "bee", "cat"), channels: int = 1, size_px: int = 8) -> Task:
    norm = Normalization(GREY.mean * channels, GREY.std * channels)
    return Task(names, channels, size_px, size_px, norm)


def make_state(task: Task, seed: int = 1, name: str = NET) -> dict[str, Tensor]:
    return dict(factory.build(name, task, seed=seed).state_dict())


def load(path: Path, task: Task, name: str = NET) -> nn.Module:
    _, network = assemble(name, task, None)
    load_into(network, read_weights(str(path), name, task), name, task, task.channels)
    return network


def same(network: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pth.tar"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    ],
)
def test_what_torch_save_wrote_is_read(suffix: str, wrap: Any, tmp_path: Path) -> None:
    task = make_task()
    state, path = make_state(task), tmp_path / f"mine{suffix}"
    torch.save(wrap(state), path)
    assert same(load(path, task), state)


def test_safetensors_are_read_with_anyones_metadata(tmp_path: Path) -> None:
    task = make_task()
    state, path = make_state(task), tmp_path / "mine.safetensors"
    safetensors.torch.save_file(state, path, metadata={"format": "pt", "task": "not what attar writes"})
    assert same(load(path, task), state)
    assert read_weights(str(path), NET, task).normalization is None


def test_half_precision_and_a_missing_counter_are_no_obstacle(tmp_path: Path) -> None:
    task = make_task()
    state, path = make_state(task), tmp_path / "half.pt"
    halved = {key: value.half() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(halved, path)
    network = load(path, task)
    assert network.state_dict()["classifier.weight"].dtype == torch.float32
    assert torch.equal(network.state_dict()["classifier.weight"], halved["classifier.weight"].float())


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_not_run(write: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "it-ran", tmp_path / "hostile.pt"
    loaded = {"state_dict": make_state(make_task()), "extra": Hostile(trace)}
    if write == "torch":
        torch.save(loaded, path)
    else:
        path.write_bytes(pickle.dumps(loaded["extra"]))
    with pytest.raises(ArtifactError, match="nothing in it was run") as caught:
        read_weights(str(path), NET, make_task())
    assert "state_dict()" in caught.value.fix
    assert not trace.exists()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 broken"])
def test_what_is_no_checkpoint_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read as weights"):
        read_weights(str(tmp_path / name), NET, make_task())


def test_a_file_without_a_state_dict_or_none_at_all_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ArtifactError, match="holds no state dict"):
        read_weights(str(tmp_path / "list.pt"), NET, make_task())
    with pytest.raises(ArtifactError, match="there is no file"):
        read_weights(str(tmp_path / "away.pt"), NET, make_task())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("num", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_damaged_checkpoints_are_read_or_told(suffix: str, num: int, tmp_path: Path) -> None:
    task, path = make_task(), tmp_path / f"mine{suffix}"
    state = make_state(task)
    if suffix == ".pt":
        torch.save({"state_dict": state}, path)
    else:
        scale = {"mean": [0.5], "std": [0.5]}
        note = {"task": json.dumps(task.to_json()), "renormalization": json.dumps(scale)}
        safetensors.torch.save_file(state, path, metadata=note)
    assert refusals(path, lambda: load(path, task), num)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "sparse", "meta", 1j])
def test_values_that_are_no_finite_numbers_are_refused(value: Any, tmp_path: Path) -> None:
    task = make_task()
    state = make_state(task)
    name = next(name for name in state if name.endswith("weight"))
    other = {"sparse": lambda: state[name].to_sparse(), "meta": lambda: state[name].to("meta")}
    state[name] = other[value]() if isinstance(value, str) else state[name] * value
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ArtifactError, match=f"{name} holds values that are not finite|cannot be read as weights"):
        load(tmp_path / "odd.pt", task)


def test_a_checkpoint_that_holds_itself_holds_no_state_dict(tmp_path: Path) -> None:
    itself: dict[str, Any] = {}
    itself["state_dict"] = itself
    torch.save(itself, tmp_path / "itself.pt")
    with pytest.raises(ArtifactError, match="holds no state dict"):
        read_weights(str(tmp_path / "itself.pt"), NET, make_task())


@pytest.mark.parametrize("note", ["[" * 100_000, "3", '{"mean": 3}', '{"mean": ["x"], "std": [1]}'])
def test_notes_in_safetensors_that_make_no_sense_are_left_out(note: str, tmp_path: Path) -> None:
    task, path = make_task(), tmp_path / "mine.safetensors"
    metadata = {"task": json.dumps(task.to_json()), "renormalization": note}
    safetensors.torch.save_file(make_state(task), path, metadata=metadata)
    assert read_weights(str(path), NET, task).normalization is None
    assert same(load(path, task), make_state(task))


def test_weights_of_another_network_are_refused_with_what_differs(tmp_path: Path) -> None:
    task, path = make_task(), tmp_path / "mine.pt"
    torch.save(make_state(task, name="convnet-d1-w8-batch"), path)
    with pytest.raises(ArtifactError, match=r"features.0.weight is \(8, 1, 3, 3\) and not \(4, 1, 3, 3\)"):
        load(path, task)
    torch.save(make_state(task, name="convnet-d1-w4"), path)
    with pytest.raises(ArtifactError, match=r"it lacks features.1.running_mean"):
        load(path, task)
    torch.save(make_state(task) | {"neck.weight": torch.zeros(2)}, path)
    with pytest.raises(ArtifactError, match=r"it has neck.weight besides"):
        load(path, task)


def test_weights_for_images_of_other_channels_are_refused_by_their_number(tmp_path: Path) -> None:
    torch.save(make_state(make_task()), tmp_path / "grey.pt")
    with pytest.raises(ArtifactError, match="take 1-channel images, and these are 3-channel"):
        load(tmp_path / "grey.pt", make_task(channels=3))


def test_attars_own_file_tells_normalisation_and_class_order(tmp_path: Path) -> None:
    from attar.runtime.checkpoint import write_tensors

    other = Normalization((0.1,), (0.3,))
    theirs = Task(("cat", "ant", "bee"), 1, 8, 8, other)
    state, path = make_state(theirs), tmp_path / "model.safetensors"
    write_tensors(path, state, {"task": theirs.to_json()})
    assert read_weights(str(path), NET, theirs).normalization == other
    network = load(path, make_task(("ant", "bee", "cat")))
    assert torch.equal(network.state_dict()["classifier.weight"], state["classifier.weight"][[1, 2, 0]])
    write_tensors(path, state, {"task": theirs.to_json(), "renormalization": {"mean": [0.5], "std": [0.7]}})
    assert read_weights(str(path), NET, theirs).normalization == Normalization((0.5,), (0.7,))


def named(*names: str) -> ClassNames:
    return ClassNames.listed([[name] for name in names])


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (("Bee", "ANT"), [1, 0]),
        (("golden_retriever", "wild-cat"), [2, 3]),
        (("dog, golden retriever", "bee"), [2, 1]),
    ],
)
def test_rows_are_found_by_any_name_of_a_class(classes: tuple[str, ...], rows: list[int]) -> None:
    known = Weights("x", {}, None, named("ant", "bee", "golden retriever, Goldie", "wild cat", "crane, bird", "crane"))
    assert weights._rows(known, 6, make_task(classes)) == rows


def test_classes_that_are_not_found_are_named() -> None:
    known = Weights("x", {}, None, named("ant", "bee", "crane, bird", "crane"))
    with pytest.raises(DataError, match="know 4 classes and the source has 2; no class of theirs is called 'wasp'"):
        weights._rows(known, 4, make_task(("wasp", "bee")))
    with pytest.raises(DataError, match="'crane'"):  # two classes of theirs are
        weights._rows(known, 4, make_task(("crane", "bee")))
    with pytest.raises(DataError, match="know 5 classes"):
        weights._rows(Weights("x", {}), 5, make_task())
    assert weights._rows(Weights("x", {}), 3, make_task()) is None


def test_imagenet_is_known_by_words_and_by_wordnet_ids() -> None:
    state: dict[str, Tensor] = {}
    for classes in (("tench", "English springer", "chain saw", "French horn"), ("n01440764", "n02102040", "n03000684")):
        rows = weights._rows(Weights("checkpoint", state), 1000, make_task(classes))
        assert rows == [0, 217, 491, 566][: len(classes)]


def test_each_class_of_imagenet_is_found_by_the_name_it_has_here() -> None:
    names = open_source("classes:imagenet-1k", without_images=True).task.class_names
    known = ClassNames.listed([[]] * 1000)
    assert [known.row(name) for name in names] == list(range(1000))  # crayfish, which a spiny lobster is too, as well
    assert known.row("Crayfish") == names.index("crayfish")
    assert known.row("CARDIGAN") is None, "a dog or a garment"


def test_a_task_finds_its_own_names_again() -> None:
    names = ("crane, bird", "crane", "crane, machine", "Wild-Cat", "wild cat")
    assert [ClassNames.of_task(names).row(name) for name in names] == [0, 1, 2, 3, 4]


def test_renormalised_images_are_what_the_network_expects() -> None:
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ours = Normalization((0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    assert torch.allclose(
        Renormalization(ours, IMAGENET)(ours.normalize(pixels)), IMAGENET.normalize(pixels), atol=1e-6
    )
    grey = Renormalization(GREY, IMAGENET)(GREY.normalize(pixels[:, :1]))
    assert torch.allclose(grey, IMAGENET.normalize(pixels[:, :1].expand(-1, 3, -1, -1)), atol=1e-6)


def test_a_grey_task_takes_a_colour_network_and_a_colour_task_no_grey_one() -> None:
    whole, network = assemble(NET, make_task(channels=1), IMAGENET)
    assert network.state_dict()["features.0.weight"].shape[1] == 3
    assert whole.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert not [key for key in whole.state_dict() if "scale" in key]
    with pytest.raises(ConfigError, match="has 1 channels and the images have 3"):
        assemble(NET, make_task(channels=3), GREY)


def test_released_weights_of_torchvision_keep_the_rows_of_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    task = make_task(("parachute", "tench"), channels=3, size_px=32)
    thousand = Task(tuple(map(str, range(1000))), 3, 32, 32, IMAGENET)
    state = make_state(thousand, name="resnet18")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **given: asked.append(given) or state)
    found = read_weights("released", "resnet18", task)
    assert (found.origin, found.normalization) == ("IMAGENET1K_V1", IMAGENET)
    assert asked[0]["weights_only"]
    _, network = assemble("resnet18", task, found.normalization)
    others = load_into(network, found, "resnet18", task, 3)
    assert others is not None
    assert (others.layer, *others.weight.shape) == ("fc", 998, 512)
    assert torch.equal(others.weight[:2], state["fc.weight"][[1, 2]])
    assert torch.equal(network.state_dict()["fc.weight"], state["fc.weight"][[701, 0]])
    assert torch.equal(network.state_dict()["fc.bias"], state["fc.bias"][[701, 0]])
    assert torch.equal(network.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    with pytest.raises(ConfigError, match="unknown weights of resnet18 'IMAGENET1K_V7'"):
        read_weights("IMAGENET1K_V7", "resnet18", task)


def test_released_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    task = make_task(("parachute", "n01440764"), channels=3, size_px=32)
    make, asked = timm.create_model, list[str]()

    def offline(name: str, pretrained: bool = False, **given: Any) -> Any:
        asked.append(name)
        return make(name, **given)

    monkeypatch.setattr(timm, "create_model", offline)
    found = read_weights("r160_in1k", "timm:test_resnet", task)
    assert set(asked) == {"test_resnet.r160_in1k"}
    assert found.origin == "test_resnet.r160_in1k"
    assert found.normalization is not None
    _, network = assemble("timm:test_resnet", task, found.normalization)
    others = load_into(network, found, "timm:test_resnet", task, 3)
    assert others is not None
    assert len(others.weight) == 998
    assert torch.equal(network.state_dict()["fc.weight"], found.state["fc.weight"][[701, 0]])


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    def away(self: Any, **given: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", away)
    with pytest.raises(DataError, match="cannot be had: no route to host") as caught:
        read_weights("released", "resnet18", make_task())
    assert "path" in caught.value.fix
    with pytest.raises(ConfigError, match="no released weights of resnet18-small"):
        read_weights("released", "resnet18-small", make_task())


def test_a_name_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").touch()
    assert [is_path(text) for text in ("a.pt", "A.SAFETENSORS", "runs/mine", "plain")] == [True] * 4
    assert [is_path(text) for text in ("released", "IMAGENET1K_V1", "a1_in1k")] == [False] * 3
