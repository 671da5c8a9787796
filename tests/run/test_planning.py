"""A plan counts what the stages will do; how long a unit takes it measures by doing some."""

import pytest

import attar
from attar.artifacts import parquet
from attar.augment.replayed import ReplayedSet
from attar.data import loading
from attar.evaluation import side_by_side
from attar.labels.plan import LabelPlan
from attar.methods import clusters, coreset
from attar.methods.sre2l import Sre2l
from attar.run import planning
from attar.squeeze import rehearsal
from attar.squeeze.teacher_files import TrainedTeacher
from attar.training import loop

IPC, SHAPE_BYTES = 3, 64
TOY = {
    "source.train_per_class": 10,
    "squeeze.model": "convnet-d2-w8-batch",
    "squeeze.epochs": 4,
    "squeeze.batch_size": 25,
    "train.epochs": 6,
    "train.batch_size": 16,
    "evaluate.seeds": 2,
    "evaluate.full_epochs": 5,
    "evaluate.models": ["convnet-d2-w8-batch"],
}


@pytest.fixture
def twice(monkeypatch):
    """Do two units of everything and call it a millisecond."""

    def unit_s(work, most=rehearsal.MOST):
        work(2)
        return 0.001

    monkeypatch.setattr(rehearsal.Rehearsal, "unit_s", staticmethod(unit_s))


def planned(method: str = "sre2l", **settings):
    own = {key.replace("__", "."): value for key, value in settings.items()}
    sized = {"recover.iterations": 7, "recover.chunk_size": 10} if method == "sre2l" else {}
    found = attar.plan("digits", method, IPC, recipe="none", settings={**TOY, **sized, **own})
    return {estimate.stage: estimate for estimate in found.estimates}


def test_recover_counts_every_chunk_and_rehearses_one(twice, monkeypatch):
    sizes = []
    gradient = Sre2l.gradient

    def counted(self, synthetic, *args, **kwargs):
        sizes.append(len(synthetic.labels))
        return gradient(self, synthetic, *args, **kwargs)

    monkeypatch.setattr(Sre2l, "gradient", counted)
    found = planned(recover__num_snapshots=4)["recover"]
    assert found.units == 7 * 3
    assert sizes == [10, 10], "two iterations of one chunk"
    pictures = 4 * (10 * SHAPE_BYTES + planning.NOTE_BYTES)
    assert found.disk_bytes == 4 * 30 * SHAPE_BYTES + pictures, "float images, pictures of the first chunk"
    assert (found.items, len(found.places)) == ("chunk", 3)


@pytest.mark.parametrize(("method", "settings"), [("kmeans", {}), ("tesla", {"method.start": "kmeans"})])
def test_what_looks_at_all_images_is_rehearsed_on_a_few(twice, monkeypatch, method, settings):
    seen = []
    monkeypatch.setattr(planning, "FEW_IMAGES", 4)
    nearest = clusters.nearest_to_centres

    def counted(points, count, rng):
        seen.append(len(points))
        return nearest(points, count, rng)

    monkeypatch.setattr(clusters, "nearest_to_centres", counted)
    monkeypatch.setattr(coreset, "nearest_to_centres", counted)
    experts = {"squeeze.model": "convnet-d1-w4", "squeeze.epochs": 4, "method.max_start_epoch": 1}
    found = planned(method, **({} if method == "kmeans" else experts | settings))["begin"]
    assert set(seen) == {4}
    assert (found.units, found.unit_s) == (10, pytest.approx(0.001 * 10 / 4)), "ten images a class, not four"


def test_labels_by_epoch_are_counted_and_weighed(twice):
    found = planned(relabel__epochs=4, relabel__codec="q4")
    assert found["relabel"].units == 4
    assert found["relabel"].disk_bytes == LabelPlan("q4", 10, 30, 4).total_bytes
    assert found["relabel: writing"].disk_bytes == 30 * SHAPE_BYTES
    assert planned(relabel__label_budget="400B")["relabel"].disk_bytes <= 400


def test_float_images_are_counted_beside_their_pictures(monkeypatch):
    monkeypatch.setattr(rehearsal.Rehearsal, "unit_s", lambda _, work, most=0: [work(1), work(40)] and 0.001)
    experts = {"squeeze.model": "convnet-d1-w4", "squeeze.epochs": 4, "method.max_start_epoch": 1}
    experts |= {"method.num_steps": 1, "method.expert_epochs": 1}
    ends = {key: value for key, value in TOY.items() if not key.startswith("squeeze.")}

    def written(method, own):
        found = attar.plan("digits", method, IPC, recipe="none", settings={**ends, **own})
        return next(one for one in found.estimates if one.stage == "relabel: writing").disk_bytes

    raw = 10 * IPC * SHAPE_BYTES
    assert written("tesla", experts) == (1 + 4) * raw, "noise that no encoder makes less of, and floats"
    assert 0.5 * raw < written("random", {}) < 3 * raw, "pictures as they were written, of a few bytes each"


def test_students_are_counted_by_what_makes_their_labels(twice):
    name, steps = "evaluate convnet-d2-w8-batch", 6 * 2
    found = planned()
    hard, stored, online = (found[name + how] for how in (planning.HARD, planning.STORED, planning.ONLINE))
    assert hard.units == 2 * 2 * steps, "distilled and random, two seeds"
    assert stored.units == online.units == 2 * steps, "distilled images read their labels, random ones get theirs"
    assert found[f"{name} on all"].units == 2 * 5 * (100 // 16 + 1)
    tests = found[f"{name}: tests"]
    opened = attar.open("digits", settings={"source.train_per_class": 10})
    assert tests.units == 5 * 2 * (len(opened.test) + 6 * len(opened.validation)), "looked at after each epoch"
    assert tests.places == list(range(10)), "five sets, two seeds"
    found = planned(relabel__labels="online", evaluate__baselines=["random"])
    assert found[name + planning.ONLINE].units == 2 * 2 * steps
    assert name + planning.STORED not in found
    assert found["relabel"].units == 0
    found = planned(relabel__labels="method", evaluate__baselines=["full"])
    assert found[name].units == 2 * steps, "both kinds of labels are the same classes"
    assert name + planning.ONLINE not in found


def test_a_strategy_that_shows_images_twice_takes_more_steps(twice):
    found = planned(train__strategy="dlb", evaluate__labels=["hard"])
    name, plain = "evaluate convnet-d2-w8-batch", planned(evaluate__labels=["hard"])
    assert found[name].units == 2 * 2 * 6 * 4, "30 images, 8 of which are new in a batch"
    assert found[f"{name} on all"].units == 2 * 5 * 13
    for stage in (name, f"{name} on all"):
        took_s, plain_s = (made[stage].units * made[stage].unit_s for made in (found, plain))
        assert took_s == pytest.approx(plain_s, rel=0.1), "an image seen costs as much; here a pass over all takes 1 ms"


def test_scores_and_chosen_images_are_counted_too(twice):
    name, steps = "evaluate convnet-d2-w8-batch", 6 * 2
    found = planned(evaluate__scores=True, evaluate__baselines=["herding"])
    hard, stored, online = (found[name + how] for how in (planning.HARD, planning.STORED, planning.ONLINE))
    assert hard.units == 2 * 3 * steps, "distilled, herding and random, two seeds"
    assert stored.units == 2 * steps
    assert online.units == 2 * 4 * steps, "herding and random, and distilled and random without augmentation"
    assert f"{name} on all" in found


def test_memory_is_that_of_the_rehearsal_and_of_what_grows_with_the_images(twice, monkeypatch):
    monkeypatch.setattr(planning, "_peak_main_bytes", lambda: 1000)
    shared = {**TOY, "recover.iterations": 1, "recover.chunk_size": 10, "relabel.labels": "method"}

    def taken(ipc, **settings):
        found = attar.plan("digits", "sre2l", ipc, recipe="none", settings={**shared, **settings})
        assert found.memory_bytes == found.main_memory_bytes, "there is no GPU"
        return found.memory_bytes - 1000

    monkeypatch.setattr(loading, "KEPT_BYTES", 0)
    monkeypatch.setattr(parquet, "ROWS", 1)
    assert taken(1) == 2 * 10 * SHAPE_BYTES, "pixels of the distilled and of random images"
    assert taken(3, **{"evaluate.baselines": ["full"]}) == 30 * SHAPE_BYTES
    monkeypatch.setattr(parquet, "ROWS", 1000)
    assert taken(3) == 5 * 30 * SHAPE_BYTES, "a group of rows that is written"
    labelled = {"relabel.labels": "epochs", "relabel.epochs": 6, "relabel.codec": "fp16"}
    assert taken(3, **labelled) == 3 * 6 * 30 * 20, "the one file of labels: six epochs, two bytes a class"


def test_only_labels_made_in_training_ask_the_teacher(twice, monkeypatch):
    seen = []
    fit = loop.fit
    monkeypatch.setattr(rehearsal, "fit", lambda model, data, *a, **k: (seen.append(data), fit(model, data, *a, **k)))
    asked = []
    original = TrainedTeacher.logits
    monkeypatch.setattr(TrainedTeacher, "logits", lambda self, x: (asked.append(len(x)), original(self, x))[1])
    planned(evaluate__baselines=[])
    labelled = sum(asked)
    assert any(isinstance(data, ReplayedSet) for data in seen)
    planned()
    assert sum(asked) - labelled == labelled + 2 * 30, "two epochs of the random images"


def test_every_network_of_a_teacher_is_counted_but_given_weights_are_not_trained(twice, tmp_path):
    (given := tmp_path / "teacher.safetensors").touch()  # a rehearsal does not open it
    more = {"squeeze__more_models": ["convnet-d1-w8-batch"]}
    found = planned(**more)
    assert found["squeeze convnet-d2-w8-batch"].units == found["squeeze convnet-d1-w8-batch"].units == 4 * 4
    found = planned(squeeze__weights=str(given), **more)
    assert found["squeeze convnet-d2-w8-batch"].units == 0
    assert found["squeeze convnet-d2-w8-batch"].disk_bytes > 0
    assert found["squeeze convnet-d1-w8-batch"].units == 4 * 4


def test_a_method_that_optimises_nothing_still_has_to_begin(twice):
    found = planned("rded", method__candidates=4, method__crops_per_image=2)
    assert found["begin"].units == 10
    assert found["recover"].units == 0


def test_a_unit_is_measured_anew_each_time_it_is_done():
    done = attar.plan(
        "digits",
        "tesla",
        1,
        recipe="none",
        settings={
            "source.train_per_class": 10,
            "squeeze.model": "convnet-d2-w8",
            "squeeze.epochs": 2,
            "squeeze.num_experts": 3,
            "method.num_steps": 2,
            "method.expert_epochs": 1,
            "recover.iterations": 5,
            "train.epochs": 2,
            "evaluate.baselines": [],
        },
    )
    found = {estimate.stage: estimate for estimate in done.estimates}
    assert found["squeeze"].units == 3 * 2 * 1
    assert found["recover"].units == 5
    assert found["recover"].unit_s > 1e-3, "a gradient of two steps, not a look at a finished file"
    assert done.total_s == sum(estimate.total_s for estimate in done.estimates)
    assert done.memory_bytes > 0


def test_processes_that_may_help_are_told(twice, monkeypatch):
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 3)

    shared = {**TOY, "recover.iterations": 1, "recover.chunk_size": 10}

    def helpers(**settings):
        return attar.plan("digits", "sre2l", 1, recipe="none", workers=1, settings=shared | settings).helpers

    assert helpers() == 2
    assert helpers(**{"evaluate.processes": 1}) == 0
