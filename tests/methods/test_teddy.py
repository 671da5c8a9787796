"""Teddy: whose turn it is, what it is held against, and from images to a verdict at toy size."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import attar
from attar.artifacts.distilled import load_distilled
from attar.artifacts.run import RunFolder
from attar.augment.views import Views
from attar.cli import app
from attar.errors import ConfigError
from attar.losses.class_statistics import LayerStatistics
from attar.methods.base import Member
from attar.methods.matching import AUTO_ALPHA, alpha_of
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.methods.teddy import Teddy, TeddySettings
from attar.models.factory import build
from attar.models.norms import batch_norms
from attar.run.pipeline import Until
from attar.run.settings import resolve, restore
from attar.runtime.engine import Engine
from attar.runtime.seeding import generator
from attar.squeeze.pool import TrainedPool
from attar.squeeze.teacher_files import TrainedTeacher
from attar.stages.recover import _Loop
from attar.task import Normalization, Task

TASK = Task(("a", "b", "c"), 1, 8, 8, Normalization((0.4,), (0.3,)))
ALL = torch.arange(6)


class Pool:
    """Networks of random weights; the statistics are what they have learnt, or drawn by number."""

    num_members, num_in_memory = 4, 2

    def __init__(self, learnt: bool = True) -> None:
        self.learnt, self.opened = learnt, list[int]()

    def member(self, k: int, classes: bool = False) -> Member:
        self.opened.append(k)
        model = build("convnet-d2-w8-batch", TASK, seed=k).eval().requires_grad_(False)
        statistics = []
        for norm in batch_norms(model):
            mean, var = norm.running_mean, norm.running_var
            if not self.learnt:
                mean, var = torch.rand(2, len(mean), generator=generator(k))
            of_class = (mean.expand(3, -1), var.expand(3, -1)) if classes else ()
            statistics.append(LayerStatistics(mean, var, *of_class))
        return Member(model, tuple(statistics))

    @property
    def model(self) -> torch.nn.Module:
        return self.member(0).model


def make(**settings: object) -> Teddy:
    return Teddy(TeddySettings(**{"start": "noise", **settings}), TASK, 2)


def gradient(method: Teddy | Sre2l, pool: Pool, step: int = 0, done: float = 0.0) -> torch.Tensor:
    state = method.init(ALL, None, None, partial(generator, 0))
    return method.gradient(state, ALL, None, pool, generator(1, step), done)[0]["images"]


def test_with_one_member_and_what_it_has_learnt_it_is_sre2l() -> None:
    same = {"alpha_bn": 3.0, "alpha_tv": 0.01, "curriculum": 0.5}
    wanted = gradient(Sre2l(Sre2lSettings(**same), TASK, 2), Pool(), done=0.2)
    for learnt in (True, False):
        teddy = make(**same, members=[0], pick="weak_to_strong")  # a turn draws nothing
        assert torch.equal(gradient(teddy, Pool(learnt), done=0.2), wanted) == learnt


def test_a_random_member_is_a_function_of_the_steps_generator_alone() -> None:
    picked = [make().pick(4, generator(0, step), 0.0) for step in range(400)]
    assert picked == [make().pick(4, generator(0, step), 0.7) for step in range(400)]
    assert all(70 < num < 130 for num in Counter(picked).values())
    assert {make(members=[-1, 1]).pick(4, generator(0, step), 0.0) for step in range(50)} == {1, 3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pick": "weak_to_strong"}, [0, 0, 1, 1, 2, 2, 3, 3]),
        ({"pick": "strong_to_weak"}, [3, 3, 2, 2, 1, 1, 0, 0]),
        ({"pick": "weak_to_strong", "sweeps": 2}, [0, 1, 2, 3, 0, 1, 2, 3]),
        ({"pick": "strong_to_weak", "members": [-2, 0]}, [2, 2, 2, 2, 0, 0, 0, 0]),
    ],
)
def test_each_in_its_turn(settings: dict[str, object], expected: list[int]) -> None:
    assert [make(**settings).pick(4, generator(0), step / 8) for step in range(8)] == expected


def test_no_more_members_are_kept_open_than_may_be() -> None:
    pool, method = Pool(), make(pick="weak_to_strong", sweeps=3)
    found = [gradient(method, pool, done=step / 12) for step in range(12)]
    assert len(method._watched) == 2
    assert pool.opened == [0, 1, 2, 3] * 3
    assert torch.equal(found[0], found[4])
    roomy = Pool()
    roomy.num_in_memory = 4
    again = make(pick="weak_to_strong", sweeps=3)
    assert all(torch.equal(gradient(again, roomy, done=step / 12), found[step]) for step in range(12))
    assert roomy.opened == [0, 1, 2, 3]


def test_alpha_is_in_the_members_own_unit() -> None:
    pool, method = Pool(learnt=False), make()
    state = method.init(ALL, None, None, partial(generator, 0))
    told = [method.gradient(state, ALL, None, pool, generator(0, step))[1] for step in range(20)]
    alphas = [float((terms["loss"] - terms["classification"]) / terms["statistics"]) for terms in told]
    own = [alpha_of(method.settings, method._watch(pool, k)) for k in range(4)]
    nearest = [min(range(4), key=lambda k: abs(own[k] - alpha)) for alpha in alphas]
    assert set(nearest) == {0, 1, 2, 3}
    assert alphas == pytest.approx([own[k] for k in nearest], rel=1e-4)
    watched = method._watch(pool, 2)
    sizes = [layer.var.sqrt().norm() + layer.var.norm() for layer in pool.member(2).statistics]
    assert watched.scale() == pytest.approx(float(10 * sizes[0] + sizes[1]))
    assert alpha_of(method.settings, watched) == pytest.approx(AUTO_ALPHA / watched.scale())


def test_the_part_of_the_classes_is_part_of_the_objective() -> None:
    found = [gradient(make(class_share=share, members=[1]), Pool(learnt=False)) for share in (0.0, 0.5, 1.0)]
    assert not torch.equal(found[0], found[2])
    assert torch.allclose(found[1], (found[0] + found[2]) / 2, atol=1e-5)


def test_the_order_of_the_images_in_a_step_does_not_matter() -> None:
    method, pool = make(class_share=1.0, members=[1]), Pool(learnt=False)
    state = method.init(ALL, None, None, partial(generator, 0))
    found = [
        method.gradient(state, ALL[picked], None, pool, generator(1))[0]["images"] for picked in (ALL, ALL.flip(0))
    ]
    assert found[0].flatten(1).norm(dim=1).min() > 0
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "images_of_each", "share"),
    [({}, [5, 5, 5], 1.0), ({}, [9, 4, 6], 0.0), ({}, [5, 0, 7], 1.0), ({"class_share": 0.3}, [1, 1, 1], 0.3)],
)
def test_classes_are_matched_apart_where_each_has_enough_images(
    settings: dict[str, float], images_of_each: list[int], share: float
) -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor(images_of_each))
    assert make(**settings).class_share(labels) == share


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["method.members=[6]"], r"names 6, and the pool will have 6 members: 0 to 5"),
        (["method.members=[]"], r"method.members is empty"),
        (["relabel.members=[0, -7]"], r"names -7, and there will be 6 networks"),
        (["relabel.members=[]"], r"at least one network"),
        (["squeeze.weights=IMAGENET1K_V1"], r"weights have no early epochs"),
        (["squeeze.member_epochs=[2, 16]"], r"1 to 15"),
        (["squeeze.member_epochs=[2, 2]"], r"each once"),
        (["squeeze.epochs=3"], r"cannot leave 6 members"),
        (["squeeze.pool=post", "squeeze.ratios=[0.0, 0.5]"], r"above 0 and below 1"),
    ],
)
def test_what_does_not_go_together_is_told_before_any_work(settings: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        resolve({"run": {"source": "digits", "method": "teddy"}}, settings)


def test_only_networks_can_be_chosen_among_for_labels() -> None:
    with pytest.raises(ConfigError, match="tesla squeezes none"):
        resolve({"run": {"source": "digits", "method": "tesla"}}, ["relabel.members=strongest"])
    settings = resolve({"run": {"source": "digits", "method": "sre2l"}}, ["relabel.members=[0]"])
    assert settings.plain()["relabel"]["members"] == [0]
    assert resolve({"run": {"source": "digits", "method": "sre2l"}}).plain()["relabel"]["members"] == "all"


NET = "convnet-d1-w4-batch"
TINY = {
    "squeeze.model": NET,
    "squeeze.epochs": 2,
    "squeeze.num_members": 2,
    "squeeze.ratios": [0.5],
    "squeeze.tune_epochs": 1,
    "source.train_per_class": 10,
    "recover.iterations": 4,
    "recover.chunk_size": 4,
    "recover.num_snapshots": 2,
    "train.epochs": 2,
    "train.batch_size": 8,
    "evaluate.baselines": ["random"],
    "evaluate.seeds": 1,
    "run.workers": 1,
}


SHARED = {"evaluate.baselines": [], "evaluate.labels": ["stored"], "squeeze.more_models": [NET]}


def distill(out: Path, until: Until = "evaluate", **settings: object) -> attar.Distillation:
    given = TINY | {key.replace("__", "."): value for key, value in settings.items()}
    return attar.distill("digits", "teddy", 1, out=out, settings=given, until=until)


@pytest.mark.parametrize(
    ("pool", "settings"),
    [
        ("prior", {"squeeze__more_models": ["bnvit-d1-w8-p4"], "squeeze__members_in_memory": 1, "method__sweeps": 2}),
        ("post", {"method__start": "patches", "method__class_share": 0.3, "relabel__labels": "online"}),
    ],
)
def test_goes_through_all_stages(pool: str, settings: dict[str, object], tmp_path: Path) -> None:
    if pool == "post":
        pytest.importorskip("torch_pruning")
    made = distill(tmp_path / "run", squeeze__pool=pool, **settings)
    assert [record.subject for record in made.records] == [
        *("distilled", "distilled, hard labels", "random", "random, hard labels")
    ]
    loaded = made.load()
    assert loaded.label_kind == settings.get("relabel__labels", "epochs")
    assert loaded.exact_8bit
    if loaded.label_kind == "online":
        assert len(loaded.teacher_files) == 2
        squeezed = TrainedTeacher(sorted((made.path / "squeeze").glob("member-*")), loaded.task, Engine("cpu"))
        along = TrainedTeacher(loaded.teacher_files, loaded.task, Engine("cpu"))
        assert torch.equal(along.logits(loaded.images), squeezed.logits(loaded.images))
        again = attar.evaluate(made.distilled, "digits", seeds=1, out=tmp_path / "again", baselines=["random"])
        assert [record.values for record in again.records] == [record.values for record in made.records]


def test_labels_are_the_mean_of_the_members_that_are_asked_for(tmp_path: Path) -> None:
    made = distill(tmp_path / "run", "relabel", squeeze__epochs=3, squeeze__num_members=3)
    squeezed, loaded = made.path / "squeeze", made.load()
    each = [TrainedTeacher([path], loaded.task, Engine("cpu")) for path in sorted(squeezed.glob("member-*"))]

    def labels_are_of(teachers: list[TrainedTeacher]) -> None:
        now = load_distilled(made.distilled)
        views, store = Views.from_json(now.views or {}), now.label_store
        assert store is not None
        indices, epochs = torch.arange(len(now)), torch.ones(len(now), dtype=torch.int64)
        shown = views.apply(now.images_at, epochs, indices)
        wanted = torch.stack([teacher.logits(shown) for teacher in teachers]).mean(0)
        wanted -= wanted.mean(1, keepdim=True)
        assert (store.read(epochs, indices) - wanted).abs().max() <= store.error.max_abs * 1.01 + 1e-6

    labels_are_of(each)
    attar.resume(made.path, "relabel", settings={"relabel.members": [0, -1]}, redo="relabel")
    labels_are_of([each[0], each[2]])
    attar.resume(made.path, "relabel", settings={"relabel.members": "strongest"}, redo="relabel")
    settings = restore(RunFolder(made.path).settings())
    pool = settings.knowledge.open(settings.sections["squeeze"], loaded.task, squeezed, Engine("cpu"))
    assert isinstance(pool, TrainedPool)
    labels_are_of([pool.only("strongest")])


def distil_in_processes(out: Path, num: int) -> None:
    """Distill in several processes, as a launcher does, and wait for all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "attar", "distill", "digits", "--method", "teddy", "--quiet", "--out", str(out)]
    words += [word for key, value in (TINY | SHARED).items() for word in ("--set", f"{key}={json.dumps(value)}")]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num)}
    started = [
        subprocess.Popen(words, env=shared | {"RANK": str(rank), "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
        for rank in range(num)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * num, said


def bytes_below(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    one = distill(tmp_path / "1", **{key.replace(".", "__"): value for key, value in SHARED.items()})
    distil_in_processes(tmp_path / "2", 2)
    assert len(list((one.path / "squeeze").glob("member-*"))) == 4
    for part in ("squeeze", "distilled"):
        assert bytes_below(one.path / part) == bytes_below(tmp_path / "2" / part)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> attar.Distillation:
    """An unbroken run with a pool of pruned copies."""
    pytest.importorskip("torch_pruning")
    return distill(tmp_path_factory.mktemp("pruned") / "run", "relabel", squeeze__pool="post")


@pytest.mark.parametrize(
    "stop", ["copy", "step", *(pytest.param(stop, marks=pytest.mark.slow) for stop in ("training", "statistics"))]
)
def test_stopped_anywhere_goes_on_to_the_same_bytes(
    stop: str, pruned: attar.Distillation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attar.squeeze import pool as rooms
    from attar.squeeze.real_statistics import Measuring

    given = {"squeeze__pool": "prior" if stop == "training" else "post"}
    unbroken = distill(tmp_path / "unbroken", "relabel", **given) if stop == "training" else pruned
    monkeypatch.setattr("attar.stages.recover.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("attar.training.loop.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("attar.squeeze.real_statistics.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("attar.squeeze.real_statistics.BATCH", 40)
    whole = distill(tmp_path / "whole", "relabel", **given) if stop == "statistics" else unbroken

    def interrupt(owner: object, name: str, when: int) -> None:
        real, calls = getattr(owner, name), list[int]()

        def interrupted(*args: object, **named: object) -> object:
            calls.append(1)
            if len(calls) == when:
                raise KeyboardInterrupt
            return real(*args, **named)

        patched.setattr(owner, name, interrupted)

    with monkeypatch.context() as patched:
        match stop:
            case "training":
                interrupt(rooms.Making, "write", 2)
            case "copy":
                interrupt(rooms.Making, "write", 2)
            case "statistics":
                interrupt(Measuring, "add", 4)
            case "step":
                interrupt(_Loop, "_step", 6)
        with pytest.raises(KeyboardInterrupt):
            distill(tmp_path / "broken", "relabel", **given)
    broken = distill(tmp_path / "broken", "relabel", **given)
    for part in ("squeeze", "distilled"):
        assert bytes_below(broken.path / part) == bytes_below(whole.path / part)


def test_a_pool_is_an_option_of_squeeze_and_means_teddy(tmp_path: Path) -> None:
    toy = {"squeeze.model": NET, "squeeze.epochs": 1, "squeeze.num_members": 1, "source.train_per_class": 5}
    words = [word for key, value in toy.items() for word in ("--set", f"{key}={value}")]
    given = ["squeeze", "digits", "--pool", "prior", "--quiet", "--out", str(tmp_path / "run"), *words]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "squeeze" / "statistics-member-00-epoch-0001.safetensors").exists()
    assert "teddy" in (tmp_path / "run" / "events.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"squeeze.pool: no such field"):
        attar.distill("digits", "sre2l", pool="prior", out=tmp_path / "other")


def test_a_plan_counts_trainings_copies_and_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "attar.squeeze.rehearsal.Rehearsal.unit_s", staticmethod(lambda work, most=0: (work(2), 0.001)[1])
    )
    given = {**TINY, "squeeze.epochs": 3, "source.train_per_class": 20, "squeeze.batch_size": 50}
    planned = attar.plan("digits", "teddy", 1, settings={**given, "squeeze.num_members": 3})
    found = {estimate.stage: estimate for estimate in planned.estimates}
    assert found["squeeze"].units == 3 * 4
    assert found["squeeze: statistics"].units == 3
    assert found["recover"].units == 4 * 3
    copies = {"squeeze.pool": "post", "squeeze.ratios": [0.2, 0.5], "squeeze.tune_epochs": 2}
    planned = attar.plan("digits", "teddy", 1, settings={**given, **copies})
    found = {estimate.stage: estimate for estimate in planned.estimates}
    assert found["squeeze"].units == 3 * 4
    assert found["squeeze: copies"].units == 2 * 2 * 4
    assert len(found["squeeze: copies"].places) == 2
    assert found["squeeze: statistics"].units == 3
