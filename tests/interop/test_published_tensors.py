"""Tensors as the code of MTT, TESLA, DATM and DC saves them, and what their values are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attar import api
from attar.data.loading import MemorySplit
from attar.data.whitening import measure_whitening
from attar.errors import ArtifactError, AttarError, ConfigError
from attar.interop.foreign import require_recognised
from attar.interop.loaded import Origin
from attar.interop.opening import import_foreign, open_foreign
from attar.interop.scales import constants_of, normalization_of, tell
from attar.interop.settings import ForeignSettings
from attar.interop.tensors import read_tensors
from attar.normalizations import PUBLISHED
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

SIDE, CLASSES, IPC = 8, 3, 4
NAMES = ("ant", "bee", "cat")
OWN = Normalization((0.45, 0.5, 0.4), (0.22, 0.2, 0.25))
TASK = Task(NAMES, 3, SIDE, SIDE, OWN)


def photographs(num: int = CLASSES * IPC, seed: int = 0) -> Tensor:
    """Pixels uint8 (n, 3, 8, 8) that vary together as those of photographs do."""
    coarse = torch.rand(num, 3, 3, 3, generator=generator(seed, "photographs"))
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear", align_corners=True)
    return (smooth * 255).round().to(torch.uint8)


LABELS = torch.arange(CLASSES).repeat_interleave(IPC)


def save(folder: Path, **tensors: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in tensors.items():
        torch.save(value, folder / f"{name}.pt")
    return folder


def noisy(images: Tensor, scale: float) -> Tensor:
    return images + scale * torch.randn(images.shape, generator=generator(0, "noise"))


def whitened(pixels: Tensor) -> Tensor:
    split = MemorySplit(photographs(200, 1), torch.zeros(200))
    return measure_whitening(split, TASK.shape, 0.1, Events(quiet=True)).whiten(pixels.float() / 255)


def test_values_are_told_apart() -> None:
    pixels = photographs()
    cases: dict[str, list[Tensor]] = {
        "bytes": [pixels, pixels.float(), pixels.double()],
        "unit": [pixels.float() / 255, noisy(pixels.float() / 255, 0.1)],
        "normalized": [
            noisy(scale.normalize(pixels), noise) for scale in (OWN, PUBLISHED["cifar"]) for noise in (0, 0.3, 1)
        ],
        "zca": [noisy(whitened(pixels), noise) for noise in (0, 0.2)],
    }
    for kind, images in cases.items():
        assert [tell(one, "images") for one in images] == [kind] * len(images)


@pytest.mark.parametrize(
    "images", [torch.randn(4, 3, 8, 8), torch.full((4, 3, 8, 8), 2.0), 1e3 * torch.randn(4, 3, 8, 8)]
)
def test_what_cannot_be_told_is_refused(images: Tensor) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)cannot be told.*foreign\.pixels"):
        tell(images, "images_best.pt")


def test_normalised_tensors_keep_the_scale_of_published_code(tmp_path: Path) -> None:
    images = PUBLISHED["cifar"].normalize(photographs())
    source = save(tmp_path / "mtt", images_best=images.requires_grad_(), labels_best=LABELS)
    loaded = read_tensors(source, Origin(TASK, "cifar10"), ForeignSettings())
    assert loaded.task.normalization == PUBLISHED["cifar"]
    assert torch.equal(loaded.open().pixels().mul(255).round().byte(), photographs())
    assert read_tensors(source, Origin(TASK, "mine"), ForeignSettings()).task.normalization == OWN
    named = ForeignSettings(normalization="0.5,0.5,0.5/0.25,0.25,0.25")
    assert read_tensors(source, Origin(TASK, "cifar10"), named).task.normalization.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("scale", ["unit", "bytes", "uint8"])
def test_pixels_are_normalised_by_the_source(tmp_path: Path, scale: str) -> None:
    pixels = photographs()
    stored = {"unit": pixels.float() / 255, "bytes": pixels.float(), "uint8": pixels}[scale]
    loaded = read_tensors(save(tmp_path / "raw", images=stored, labels=LABELS), Origin(TASK), ForeignSettings())
    assert loaded.task.normalization == OWN
    assert loaded.open().exact_8bit == (scale != "unit")
    assert torch.allclose(loaded.open().images, OWN.normalize(pixels), atol=1e-6)


def test_whitened_tensors_are_seen_through_the_whitening_of_the_source(tmp_path: Path) -> None:
    source = save(tmp_path / "zca", images_best=whitened(photographs()), labels_best=LABELS)
    with pytest.raises(ArtifactError, match="whitened images"):
        read_tensors(source, Origin(TASK), ForeignSettings())
    real = MemorySplit(photographs(200, 1), torch.zeros(200))
    opened = read_tensors(source, Origin(TASK, "", real), ForeignSettings()).open()
    assert opened.task.normalization.whitening is not None
    assert torch.allclose(opened.pixels(), photographs().float() / 255, atol=1e-4)
    assert opened.sizes["total"] == sum(value for name, value in opened.sizes.items() if name != "total")


def test_learnt_labels_and_rate_of_datm(tmp_path: Path) -> None:
    """Labels are logits there, in a folder named Normal."""
    logits = 4 * torch.nn.functional.one_hot(LABELS, CLASSES) + torch.randn(len(LABELS), CLASSES)
    folder = save(
        tmp_path / "datm/Normal",
        images_best=OWN.normalize(photographs()),
        labels_best=logits.requires_grad_(),
        lr_best=torch.tensor(0.0125),
    )
    for source in (tmp_path / "datm", folder, folder / "images_best.pt", folder / "labels_best.pt"):
        loaded = read_tensors(source, Origin(TASK), ForeignSettings())
        assert loaded.learning_rate == pytest.approx(0.0125)
        assert loaded.soft_labels is not None
        assert torch.allclose(loaded.soft_labels, logits.softmax(1))
    (folder / "lr_best.pt").rename(folder / "lr.pt")
    assert read_tensors(folder, Origin(TASK), ForeignSettings()).learning_rate == pytest.approx(0.0125)
    save(folder, lr=torch.tensor(-1.0))
    with pytest.raises(ArtifactError, match="no learning rate"):
        read_tensors(folder, Origin(TASK), ForeignSettings())


def test_labels_that_are_neither_are_refused_unless_it_is_said(tmp_path: Path) -> None:
    neither = torch.rand(len(LABELS), CLASSES) + 1
    source = save(tmp_path / "soft", images=OWN.normalize(photographs()), labels=neither)
    with pytest.raises(ArtifactError, match=r"foreign\.soft_labels=logits"):
        read_tensors(source, Origin(TASK), ForeignSettings())
    loaded = read_tensors(source, Origin(TASK), ForeignSettings(soft_labels="logits"))
    assert loaded.soft_labels is not None
    assert torch.allclose(loaded.soft_labels, neither.softmax(1))


def condensed(path: Path, zipped: bool = True) -> list[list[Tensor]]:
    """A file of DC's code: sets of several experiments, and accuracies as numpy's numbers.

    torch 1.2, which it asks for, makes no zip archive.
    """
    sets = [[OWN.normalize(photographs(seed=seed)), LABELS.clone()] for seed in (3, 4)]
    results = {"ConvNet": [np.float64(0.44), np.float64(0.45)]}
    torch.save({"data": sets, "accs_all_exps": results}, path, _use_new_zipfile_serialization=zipped)
    return sets


@pytest.mark.parametrize("zipped", [True, False])
def test_sets_of_several_experiments_are_in_one_file(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "res_DSA_CIFAR10_ConvNet_4ipc.pt"
    for part, (images, labels) in enumerate(condensed(path, zipped)):
        loaded = read_tensors(path, Origin(TASK), ForeignSettings(part=part))
        assert torch.equal(loaded.stored, images)
        assert torch.equal(loaded.labels, labels)
    with pytest.raises(ConfigError, match=r"foreign\.part=2"):
        read_tensors(path, Origin(TASK), ForeignSettings(part=2))
    torch.save({"data": []}, path)
    with pytest.raises(ArtifactError, match="no images with labels that are known"):
        read_tensors(path, Origin(TASK), ForeignSettings())


def test_constants_go_by_the_source_and_by_whose_code_it_is() -> None:
    """A folder or a hub repository of CIFAR-10 is known as well as its name; CIFAR-100 has two sets of constants."""
    for source in ("cifar10", "/data/cifar10", "data/CIFAR10/", "hf:uoft-cs/cifar10", "hf:uoft-cs/cifar10:plain_text"):
        assert constants_of(source) == constants_of(source, "condensation") == "cifar"
    assert (constants_of("cifar100"), constants_of("cifar100", "condensation")) == ("cifar", "cifar100")
    assert constants_of("hf:zalando-datasets/fashion_mnist", "condensation") == "fashion-mnist"
    assert constants_of("tiny-imagenet-200") == "imagenet"
    assert {constants_of(source) for source in ("", "somewhere/else", "mnist", "cifar10/mine")} == {"source"}


def test_cifar100_of_dc_has_other_constants_than_that_of_mtt(tmp_path: Path) -> None:
    condensed(tmp_path / "res_DM_CIFAR100_ConvNet_4ipc.pt")
    save(tmp_path / "mtt", images_best=OWN.normalize(photographs()), labels_best=LABELS)
    for name, constants in (("res_DM_CIFAR100_ConvNet_4ipc.pt", "cifar100"), ("mtt", "cifar")):
        loaded = read_tensors(tmp_path / name, Origin(TASK, "data/cifar100"), ForeignSettings())
        assert loaded.task.normalization == PUBLISHED[constants]
        assert loaded.read_as == f"normalised images, foreign.normalization={constants}"


def test_images_that_mtt_has_unwhitened_have_the_labels_of_their_iteration(tmp_path: Path) -> None:
    unwhitened = noisy(photographs().float() / 255, 0.1)
    folder = save(tmp_path / "mtt", images_50=whitened(photographs()), labels_50=LABELS, images_zca_50=unwhitened)
    loaded = read_tensors(folder / "images_zca_50.pt", Origin(TASK), ForeignSettings())
    assert torch.equal(loaded.labels, LABELS)
    assert loaded.read_as == "pixels of 0..1"
    assert torch.equal(loaded.stored, OWN.normalize(unwhitened))


def test_of_a_folder_of_iterations_one_has_to_be_chosen(tmp_path: Path) -> None:
    images = OWN.normalize(photographs())
    folder = save(tmp_path / "run", images_0=images, labels_0=LABELS, images_5000=images, labels_5000=LABELS)
    for read in (lambda: read_tensors(folder, Origin(TASK), ForeignSettings()), lambda: require_recognised(folder)):
        with pytest.raises(AttarError, match=r"one of the 2 sets in it, such as .*images_5000\.pt"):
            read()


def test_a_normalisation_is_named_or_numbers() -> None:
    assert normalization_of("cifar100", OWN) == PUBLISHED["cifar100"]
    assert normalization_of("source", OWN) == OWN
    with pytest.raises(ConfigError, match="1 channels, the source 3"):
        normalization_of("mnist", OWN)
    for text in ("imagenett", "0.5/0.5,0.5", "0.5,0.5,0.5/0,1,1", "1,,2/1"):
        with pytest.raises(ValueError, match="normali"):
            ForeignSettings(normalization=text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for split, seed in (("train", 1), ("test", 2)):
        pixels = photographs(24, seed)
        for number, image in enumerate(pixels):
            path = tmp_path / f"real/{split}/{NAMES[number % CLASSES]}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "real"


TOY = ["train.epochs=2", "source.validation_fraction=0"]


@pytest.mark.parametrize("kind", ["normalized", "zca", "condensed"])
def test_evaluate_judges_them_with_no_step_in_between(tmp_path: Path, source: Path, kind: str) -> None:
    path = tmp_path / "theirs.pt" if kind == "condensed" else tmp_path / "theirs"
    if kind == "condensed":
        condensed(path)
    else:
        images = whitened(photographs()) if kind == "zca" else OWN.normalize(photographs())
        save(path, images_best=images, labels_best=LABELS, lr_best=torch.tensor(0.02))
    found = api.evaluate(path, source, models=["convnet-d1-w8"], seeds=1, baselines=["random"], settings=TOY)
    assert [record.subject for record in found.records] == ["distilled", "random"]
    rate = 0.01 if kind == "condensed" else 0.02
    assert found.records[0].protocol["learning_rate"] == pytest.approx(rate)
    assert found.records[0].num_images == CLASSES * IPC
    assert (tmp_path / f"{path.name}-evaluation/evaluation.json").is_file()


def test_continual_learning_takes_them_too(tmp_path: Path, source: Path) -> None:
    path = save(tmp_path / "theirs", images_best=OWN.normalize(photographs()), labels_best=LABELS)
    found = api.continual(path, source, model="convnet-d1-w8", steps=2, baseline=False, settings=TOY)
    assert [record.arrival.num_classes for record in found if record.arrival] == [2, 3]


def test_settings_say_what_files_leave_open(tmp_path: Path, source: Path) -> None:
    noise = torch.randn(12, 3, SIDE, SIDE, generator=generator(0, "images"))
    path = save(tmp_path / "theirs", images_best=noise, labels_best=LABELS)
    with pytest.raises(ArtifactError, match="cannot be told"):
        open_foreign(path, str(source))
    opened = open_foreign(path, str(source), ["foreign.pixels=normalized", "train.epochs=3", "validation_fraction=0.2"])
    assert torch.equal(opened.distilled.stored, noise)
    assert opened.assignments == ["train.epochs=3", "validation_fraction=0.2"]
    assert opened.distilled.info["settings"]["source"]["resolution"] == SIDE
    with pytest.raises(ConfigError, match="pixel"):
        open_foreign(path, str(source), ["foreign.pixels=brightness"])
    made = import_foreign(path, tmp_path / "made", "tensors", str(source), ["foreign.pixels=normalized"])
    assert torch.equal(made.images, noise)
    with pytest.raises(ConfigError, match="unknown format"):
        import_foreign(path, tmp_path / "again", "tensor")


def test_another_number_of_classes_or_size_is_told(tmp_path: Path, source: Path) -> None:
    images = OWN.normalize(photographs())
    more = save(tmp_path / "more", images_best=images, labels_best=LABELS + 1)
    with pytest.raises(AttarError, match=r"outside 0\.\.2"):
        open_foreign(more, str(source))
    grey = save(tmp_path / "grey", images_best=images[:, :1], labels_best=LABELS)
    with pytest.raises(ArtifactError, match=r"images float32 \(12, 1, 8, 8\)"):
        open_foreign(grey, str(source))
    with pytest.raises(AttarError, match="no distilled images"):
        open_foreign(source / "test/ant", str(source))
