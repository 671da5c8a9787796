"""Whole runs on a pretended accelerator: no tensor meets one of another device, and results are the CPU's to the bit.

It shows that values are where they must be, which a machine without a GPU can show; not what only a GPU does, such as
its kernels, its memory and its lower precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.data import loading
from attar.losses import class_statistics
from attar.methods import METHODS
from attar.runtime.engine import Engine
from attar.training.strategies import STRATEGIES
from pretended import DEVICE, pretended_device, without_float64

Settings = dict[str, Any]
SMALL: Settings = {"source.train_per_class": 12, "train.epochs": 2}
ENDS: Settings = {**SMALL, "evaluate.seeds": 1, "evaluate.models": ["convnet-d1-w8"]}
EXPERTS: Settings = {
    **ENDS,
    "squeeze.model": "convnet-d1-w8",
    "squeeze.num_experts": 1,
    "squeeze.epochs": 3,
    "recover.iterations": 3,
    "method.num_steps": 2,
    "method.max_start_epoch": 1,
    "evaluate.baselines": [],
}
SCORED: Settings = {
    key: value for key, value in EXPERTS.items() if key.startswith(("source", "squeeze", "train", "ev"))
}
CHARACTERISTIC: Settings = {**SCORED, "recover.iterations": 3}
TAUGHT: Settings = {**ENDS, "squeeze.model": "convnet-d1-w8-batch", "squeeze.epochs": 1}
TEACHER: Settings = {**TAUGHT, "recover.iterations": 3}
POOL: Settings = {**TEACHER, "squeeze.epochs": 3, "squeeze.num_members": 2, "evaluate.baselines": []}
DEEP: Settings = {
    **TEACHER,
    "squeeze.model": "wrn-10-1",
    "evaluate.models": ["wrn-10-1"],
}

RUNS: dict[str, tuple[str, int, Settings]] = {
    "tesla": ("tesla", 1, EXPERTS),
    "sre2l": ("sre2l", 2, TEACHER),
    "teddy": ("teddy", 6, POOL),
    "tesla, as published": (
        "tesla",
        2,
        {**EXPERTS, "method.gradient": "published", "source.zca": True, "method.labels": "expert"},
    ),
    "tesla, two draws": (
        "tesla",
        2,
        {**EXPERTS, "recover.ema": 0.9, "recover.draws_per_step": 2, "method.batch_size": 8},
    ),
    "mtt": ("mtt", 1, {**EXPERTS, "method.labels": "learnt"}),
    "sre2l, real": (
        "sre2l",
        2,
        {**TEACHER, "method.start": "real", "method.curriculum": 1, "method.alpha_tv": 0.1, "method.alpha_l2": 0.1},
    ),
    "sre2l, patches": ("sre2l", 2, {**TEACHER, "method.start": "patches", "relabel.labels": "online"}),
    "sre2l, deeper": ("sre2l", 1, {**DEEP, "relabel.mix": "mixup", "relabel.codec": "topk"}),
    "teddy, pruned": ("teddy", 2, {**POOL, "squeeze.pool": "post"}),
    "rded": ("rded", 2, TAUGHT),
    "rded, spread": ("rded", 2, {**TAUGHT, "method.pick": "spread", "evaluate.baselines": []}),
    "cim": ("cim", 2, {**TEACHER, "evaluate.baselines": []}),
    "dm": ("dm", 2, {**ENDS, "recover.iterations": 3, "evaluate.baselines": []}),
    "dm, tiles": (
        "dm",
        2,
        {**ENDS, "recover.iterations": 3, "method.tiles": 2, "method.start": "kmeans", "evaluate.baselines": []},
    ),
    "fadrm": ("fadrm", 2, {**TEACHER, "evaluate.baselines": []}),
    "ncfm": ("ncfm", 2, CHARACTERISTIC),
    "pca": ("pca", 2, {**TAUGHT, "evaluate.baselines": []}),
    "easy": ("easy", 2, {**TAUGHT, "evaluate.baselines": []}),
    "el2n": ("el2n", 2, SCORED),
    "forgetting": ("forgetting", 2, SCORED),
    "sre2l, spectrum": (
        "sre2l",
        2,
        {**TEACHER, "method.parametrisation": "spectrum", "method.statistics_unit": "channel"},
    ),
    "sre2l, cutmix": ("sre2l", 2, {**TEACHER, "relabel.mix": "cutmix", "relabel.shuffle_patches": 2}),
    "tesla, aligned": (
        "tesla",
        2,
        {**EXPERTS, "method.start": "right", "method.labels": "learnt", "method.label_start": "expert"},
    ),
    "herding": ("herding", 2, {**TAUGHT, "evaluate.baselines": ["random", "herding", "kmeans", "kcenter", "full"]}),
    "random": ("random", 2, {**ENDS, "evaluate.scores": True}),
}
TRAININGS: dict[str, tuple[str, Settings]] = {
    "dlb": ("convnet-d1-w8", {"strategy": "dlb"}),
    "ddgsd": ("convnet-d1-w8", {"strategy": "ddgsd"}),
    "byot": ("wrn-10-1", {"strategy": "byot"}),
    "mixskd": ("wrn-10-1", {"strategy": "mixskd"}),
    "tf-kd": ("convnet-d1-w8", {"strategy": "tf-kd"}),
    "ps-kd": ("convnet-d1-w8", {"strategy": "ps-kd"}),
    "dlb+ddgsd": ("convnet-d1-w8", {"strategy": "dlb+ddgsd"}),
    "cs-kd": ("convnet-d1-w8", {"strategy": "cs-kd"}),
    "zipf-ls": ("convnet-d1-w8", {"strategy": "zipf-ls"}),
    "label-smoothing": ("convnet-d1-w8", {"strategy": "label-smoothing"}),
    "byot+dlb": ("wrn-10-1", {"strategy": "byot+dlb"}),
    "randaugment": ("convnet-d1-w8", {"settings": {"randaugment": 2, "cutout_px": 3, "optimizer": "muon"}}),
    "tiles": ("convnet-d1-w8", {"settings": {"augment": "tile_dsa", "augment_per": "image", "optimizer": "adamw"}}),
    "mixes": ("convnet-d1-w8", {"settings": {"cutmix": 0.5, "mixup": 0.5, "augment": "crop_cutout", "accumulate": 2}}),
    "wrong labels": ("convnet-d1-w8", {"settings": {"ema": 0.9, "augment": "dsa"}, "label_noise": 0.3}),
}
QUICK = ("tesla", "teddy", "dlb")


class _Threads(ThreadPoolExecutor):
    """Threads that know the pretended device, as each has to be told."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        def told() -> Any:
            with pretended_device():
                return fn(*args, **kwargs)

        return super().submit(told)


@contextmanager
def there(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every engine runs on the pretended device; torch takes it for one that it has fused optimisers for."""
    made, autocast, enabled = Engine.__init__, torch.autocast, torch.is_autocast_enabled

    def moved(engine: Engine, device: str = "auto", precision: str = "32-true", *others: Any) -> None:
        made(engine, "cpu", precision, *others)
        engine.device = DEVICE

    def on_cpu(device: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device == DEVICE.type else device, *args, **kwargs)

    with patch.context() as patched, pretended_device():
        patched.setattr(Engine, "__init__", moved)
        patched.setattr(torch, "autocast", on_cpu)
        patched.setattr(torch, "is_autocast_enabled", lambda *of: of != (DEVICE.type,) and enabled(*of))
        fused = import_module("torch.optim.optimizer")
        patched.setattr(fused, "_get_fused_kernels_supported_devices", lambda: ["cpu", DEVICE.type])
        patched.setattr(loading, "ThreadPoolExecutor", _Threads)
        yield


def cases(names: Any) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


def test_every_method_and_strategy_is_among_these() -> None:
    run = {method for method, _, _ in RUNS.values()}
    run |= {name for _, _, settings in RUNS.values() for name in settings.get("evaluate.baselines", ())}
    assert set(METHODS.own) <= run
    trained = {name for _, given in TRAININGS.values() for name in given.get("strategy", "ce").split("+")}
    assert set(STRATEGIES.own) <= trained | {"kd"}, "kd asks a teacher, as relabel does"


@pytest.mark.parametrize("name", cases(RUNS))
def test_a_run_is_the_same_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, ipc, settings = RUNS[name]

    def run(out: str) -> Any:
        made = attar.distill("digits", method, ipc, recipe="none", out=tmp_path / out, settings=settings, device="cpu")
        return made.load().stored, [record.values for record in made.records]

    here = run("here")
    with there(monkeypatch):
        elsewhere = run("there")
    assert torch.equal(here[0], elsewhere[0])
    assert here[1] == elsewhere[1]


@pytest.mark.parametrize("name", cases(RUNS))
def test_no_run_needs_float64_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, ipc, settings = RUNS[name]
    monkeypatch.setattr(class_statistics, "WITHOUT_FLOAT64", (DEVICE.type,))
    until = "relabel" if "evaluate.baselines" in settings else "evaluate"  # students are the same after any method
    with there(monkeypatch), without_float64():
        attar.distill("digits", method, ipc, recipe="none", out=tmp_path, settings=settings, until=until, device="cpu")


@pytest.mark.parametrize("name", cases(TRAININGS))
def test_a_training_is_the_same_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = TRAININGS[name]
    settings = {"epochs": 2, "batch_size": 32, "source.train_per_class": 12, **given.get("settings", {})}
    options = {key: value for key, value in given.items() if key != "settings"}

    def run(out: str) -> Any:
        made = attar.train("digits", model, settings=settings, out=tmp_path / out, device="cpu", **options)
        return list(made.losses), dict(made.accuracies)

    here = run("here")
    with there(monkeypatch):
        elsewhere = run("there")
    assert here == elsewhere


@pytest.mark.slow
def test_classes_that_arrive_are_the_same_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = attar.distill("digits", "sre2l", 2, recipe="none", out=tmp_path / "run", settings=TEACHER, device="cpu")

    def run(out: str) -> Any:
        given: Any = {"steps": 2, "labels": ["stored", "hard"], "settings": {"train.epochs": 2}, "device": "cpu"}
        return [record.values for record in attar.continual(made.path, "digits", out=tmp_path / out, **given)]

    here = run("here")
    with there(monkeypatch):
        elsewhere = run("there")
    assert here == elsewhere


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with pretended_device() as device:
        far, near = torch.ones(2, 3, device=device), torch.ones(3)
        assert (far + far).sum().item() == 12
        assert far[torch.tensor([0])].device == device, "indices may lie on the CPU"
        for wrong in (
            lambda: far + near,
            lambda: near[torch.zeros(1, dtype=torch.int64, device=device)],
            lambda: torch.randn(3, device=device, generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match=r"device|generator"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            far.numpy()
        assert torch.equal(far.cpu(), torch.ones(2, 3))
