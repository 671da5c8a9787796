import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from attar.artifacts.distilled import Distilled
from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.config import options
from attar.data import loading
from attar.data.loading import Content, MemorySplit, RealSet
from attar.errors import ArtifactError, ConfigError, DataError
from attar.evaluation import evaluate as evaluation
from attar.evaluation import trials
from attar.evaluation.evaluate import Evaluation, evaluate
from attar.evaluation.following import followed
from attar.evaluation.settings import EvaluateSettings
from attar.evaluation.students import judging_set
from attar.evaluation.subjects import Subjects
from attar.items import Item
from attar.methods.coreset import Herding
from attar.results.by_class import BY_CLASS, read_by_class
from attar.results.ddranking import ARS, HLR, IOR, LRS
from attar.results.records import Followed, Record
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.files import digest
from attar.task import Normalization, Task
from attar.training.section import TrainSection

MODEL = "convnet-d1-w4"
TASK = Task(("dark", "middling", "bright"), 1, 4, 4, Normalization((0.5,), (0.25,)))
TRAINING = TrainSection(epochs=3, batch_size=8, learning_rate=0.05, augment="none")


@dataclass
class MadeSource:
    task: Task
    train: MemorySplit
    validation: MemorySplit
    test: MemorySplit
    fingerprint: str = "f"

    def content(self, split: str) -> Content:
        shown = getattr(self, split)
        return Content(digest(shown.pixels(torch.arange(len(shown))).tolist()), "every byte")


def make_split(num: int, seed: int) -> MemorySplit:
    labels = torch.arange(num) % 3
    noise = torch.randint(0, 60, (num, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return MemorySplit((noise + 80 * labels.view(-1, 1, 1, 1)).byte(), labels)


def make_source() -> MadeSource:
    return MadeSource(TASK, make_split(30, 0), make_split(9, 1), make_split(12, 2))


class Uncertain:
    """A teacher who gives every class the same."""

    def logits(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 3)

    def soft_labels(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(1)


def make_distilled(soft: bool = False) -> Distilled:
    labels = torch.arange(6) % 3
    images = (labels.view(-1, 1, 1, 1) - 1.0).expand(6, 1, 4, 4) * 1.2
    soft_labels = torch.nn.functional.one_hot(labels, 3).float() * 0.7 + 0.1 if soft else None
    sizes = {"images": 384, "labels": 48, "teacher": 0, "total": 432}
    info = {"pixels": "float32", "labels": {"kind": "soft" if soft else "hard"}}
    return Distilled(Path(), TASK, images, labels, soft_labels, 0.02, info, sizes)


def followed_by(training: TrainSection) -> Followed:
    return followed("mtt", training, MODEL, TASK, {"use_learned_rate": True, "test_resize_px": None})


def judge(
    folder: Path, distilled: Distilled | None = None, source: MadeSource | None = None, **settings: Any
) -> Evaluation:
    teacher = settings.pop("teacher", None)
    training = settings.pop("training", TRAINING)
    events = settings.pop("events", Events(quiet=True))
    return evaluate(
        distilled or make_distilled(),
        source or make_source(),
        EvaluateSettings(**{"models": [MODEL], "seeds": 2, "full_epochs": 2} | settings),
        training,
        engine=Engine("cpu"),
        events=events,
        folder=folder,
        teacher=teacher,
    )


def test_every_subject_is_measured_in_the_same_way(tmp_path: Path) -> None:
    result = judge(tmp_path)
    distilled, random, full = result.records
    assert [record.subject for record in result.records] == ["distilled", "random", "full"]
    assert {(record.metric_name, record.model, record.n, record.seeds) for record in result.records} == {
        ("test_accuracy", MODEL, 2, (0, 1))
    }
    assert (distilled.num_images, distilled.size_bytes) == (6, 432)
    assert (random.num_images, random.size_bytes) == (6, 6 * 16)
    assert (full.num_images, full.size_bytes) == (30, 30 * 16)
    assert distilled.protocol == random.protocol == {**full.protocol, "epochs": 3, "learning_rate": 0.02}
    assert full.protocol["epochs"] == 2
    assert {record.followed for record in result.records} == {followed_by(TRAINING)}
    assert distilled.followed is not None
    assert "train.epochs=3" in distilled.followed.changed
    assert distilled.tested_on == "test split, 12 images, after the last epoch"
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert [Record.from_json(values) for values in written["records"]] == list(result.records)
    assert written["verdict"] == result.verdict.to_json()
    assert written["hardware"]["device"] == "cpu"


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, stopped_at: Callable[..., list[str]]
) -> None:
    judge(tmp_path / "unbroken")
    trained = stopped_at(4, lambda: judge(tmp_path / "broken"))
    assert not (tmp_path / "broken" / "evaluation.json").exists()
    (tmp_path / "broken" / "evaluation" / "left-by-others.safetensors").touch()
    judge(tmp_path / "broken")
    assert trained == [f"{who} on {MODEL}/seed {seed}" for who in ("distilled", "random") for seed in (0, 1)] + [
        f"random on {MODEL}/seed 1",
        f"full on {MODEL}/seed 0",
        f"full on {MODEL}/seed 1",
    ]
    assert (tmp_path / "broken/evaluation.json").read_bytes() == (tmp_path / "unbroken/evaluation.json").read_bytes()
    assert not list((tmp_path / "broken" / "evaluation").glob("*.safetensors"))


def test_finished_trials_are_used_again_and_only_for_the_same_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = list[str]()
    fit = trials.fit

    def counting(*args: Any, item: Item, **options: Any) -> Any:
        trained.append(item.name)
        return fit(*args, item=item, **options)

    monkeypatch.setattr(trials, "fit", counting)

    def newly_trained(*args: Any, **settings: Any) -> list[str]:
        trained.clear()
        judge(tmp_path, *args, **settings)
        return [name.replace(f" on {MODEL}", "") for name in trained]

    assert len(newly_trained()) == 6
    assert newly_trained() == []
    assert newly_trained(seeds=3) == ["distilled/seed 2", "random/seed 2", "full/seed 2"]
    assert newly_trained(full_epochs=3) == ["full/seed 0", "full/seed 1"]
    changed = replace(make_distilled(), stored=make_distilled().stored + 0.1)
    assert newly_trained(changed) == ["distilled/seed 0", "distilled/seed 1"]
    assert len(newly_trained(training=TRAINING.model_copy(update={"momentum": 0.5}))) == 4 + 2
    assert len(newly_trained(split="validation")) == 6
    assert len(newly_trained(None, replace(make_source(), fingerprint="g"))) == 6
    swapped = replace(make_source(), test=make_split(12, 3))
    assert len(newly_trained(None, swapped)) == 6, "other images that judge, of as many bytes"


def test_random_images_are_drawn_anew_by_seed_at_the_same_count() -> None:
    subject = trials.random_subject(make_distilled(), make_source(), TRAINING, Engine("cpu"))
    every = torch.arange(6)
    first, again, other = (subject.make(seed) for seed in (0, 0, 1))
    assert first.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(first.images(every), again.images(every))
    assert not torch.equal(first.images(every), other.images(every))


@pytest.mark.parametrize("teacher", [None, Uncertain()])
def test_many_images_are_judged_as_few_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: Uncertain | None
) -> None:
    few = judge(tmp_path / "few", teacher=teacher)
    monkeypatch.setattr(loading, "KEPT_BYTES", 0)
    assert isinstance(loading.kept(RealSet(make_split(6, 0), TASK.normalization), torch.arange(3)), RealSet)
    assert judge(tmp_path / "many", teacher=teacher).records == few.records


def test_what_is_held_is_counted_by_image_and_set() -> None:
    def held(num: int, *baselines: str, soft: bool = False) -> int:
        settings = EvaluateSettings(baselines=baselines)
        return evaluation.held_bytes(settings, num, replace(TASK, height_px=224, width_px=224), soft=soft)

    assert held(100) == 100 * 224 * 224 * 4, "few are kept as floats"
    assert held(50_000, "full") == 50_000 * 224 * 224, "pixels of the distilled ones"
    assert held(50_000, "random", "herding", "full") == 2 * held(50_000), "real ones one set at a time"
    assert held(50_000, soft=True) == held(50_000) + 50_000 * 3 * 4


def test_too_few_real_images_for_the_count_are_an_error(tmp_path: Path) -> None:
    source = make_source()
    source.train = make_split(4, 0)
    with pytest.raises(DataError, match="class 'middling' has 1 real"):
        judge(tmp_path, None, source, baselines=["random"])


def test_the_learnt_rate_is_used_for_distilled_and_random_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rates(distilled: Distilled, **settings: Any) -> list[float]:
        records = judge(tmp_path, distilled, seeds=1, events=Events(), **settings).records
        return [record.protocol["learning_rate"] for record in records]

    assert rates(make_distilled()) == [0.02, 0.02, 0.05]
    assert "at the learnt rate 0.02" in capsys.readouterr().err
    assert rates(make_distilled(), use_learned_rate=False) == [0.05] * 3
    assert rates(replace(make_distilled(), learning_rate=None)) == [0.05] * 3
    assert "learnt rate" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("distilled", "soft"), ("random", "hard")]),
        ({"labels": ["hard"]}, [("distilled", "hard"), ("random", "hard")]),
        (
            {"labels": ["stored", "hard"]},
            [("distilled", "soft"), ("distilled, hard labels", "hard"), ("random", "hard")],
        ),
        (
            {"labels": ["stored", "hard"], "teacher": Uncertain()},
            [
                ("distilled", "soft"),
                ("distilled, hard labels", "hard"),
                ("random", "soft"),
                ("random, hard labels", "hard"),
            ],
        ),
    ],
)
def test_kinds_of_labels(settings: dict[str, Any], expected: list[tuple[str, str]], tmp_path: Path) -> None:
    result = judge(tmp_path, make_distilled(soft=True), baselines=["random"], seeds=1, **settings)
    assert [(record.subject, record.labels) for record in result.records] == expected
    assert ("had soft labels, the random ones hard" in str(result.verdict)) == (
        expected[0][1] == "soft" and ("random", "soft") not in expected
    )


def test_hard_labels_asked_of_a_set_without_soft_ones_are_its_labels(tmp_path: Path) -> None:
    result = judge(tmp_path, labels=["stored", "hard"], baselines=[], seeds=1)
    assert [record.subject for record in result.records] == ["distilled"]


def test_several_models_and_the_validation_split(tmp_path: Path) -> None:
    result = judge(tmp_path, models=[MODEL, "convnet-d2-w4"], baselines=[], seeds=1, split="validation")
    assert [(record.model, record.metric_name) for record in result.records] == [
        (MODEL, "validation_accuracy"),
        ("convnet-d2-w4", "validation_accuracy"),
    ]
    assert str(result.verdict).count("were not compared") == 2


def test_an_empty_split_cannot_judge(tmp_path: Path) -> None:
    source = make_source()
    source.validation = make_split(0, 0)
    with pytest.raises(DataError, match="no validation images"):
        judge(tmp_path, None, source, split="validation")


def test_images_that_judge_are_enlarged_where_that_is_asked_for(tmp_path: Path) -> None:
    plain = judge(tmp_path, seeds=1, baselines=[])
    enlarged = judge(tmp_path, seeds=1, baselines=[], test_resize_px=6)
    assert len(list((tmp_path / "evaluation").glob("*.json"))) == 2, "another question"
    assert "12 images enlarged to 6 px" in enlarged.records[0].tested_on
    assert "enlarged" not in plain.records[0].tested_on
    shown = judging_set(make_distilled(), make_source(), "test", 6).images(torch.arange(12))
    assert shown.shape == (12, 1, 4, 4)
    assert not torch.equal(shown, judging_set(make_distilled(), make_source(), "test").images(torch.arange(12)))
    with pytest.raises(ConfigError, match="test_resize_px is 3, and images have 4x4 px"):
        judge(tmp_path, test_resize_px=3)


@pytest.mark.parametrize(("strategy", "says"), [("byot", "no stages"), ("dlb+kd", "there it has no teacher")])
def test_a_strategy_that_cannot_train_what_judges_is_refused_before_any_training(
    strategy: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        judge(tmp_path, training=TrainSection(strategy=strategy, epochs=1))
    assert not list(tmp_path.rglob("*.json"))


def test_another_class_order_is_refused(tmp_path: Path) -> None:
    source = make_source()
    source.task = replace(TASK, class_names=("dark", "bright", "middling"))
    with pytest.raises(ArtifactError, match="class 1 is 'middling' there and 'bright' here"):
        judge(tmp_path, None, source)


def test_settings_are_described_and_checked() -> None:
    assert all(option.meaning for option in options(EvaluateSettings))
    assert EvaluateSettings(models=("a", "b", "a")).models == ("a", "b")
    with pytest.raises(ValidationError, match="random"):
        EvaluateSettings.model_validate({"baselines": ["tesla"]})
    asked = EvaluateSettings(scores=True, baselines=("herding",), labels=("hard",)).complete()
    assert (asked.baselines, asked.labels) == (("herding", "random", "full"), ("stored", "hard"))
    with pytest.raises(ValidationError, match="models"):
        EvaluateSettings(models=())


def test_the_result_has_the_name_that_the_report_reads() -> None:
    assert evaluation.RESULT == "evaluation.json"


def test_chosen_images_are_a_baseline_with_the_same_labels_and_schedule(tmp_path: Path) -> None:
    result = judge(
        tmp_path, make_distilled(soft=True), baselines=["random", "herding", "kcenter"], seeds=1, teacher=Uncertain()
    )
    protocols = [record.protocol for record in result.records]
    assert [record.subject for record in result.records] == ["distilled", "random", "herding", "kcenter"]
    assert all(protocol == protocols[0] for protocol in protocols)
    assert {record.labels for record in result.records} == {"soft"}
    assert [record.group for record in result.records] == ["distilled", "random", "herding", "kcenter"]
    assert {record.num_images for record in result.records} == {6}
    assert len({record.size_bytes for record in result.records[1:]}) == 1


def subjects_of(distilled: Distilled, source: MadeSource, teacher: Any = None) -> Subjects:
    return Subjects(distilled, source, TRAINING, Engine("cpu"), Events(quiet=True), teacher)


def test_herding_chooses_what_the_method_does_by_the_features_of_the_teacher() -> None:
    class Knowing(Uncertain):
        paths = ()

        def features(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :2]

    source, every = make_source(), torch.arange(6)
    real = RealSet(source.train, TASK.normalization)
    for teacher, extract in ((Knowing(), Knowing().features), (None, lambda images: images.flatten(1))):
        (subject,) = subjects_of(make_distilled(), source, teacher).real("herding", ["hard"])
        chosen = subject.make(0)
        assert chosen.labels.tolist() == [0, 0, 1, 1, 2, 2]
        for label in range(3):
            members = real.indices_of(label)
            method = Herding(Herding.Settings(), TASK, 2)
            expected = members[method.select(extract(real.images(members)), 2, torch.Generator())]
            assert torch.equal(chosen.images(every[2 * label : 2 * label + 2]), real.images(expected))
    (by_pixels,) = subjects_of(make_distilled(), source).real("herding", ["hard"])
    assert by_pixels.identity != subject_by_teacher(source, Knowing()).identity


def test_of_images_that_hold_others_one_is_seen_at_a_time_and_real_ones_whole() -> None:
    made, training = make_distilled(), TRAINING.model_copy(update={"augment": "rrc_flip"})
    tiled = replace(made, info={**made.info, "tiles": 2})
    for distilled, seen, plain in ((made, "rrc_flip", "none"), (tiled, "tile_rrc_flip", "tile")):
        subjects = Subjects(distilled, make_source(), training, Engine("cpu"), Events(quiet=True), None)
        (ours,), (real,) = subjects.distilled(["hard"]), subjects.real("random", ["hard"])
        assert ours.training.augment == seen
        assert subjects.not_augmented(ours).training.augment == plain
        assert real.training.augment == subjects.full(training, 1).training.augment == "rrc_flip"
        assert subjects.not_augmented(real).training.augment == "none"


def test_records_of_images_that_hold_others_say_the_training_of_all_so_that_they_can_be_compared(
    tmp_path: Path,
) -> None:
    made = make_distilled()
    found = judge(tmp_path, replace(made, info={**made.info, "tiles": 2}), seeds=1, baselines=["random"])
    assert {record.protocol["augment"] for record in found.records} == {TRAINING.augment}
    finished = [json.loads(path.read_text())["made_by"] for path in tmp_path.rglob("*-seed0-*.json")]
    seen = {one["subject"]: one["train"]["augment"] for one in finished}
    assert seen == {"distilled": "tile", "random": TRAINING.augment}


def test_easy_is_chosen_by_the_teacher_and_refused_without_one() -> None:
    class Knowing(Uncertain):
        paths = ()

        def features(self, images: Tensor) -> Tensor:
            return images.flatten(1)

        def logits(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3]

    source = make_source()
    real = RealSet(source.train, TASK.normalization)
    (subject,) = subjects_of(make_distilled(), source, Knowing()).real("easy", ["hard"])
    chosen = subject.make(0)
    members = real.indices_of(1)
    losses = torch.nn.functional.cross_entropy(
        Knowing().logits(real.images(members)), torch.ones(len(members), dtype=torch.int64), reduction="none"
    )
    assert torch.equal(chosen.images(torch.tensor([2, 3])), real.images(members[losses.argsort()[:2]]))
    with pytest.raises(ConfigError, match="easy chooses by what a teacher says"):
        subjects_of(make_distilled(), source).real("easy", ["hard"])


def subject_by_teacher(source: MadeSource, teacher: Any) -> Any:
    (subject,) = subjects_of(make_distilled(), source, teacher).real("herding", ["hard"])
    return subject


def test_too_few_images_to_choose_from_are_an_error(tmp_path: Path) -> None:
    source = make_source()
    source.train = make_split(4, 0)
    with pytest.raises(DataError, match=r"class 'middling' has 1 real training images, the distilled set 2"):
        judge(tmp_path, None, source, baselines=["kcenter"])


def test_scores_bring_all_the_trainings_that_they_are_made_of(tmp_path: Path) -> None:
    result = judge(tmp_path, make_distilled(soft=True), baselines=[], seeds=2, scores=True, teacher=Uncertain())
    assert [(record.subject, record.labels) for record in result.records] == [
        ("distilled", "soft"),
        ("distilled, hard labels", "hard"),
        ("random", "soft"),
        ("random, hard labels", "hard"),
        ("distilled, not augmented", "soft"),
        ("random, not augmented", "soft"),
        ("full", "hard"),
    ]
    (made,) = result.scores
    assert made.missing == {}
    assert set(made.found) == {HLR, IOR, LRS, ARS}
    assert json.loads((tmp_path / "evaluation.json").read_text())["scores"] == json.loads(json.dumps([made.to_json()]))
    again = judge(tmp_path, make_distilled(soft=True), seeds=2, baselines=["random"], teacher=Uncertain())
    assert again.scores[0].lacking


def test_without_augmentation_the_settings_have_none(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"augment": "flip", "cutout_px": 1})
    records = judge(tmp_path, scores=True, seeds=1, training=training).records
    plain = next(one.protocol for one in records if (one.group, one.augmented) == ("distilled", False))
    assert (plain["augment"], plain.get("cutout_px", 0)) == ("none", 0)
    assert records[0].protocol["augment"] == "flip"


def test_labels_by_epoch_are_made_anew_of_the_image_as_it_is() -> None:
    teacher = Uncertain()
    views = Views(ViewSettings(flip=False), 0, 6, TASK.shape)
    set_ = replace(make_distilled(), views=views.to_json(), info={"pixels": "float32", "labels": {"kind": "online"}})
    subjects = subjects_of(set_, make_source(), teacher)
    for subject in subjects.real("random", ["soft"]):
        plain, shown = subjects.not_augmented(subject).make(3), subject.make(3)
        assert isinstance(plain, ReplayedSet)
        assert isinstance(shown, ReplayedSet)
        every = torch.arange(6)
        images, _ = plain.batch(5, every)
        assert torch.allclose(images, shown.images(every), atol=1e-6)
        assert not torch.allclose(shown.batch(5, every)[0], images, atol=1e-2)
    with pytest.raises(ConfigError, match="no teacher to label the images as they are"):
        subjects_of(set_, make_source()).not_augmented(subject)


def test_what_was_judged_is_written_for_whoever_compares(tmp_path: Path) -> None:
    judge(tmp_path, seeds=1, baselines=[])
    judged = json.loads((tmp_path / "evaluation.json").read_text())["judged"]
    assert (judged["ipc"], judged["classes"], judged["source"], judged["num_train_images"]) == (2, 3, "f", 30)
    assert judged["sizes"]["total"] == 432


def test_classes_are_counted_one_by_one_and_add_up_to_the_accuracy(tmp_path: Path) -> None:
    result = judge(tmp_path)
    assert [one.group for one in result.by_class] == ["distilled", "random", "full"]
    for counted, record in zip(result.by_class, result.records, strict=True):
        assert counted.is_of(record)
        assert counted.num == (8, 8, 8), "4 images of each class, judged by 2 networks"
        assert 100 * sum(counted.right) / 24 == pytest.approx(record.mean)
        assert sum(count for *_, count in counted.confused) == 24 - sum(counted.right)
    assert read_by_class(tmp_path, json.loads((tmp_path / BY_CLASS).read_text())) == result.by_class
    assert judge(tmp_path).by_class == result.by_class, "finished trials are counted again from their files"


def test_trials_that_were_not_counted_leave_their_records_without(tmp_path: Path) -> None:
    judge(tmp_path)
    for path in (tmp_path / "evaluation").glob("*random*.json"):
        values = json.loads(path.read_text())
        del values["confusion"]
        path.write_text(json.dumps(values))
    assert [one.group for one in judge(tmp_path).by_class] == ["distilled", "full"]


def test_students_are_looked_at_on_the_way_and_end_as_they_would_have(tmp_path: Path) -> None:
    watched, unwatched = tmp_path / "watched", tmp_path / "unwatched"
    training = TRAINING.model_copy(update={"epochs": 5})
    kinds = {"training": training, "seeds": 1, "baselines": ["random"]}
    found = judge(watched, events=Events(watched / "events.jsonl", quiet=True), curve_points=3, **kinds)
    other = judge(unwatched, events=Events(unwatched / "events.jsonl", quiet=True), curve_points=0, **kinds)
    assert found.records == other.records
    seen = [event for event in read_events(watched / "events.jsonl") if event["event"] == "watched"]
    assert [(event["about"]["group"], event["step"]) for event in seen] == [
        (group, step) for group in ("distilled", "random") for step in (2, 4, 5)
    ]
    assert all(0 <= event["validation_accuracy"] <= 100 for event in seen)
    assert "watched" not in {event["event"] for event in read_events(unwatched / "events.jsonl")}


def test_no_images_held_back_are_no_curve(tmp_path: Path) -> None:
    source = make_source()
    source.validation = make_split(0, 1)
    judge(tmp_path, None, source, seeds=1, baselines=[], events=Events(tmp_path / "events.jsonl", quiet=True))
    assert "watched" not in {event["event"] for event in read_events(tmp_path / "events.jsonl")}
