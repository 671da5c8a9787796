"""SRe2L from images to a verdict, at toy size, with every kind of network and label."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import attar
from attar.augment.views import Views
from attar.errors import ConfigError, DivergedError
from attar.methods.base import Synthetic, whole_pixels
from attar.methods.matching import AUTO_ALPHA, alpha_of, smallest_crop
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.runtime.events import read_events
from attar.runtime.seeding import generator
from attar.squeeze.teacher_files import TrainedTeacher
from attar.stages.recover import RecoverSettings, _Loop, chunks
from attar.task import Normalization, Task

TINY = {
    "squeeze.epochs": 1,
    "recover.iterations": 3,
    "recover.num_snapshots": 2,
    "train.epochs": 2,
    "train.batch_size": 8,
    "evaluate.full_epochs": 1,
    "evaluate.seeds": 1,
    "run.workers": 1,
}
TASK = Task(("a", "b", "c"), 1, 8, 8, Normalization((0.4,), (0.3,)))


def make_classes(folder: Path, *, size_px: int, grey: bool = False, num_classes: int = 2, per_class: int = 10) -> Path:
    """Class folders of noise about a shade for each class."""
    for split, seed in (("train", 0), ("val", 1)):
        for label in range(num_classes):
            shape = (per_class, size_px, size_px) if grey else (per_class, size_px, size_px, 3)
            noise = torch.randint(0, 60, shape, generator=generator(seed, label), dtype=torch.uint8) + 60 * label
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for k, pixels in enumerate(noise):
                Image.fromarray(pixels.numpy()).save(place / f"{k}.png")
    return folder


def distill(
    source: Path | str, out: Path, method: str = "sre2l", ipc: int = 1, **settings: object
) -> attar.Distillation:
    given = TINY | {key.replace("__", "."): value for key, value in settings.items()}
    return attar.distill(source, method, ipc, out=out, settings=given)


@pytest.mark.parametrize("model", [pytest.param("resnet18", marks=pytest.mark.slow), "bnvit-d1-w24-p8"])
def test_colour_goes_through_all_stages(model: str, tmp_path: Path) -> None:
    source = make_classes(tmp_path / "images", size_px=32)
    made = distill(source, tmp_path / "run", squeeze__model=model, evaluate__baselines=[])
    assert [record.subject for record in made.records] == ["distilled", "distilled, hard labels"]
    assert made.load().label_kind == "epochs"
    assert attar.load(made.path).exact_8bit
    assert made.report is not None


def test_grey_28_px_goes_through_all_stages_online_too(tmp_path: Path) -> None:
    source = make_classes(tmp_path / "images", size_px=28, grey=True)
    made = distill(source, tmp_path / "run", squeeze__model="convnet-d2-w8-batch", relabel__labels="online")
    subjects = ["distilled", "distilled, hard labels", "random", "random, hard labels", "full"]
    assert [record.subject for record in made.records] == subjects
    loaded = made.load()
    assert loaded.task.shape == (1, 28, 28)
    assert loaded.label_kind == "online"
    assert loaded.sizes["teacher"] > 0
    again = attar.evaluate(made.distilled, source, seeds=1, baselines=["random"], out=tmp_path / "again")
    assert [record.values for record in again.records] == [record.values for record in made.records[:4]]


def test_a_stored_label_is_the_teachers_output_on_the_replayed_pixels(tmp_path: Path) -> None:
    made = distill("digits", tmp_path / "run", squeeze__model="convnet-d1-w8-batch", source__train_per_class=20)
    loaded = made.load()
    store, views = loaded.label_store, Views.from_json(loaded.views or {})
    assert store is not None
    teacher = TrainedTeacher(made.path / "squeeze", loaded.task, Engine("cpu"))
    indices, epochs = torch.arange(len(loaded)), torch.ones(len(loaded), dtype=torch.int64)
    wanted = teacher.logits(views.apply(loaded.images_at, epochs, indices))
    wanted -= wanted.mean(1, keepdim=True)
    assert (store.read(epochs, indices) - wanted).abs().max() <= store.error.max_abs * 1.001
    assert 0 < store.error.max_abs < 0.05 * float(wanted.abs().max())


def test_other_labels_for_images_that_are_there(tmp_path: Path) -> None:
    settings = TINY | {"squeeze.model": "convnet-d1-w8-batch", "source.train_per_class": 20, "train.epochs": 20}
    made = attar.distill("digits", "sre2l", 10, out=tmp_path / "run", settings=settings, until="relabel")
    chunk = made.path / "recover" / "synthetic-00000.safetensors"
    size_bytes, made_ns = made.load().sizes["labels"], chunk.stat().st_mtime_ns
    smaller = attar.resume(made.path, "relabel", settings={"relabel.label_budget": "5KB"}, redo="relabel")
    assert smaller.load().sizes["labels"] < size_bytes / 4
    assert chunk.stat().st_mtime_ns == made_ns
    with pytest.raises(ConfigError, match="do not fit"):
        attar.resume(made.path, "relabel", settings={"relabel.label_budget": "1B"}, redo="relabel")
    assert smaller.load().sizes["labels"] < size_bytes / 4, "what was there is still there"


def test_a_network_without_batch_norm_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no BatchNorm") as caught:
        distill("digits", tmp_path / "run", squeeze__model="convnet-d1-w8")
    assert "convnet-d3-w128-batch" in str(caught.value.fix)
    assert not (tmp_path / "run").exists()


def test_a_network_with_batch_norm_means_a_method_with_a_teacher(tmp_path: Path) -> None:
    settings = {"squeeze.epochs": 1, "source.train_per_class": 5}
    begun = attar.distill(
        "digits", model="convnet-d2-w8-batch", out=tmp_path / "run", settings=settings, until="squeeze"
    )
    events = read_events(begun.path / "events.jsonl")
    assert any("is a teacher" in event.get("message", "") for event in events)
    assert (begun.path / "squeeze" / "teacher.safetensors").exists()


def make(ipc: int = 4, **settings: object) -> tuple[Sre2l, "Knowledge"]:
    return Sre2l(Sre2lSettings(**settings), TASK, ipc), Knowledge()


class Knowledge:
    """A teacher of random weights."""

    def __init__(self, name: str = "convnet-d1-w8-batch") -> None:
        self.model = build(name, TASK).eval().requires_grad_(False)


class Real:
    labels = torch.arange(3).repeat_interleave(8)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.randn(24, 1, 8, 8, generator=generator(0))[indices]


def test_chunks_hold_as_many_classes_as_fit_and_the_last_may_be_short() -> None:
    method, _ = make(ipc=4)
    parts = chunks(method, RecoverSettings(chunk_size=5))
    assert [len(part) for part in parts] == [5, 5, 2]
    labels = method.labels()
    assert all(len(set(labels[part].tolist())) == min(3, len(part)) for part in parts)
    assert torch.cat(parts).tolist() == list(range(12))


@pytest.mark.parametrize("start", ["noise", "real"])
def test_an_image_begins_the_same_whatever_its_chunk(start: str) -> None:
    method, knowledge = make(start=start)
    rngs = partial(generator, 0)
    whole = method.init(torch.arange(12), Real(), knowledge, rngs).variables["images"]
    part = method.init(torch.arange(5, 9), Real(), knowledge, rngs).variables["images"]
    assert torch.equal(part, whole[5:9])


def test_every_term_is_in_the_gradient() -> None:
    state = make()[0].init(torch.arange(6), Real(), None, partial(generator, 0))
    picked, found = torch.arange(6), {}
    for name, extra in (("plain", {}), ("tv", {"alpha_tv": 0.1}), ("l2", {"alpha_l2": 0.1}), ("bn", {"alpha_bn": 9.0})):
        method, knowledge = make(**{"alpha_bn": 1.0, **extra})
        gradients, metrics = method.gradient(state, picked, Real(), knowledge, generator(1))
        found[name] = gradients["images"]
        terms = float(metrics["classification"]) + method.settings.alpha_bn * float(metrics["statistics"])
        assert (float(metrics["loss"]) == pytest.approx(terms, rel=1e-5)) == (name in ("plain", "bn"))
    assert all(not torch.equal(found["plain"], found[name]) for name in ("tv", "l2", "bn"))


def test_auto_alpha_makes_teachers_of_any_depth_weigh_alike() -> None:
    shares = []
    for name in ("convnet-d1-w8-batch", "convnet-d3-w64-batch"):
        method, _ = make(ipc=4)
        knowledge = Knowledge(name)
        state = method.init(torch.arange(12), Real(), knowledge, partial(generator, 0))
        metrics = method.gradient(state, torch.arange(12), Real(), knowledge, generator(1))[1]
        watched = method._watch(knowledge)
        alpha = alpha_of(method.settings, watched)
        assert alpha == pytest.approx(AUTO_ALPHA / watched.scale())
        shares.append(float(metrics["statistics"]) * alpha)
    plain = [float(value) for value in shares]
    assert max(plain) < 3 * min(plain)


@pytest.mark.parametrize(
    ("shape", "left"),
    [
        ("cosine", lambda part: (1 + math.cos(math.pi * part)) / 2),
        ("linear", lambda part: 1 - part),
        ("step", lambda _: 1),
    ],
)
def test_curricula_are_those_of_cda(shape: str, left: Callable[[float], float]) -> None:
    """`easy2hard_mode` and `milestone` in CDA/recover_cda_in1k.py, in iteration i of n."""
    settings = Sre2lSettings(curriculum=0.75, curriculum_shape=shape)
    for i in range(20):
        expected = 0.08 + 0.92 * left(i / 20 / 0.75) if i < 0.75 * 20 else 0.08
        assert smallest_crop(settings, i / 20) == pytest.approx(expected)


def test_the_curriculum_ends_at_the_smallest_crop() -> None:
    settings = Sre2lSettings(curriculum=0.5, crop_min_scale=0.2)
    scales = [smallest_crop(settings, done) for done in (0.0, 0.25, 0.5, 0.9)]
    assert scales == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert smallest_crop(Sre2lSettings(crop_min_scale=0.2), 0.0) == 0.2


def test_events_tell_the_two_terms_of_each_chunk(tmp_path: Path) -> None:
    made = distill(
        "digits",
        tmp_path / "run",
        squeeze__model="convnet-d1-w8-batch",
        recover__chunk_size=4,
        source__train_per_class=20,
    )
    steps = [event for event in read_events(made.path / "events.jsonl") if event["stage"] == "recover"]
    assert {event["about"]["number"] for event in steps} == {0, 1, 2}
    assert all({"classification", "statistics", "confidence"} <= set(event) for event in steps)


def test_a_rate_that_is_too_high_is_told_with_a_lower_one(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"finite|reach") as caught:
        distill(
            "digits",
            tmp_path / "run",
            squeeze__model="convnet-d1-w8-batch",
            method__alpha_bn=1e38,
            method__alpha_tv=1e38,
            source__train_per_class=20,
        )
    assert "--redo recover" in str(caught.value.fix)


IN_CHUNKS = {
    **TINY,
    "squeeze.model": "convnet-d1-w8-batch",
    "recover.chunk_size": 4,
    "source.train_per_class": 20,
}


def made_in_chunks(out: Path) -> Path:
    return attar.distill("digits", "sre2l", 1, out=out, settings=IN_CHUNKS, until="relabel").distilled


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_in_chunks(tmp_path_factory.mktemp("chunks") / "unbroken")


@pytest.mark.parametrize(("chunk", "step"), [(0, 2), (1, 0), (2, 1)])
def test_stopped_in_any_chunk_goes_on_to_the_same_bytes(
    chunk: int, step: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.stages.recover.CHECKPOINT_EVERY_S", 0.0)
    take = _Loop._step

    def interrupted(loop: _Loop, at: int) -> object:
        if (loop.chunk, at) == (chunk, step):
            raise KeyboardInterrupt
        return take(loop, at)

    with monkeypatch.context() as patched:
        patched.setattr(_Loop, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made_in_chunks(tmp_path / "broken")
    broken = made_in_chunks(tmp_path / "broken")
    names = sorted(path.name for path in unbroken.rglob("*") if path.is_file())
    assert names == sorted(path.name for path in broken.rglob("*") if path.is_file())
    for path in unbroken.rglob("*"):
        if path.is_file():
            assert (broken / path.relative_to(unbroken)).read_bytes() == path.read_bytes()


def test_contrast_is_what_the_first_statistics_remember() -> None:
    """Images that are paler or stronger than those which the teacher was trained on end with the same variance."""
    model, pixels = build("convnet-d2-w8-batch", TASK), torch.rand(64, 1, 8, 8, generator=generator(0))
    real = TASK.normalization.normalize(pixels)
    model.train()
    for _ in range(80):
        model(real)
    teacher = SimpleNamespace(model=model.eval())
    pale = TASK.normalization.normalize(0.4 + 0.3 * (pixels[:30] - 0.5))
    for at_once in (None, 7):
        kept, set_right = (
            Sre2l(Sre2lSettings(contrast=contrast, images_at_once=at_once), TASK, 10)
            for contrast in ("kept", "statistics")
        )
        state = Synthetic(torch.arange(30) % 3, {"images": pale.clone()})
        seen = kept._watch(teacher).first_variance
        assert seen(pale) == pytest.approx(0.09, rel=0.1)
        assert torch.equal(kept.finish(state, teacher).images, whole_pixels(pale, TASK.normalization))
        made = set_right.finish(state, teacher)
        assert seen(made.images) == pytest.approx(1, abs=0.02)
        assert made.exact_8bit
        pixels_made = TASK.normalization.pixels(made.images)
        assert 0 <= pixels_made.min() < pixels_made.max() <= 1
        torch.testing.assert_close(pixels_made.mul(255), pixels_made.mul(255).round(), atol=1e-3, rtol=0)
