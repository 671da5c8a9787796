"""The whole path on the bundled digits, at toy size."""

import itertools
import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

import attar
from attar.data import loading
from attar.errors import ArtifactError, AttarError, ConfigError, DataError, DivergedError
from attar.methods.tesla import Tesla
from attar.report.strips import STRIPS, read_strips
from attar.run.settings import resolve
from attar.stages.recover import _Loop

TOY = {
    "squeeze.model": "convnet-d2-w8",
    "squeeze.num_experts": 2,
    "squeeze.epochs": 2,
    "source.train_per_class": 10,
    "method.num_steps": 3,
    "method.expert_epochs": 1,
    "recover.iterations": 6,
    "recover.num_snapshots": 3,
    "train.epochs": 4,
    "evaluate.seeds": 2,
    "evaluate.full_epochs": 1,
}


def distill(out: Path, method: str = "tesla", **changes):
    settings = {**TOY, **changes.pop("settings", {})}
    if method not in ("tesla", "mtt"):
        own = ("method.", "recover.", "squeeze.num_experts", "squeeze." if method == "random" else "-")
        settings = {key: value for key, value in settings.items() if not key.startswith(own)}
    settings.setdefault("evaluate.models", ["convnet-d2-w8"])
    return attar.distill("digits", method, 1, recipe="none", out=out, settings=settings, **changes)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return distill(tmp_path_factory.mktemp("runs") / "unbroken")


def test_one_call_makes_everything(unbroken):
    tiny = unbroken.load()
    assert tiny.images.shape == (10, 1, 8, 8)
    assert tiny.labels.tolist() == list(range(10))
    assert tiny.learning_rate > 0
    assert {record.subject for record in unbroken.records} == {"distilled", "random", "full"}
    assert all(record.n == 2 for record in unbroken.records)
    assert "distilled images" in str(unbroken.verdict)
    assert unbroken.report.read_text("utf-8").lower().startswith("<!doctype html>")
    images, labels = next(iter(tiny.loader(batch_size=4)))
    assert images.shape == (4, 1, 8, 8)
    assert labels.shape == (4,)


def test_attar_json_holds_nothing_of_the_machine(unbroken):
    text = (unbroken.distilled / "attar.json").read_text()
    assert str(unbroken.path.parent) not in text
    assert json.loads(text)["command"].startswith("attar distill digits --method tesla --ipc 1")


def test_the_same_again_does_nothing_anew(unbroken):
    before = bytes_of(unbroken.distilled)
    stamp = (unbroken.path / "recover" / "manifest.json").stat().st_mtime_ns
    again = distill(unbroken.path)
    assert bytes_of(unbroken.distilled) == before
    assert again.records == unbroken.records
    assert (unbroken.path / "recover" / "manifest.json").stat().st_mtime_ns == stamp


def test_stage_by_stage_gives_the_same_bytes(unbroken, tmp_path):
    begun = distill(tmp_path / "run", until="squeeze")
    assert not begun.distilled.exists()
    attar.resume(begun.path, "recover")
    attar.resume(begun.path, "relabel")
    attar.resume(begun.path)
    assert bytes_of(begun.distilled) == bytes_of(unbroken.distilled)


@pytest.mark.parametrize("stop_at", [0, 1, 4])
def test_interrupted_recover_goes_on_to_the_same_bytes(unbroken, tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr("attar.stages.recover.CHECKPOINT_EVERY_S", 0.0)
    step = _Loop._step

    def interrupted(loop, at):
        if at == stop_at:
            raise KeyboardInterrupt
        return step(loop, at)

    with monkeypatch.context() as patched:
        patched.setattr(_Loop, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            distill(tmp_path / "run")
    done = distill(tmp_path / "run")
    assert bytes_of(done.distilled) == bytes_of(unbroken.distilled)


def test_other_settings_are_refused_by_name_and_fresh_starts_over(tmp_path):
    distill(tmp_path / "run", until="squeeze")
    with pytest.raises(ArtifactError, match=r"recover\.iterations: was 6, now 7"):
        distill(tmp_path / "run", settings={"recover.iterations": 7}, until="squeeze")
    distill(tmp_path / "run", settings={"recover.iterations": 7}, until="squeeze", fresh=True)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["recover"]["iterations"] == 7


def test_nan_stops_names_step_and_rate_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    matching, calls = Tesla.gradient, itertools.count()

    def broken(self, *arguments):
        gradients, metrics = matching(self, *arguments)
        return gradients, {**metrics, "loss": float("nan")} if next(calls) == 2 else metrics

    monkeypatch.setattr(Tesla, "gradient", broken)
    with pytest.raises(DivergedError, match="loss is no longer a finite number at step 2 of 6") as caught:
        distill(tmp_path / "run", until="recover")
    assert "method.lr_images=" in caught.value.fix
    assert (tmp_path / "run" / "recover" / "checkpoint-00000.safetensors").exists()


@pytest.mark.parametrize(
    "method",
    ["random", "mtt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("herding", "kcenter", "kmeans"))],
)
def test_every_method_goes_all_the_way(method, tmp_path):
    done = distill(tmp_path / "run", method)
    assert done.load().exact_8bit == (method != "mtt")
    assert done.records


def test_a_coreset_can_have_its_teachers_labels(tmp_path):
    done = distill(tmp_path / "run", "herding", settings={"relabel.labels": "teacher"})
    assert done.load().soft_labels.shape == (10, 10)
    assert {record.labels for record in done.records if record.subject != "full"} == {"soft"}


def test_a_coreset_by_pixels_squeezes_nothing_and_says_so_in_its_command(tmp_path):
    settings = {"method.features": "pixels", "source.train_per_class": 10}
    done = attar.distill("digits", "kmeans", 1, out=tmp_path / "run", settings=settings, until="relabel")
    words = shlex.split(done.load().info["command"])
    assert 'method.features="pixels"' in words
    assert not any(word.startswith("squeeze.") for word in words)


@pytest.mark.parametrize("labels", ["expert", "learnt"])
def test_tesla_with_soft_labels(labels, tmp_path):
    done = distill(tmp_path / "run", settings={"method.labels": labels}, until="relabel")
    assert done.load().soft_labels.sum(1).tolist() == pytest.approx([1.0] * 10, abs=2e-3)


def test_auto_says_why(tmp_path, capsys):
    done = attar.distill(
        "digits", ipc=1, recipe="none", out=tmp_path / "run", settings=TOY, until="squeeze", quiet=False
    )
    assert "tesla for 8 px, 10 classes, 1 image per class" in capsys.readouterr().err
    assert yaml.safe_load((done.path / "config.yaml").read_text())["run"]["method"] == "tesla"


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ({"method": "telsa"}, ConfigError, "did you mean tesla"),
        ({"source": "digit"}, AttarError, "digits"),
        ({"recipe": "nothing"}, ConfigError, "unknown recipe"),
        ({"settings": {"squeeze.model": "convnot-d3-w128"}}, ConfigError, "convnet"),
        ({"settings": {"squeeze.model": "convnet-d2-w8-batch"}}, ConfigError, "parameters are all there is"),
        ({"settings": {"squeeze.model": "convnet-d5-w8"}}, ConfigError, "depth at most 3"),
        ({"settings": {"method.expert_epochs": 9}}, ConfigError, "no expert goes that far"),
        ({"settings": {"method.augment": "dsa_x"}}, ConfigError, "augmentation"),
        ({"settings": {"evaluate.models": ["resnet18-smal"]}}, ConfigError, "resnet18-small"),
        ({"settings": {"evaluate.models": ["convnet-d1-w4"], "train.strategy": "byot"}}, ConfigError, "no stages"),
        ({"settings": {"evaluate.baselines": ["easy"]}}, ConfigError, "easy is chosen by a teacher"),
        ({"ipc": 1000}, DataError, "fewer than ipc=1000"),
        ({"device": "gpu"}, ConfigError, "device"),
    ],
)
def test_mistakes_are_told_before_any_work(wrong, kind, says, tmp_path):
    call = {"source": "digits", "method": "tesla", "ipc": 1, "recipe": "none", **wrong}
    settings = {**TOY, **call.pop("settings", {})}
    with pytest.raises(kind, match=says):
        attar.distill(**call, out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run" / "squeeze").exists()


def test_all_mistakes_are_told_at_once(tmp_path):
    settings = {**TOY, "recover.iteratons": 3, "method.gradient": "exakt", "train.epochs": 0}
    with pytest.raises(ConfigError) as caught:
        attar.distill("digits", "tesla", out=tmp_path, recipe="none", settings=settings)
    assert all(name in str(caught.value) for name in ("iterations", "exact", "train.epochs"))


def test_train_and_evaluate_from_python(unbroken, tmp_path):
    trained = attar.train(unbroken.path, "convnet-d2-w8", source="digits", out=tmp_path / "net", settings={"epochs": 2})
    assert len(trained.losses) == 2
    assert set(trained.accuracies) == {"train", "validation"}
    assert (tmp_path / "net" / "model.safetensors").exists()
    judged = attar.evaluate(
        unbroken.path, "digits", models=["convnet-d1-w4"], seeds=1, baselines=["random"], out=tmp_path / "judged"
    )
    assert [record.subject for record in judged.records] == ["distilled", "random"]
    assert not attar.load(unbroken.path).info.get("problems")


def test_evaluate_refuses_a_source_with_other_classes(unbroken, tmp_path):
    with pytest.raises(AttarError, match=r"classes|shape"):
        attar.evaluate(unbroken.path, "digits", resolution=16, seeds=1, out=tmp_path)


def test_continual(unbroken, tmp_path):
    records = attar.continual(unbroken.path, "digits", steps=2, out=tmp_path, settings={"epochs": 2})
    assert [(r.arrival.step, r.subject) for r in records] == [
        (1, "distilled"),
        (1, "random"),
        (2, "distilled"),
        (2, "random"),
    ]


def test_an_evaluation_outside_a_run_gets_a_folder_of_its_own(unbroken, tmp_path):
    shutil.copytree(unbroken.distilled, tmp_path / "tiny")
    quick = {"train.epochs": 1}
    attar.evaluate(tmp_path / "tiny", "digits", models=["convnet-d1-w4"], seeds=1, baselines=["random"], settings=quick)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny-evaluation"]
    assert (tmp_path / "tiny-evaluation" / "evaluation.json").is_file()


def test_the_command_in_the_card_names_the_networks(unbroken):
    assert "squeeze.model" in unbroken.load().info["command"]
    words = shlex.split(unbroken.load().info["command"])
    pairs = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
    settings = resolve({"run": {"source": "digits", "method": "tesla", "ipc": 1}}, pairs).plain()
    made = yaml.safe_load((unbroken.path / "config.yaml").read_text("utf-8"))
    assert {name: settings[name] for name in made if name != "run"} == {n: v for n, v in made.items() if n != "run"}


def test_images_that_leave_the_range_stop_the_run_at_that_step(tmp_path):
    with pytest.raises(DivergedError, match="at step 0 of 6") as caught:
        distill(tmp_path / "run", settings={"method.lr_images": 1e12})
    assert "--set method.lr_images=" in caught.value.fix


def test_no_fewer_images_a_class_than_one_are_advised(tmp_path):
    make_classes(tmp_path / "images", per_class=2)  # one of them is held back
    with pytest.raises(
        DataError, match=r"1 training image, fewer than ipc=2 \(1 of its images is held back .* judge\)"
    ) as told:
        attar.plan(tmp_path / "images", "random", 2, recipe="none")
    assert told.value.fix == "--ipc 1, or more images"


def test_no_images_to_judge_by_is_told_before_any_work(tmp_path):
    make_classes(tmp_path / "images", per_class=1)
    with pytest.raises(DataError, match="no test images to judge by") as told:
        attar.distill(tmp_path / "images", "random", 1, recipe="none", out=tmp_path / "run")
    assert "evaluate.split=validation" not in told.value.fix  # there are none either
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [attar.distill, attar.plan])
def test_no_images_to_judge_by_is_told_before_anything_is_rehearsed(tmp_path, command):
    make_classes(tmp_path / "images", per_class=1)
    with pytest.raises(DataError, match="no test images to judge by"):
        command(tmp_path / "images", "random", 1, recipe="none", time="20s")


def test_training_without_validation_images_still_gives_the_network(tmp_path):
    make_classes(tmp_path / "images", per_class=3)
    settings = {"epochs": 1, "validation_fraction": 0.0}
    trained = attar.train(tmp_path / "images", "convnet-d1-w4", settings=settings, keep=False)
    assert list(trained.accuracies) == ["train"]


def test_a_left_out_image_stands_in_log_dataset_card_and_page(tmp_path):
    make_classes(tmp_path / "images", per_class=6)
    (tmp_path / "images" / "red" / "0.png").write_bytes(b"no image")
    done = distil_folder(tmp_path / "images", tmp_path / "run", skip_corrupt=True)
    events = [json.loads(line) for line in (done.path / "events.jsonl").read_text("utf-8").splitlines()]
    (skipped,) = [event["images"] for event in events if event["event"] == "skipped"]
    assert [Path(name).name for name in skipped] == ["0.png"]
    assert done.load().info["source"]["left_out"] == {"num": 1, "names": ["red/0.png"]}, "no folder of this machine"
    card = (done.distilled / "README.md").read_text("utf-8")
    assert "1 image of the source could not be read and stayed out: red/0.png" in card
    judged = json.loads((done.path / "evaluation.json").read_text("utf-8"))["judged"]
    assert judged["left_out"] == {"num": 1, "names": ["red/0.png"]}
    page = done.report.read_text("utf-8")
    assert "Images left out" in page
    assert "<bdi>red/0.png</bdi>" in page
    assert attar.verify(done.distilled).problems == []


def test_a_test_image_that_is_left_out_is_told_by_who_judges_alone(tmp_path):
    for split in ("train", "test"):
        make_classes(tmp_path / "images" / split, per_class=6)
    (tmp_path / "images" / "test" / "red" / "0.png").write_bytes(b"no image")
    done = distil_folder(tmp_path / "images", tmp_path / "run", skip_corrupt=True)
    assert "left_out" not in done.load().info["source"]
    assert json.loads((done.path / "evaluation.json").read_text("utf-8"))["judged"]["left_out"]["num"] == 1
    assert "test/red/0.png" in done.report.read_text("utf-8")


def test_a_run_keeps_a_few_real_images_beside_what_it_distils(tmp_path):
    make_classes(tmp_path / "images", per_class=9)
    done = distil_folder(tmp_path / "images", tmp_path / "run")
    strips = read_strips(done.path)
    assert strips.pixels.shape == (10, 8, 8, 3)
    assert [*strips.labels] == [0] * 5 + [1] * 5
    name_of = done.load().task.class_names
    colours = strips.pixels[:, 0, 0, [0, 2]].tolist()
    shown = {(name_of[own], *colour) for own, colour in zip(strips.labels, colours, strict=True)}
    assert shown == {("red", 200, 0), ("blue", 0, 200)}
    assert "red, real image 5" in done.report.read_text("utf-8")
    sizes = done.load().sizes
    stamp = (done.path / STRIPS).stat().st_mtime_ns
    assert distil_folder(tmp_path / "images", done.path).load().sizes == sizes
    assert (done.path / STRIPS).stat().st_mtime_ns == stamp, "what is there stays"
    attar.evaluate(done.path, tmp_path / "images", out=tmp_path / "elsewhere", seeds=1, baselines=[])
    assert (tmp_path / "elsewhere" / STRIPS).read_bytes() == (done.path / STRIPS).read_bytes()
    quiet = {"source.strip": 0, "train.epochs": 1}
    attar.evaluate(done.path, tmp_path / "images", out=tmp_path / "elsewhere", seeds=1, baselines=[], settings=quiet)
    assert not (tmp_path / "elsewhere" / STRIPS).exists()
    page = (tmp_path / "elsewhere" / "report.html").read_text("utf-8")
    assert "red, real image" not in page
    assert "red, chosen real image 1" in page


def make_classes(folder: Path, per_class: int) -> None:
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            Image.new("RGB", (8, 8), (*colour[:1], i, *colour[2:])).save(folder / name / f"{i}.png")


def distil_folder(source: Path, out: Path, **options):
    settings = {"evaluate.models": ["convnet-d1-w4"], "evaluate.seeds": 1, "train.epochs": 1, "evaluate.full_epochs": 1}
    return attar.distill(source, "random", 1, recipe="none", out=out, settings=settings, **options)


def test_redo_keeps_the_experts_and_takes_other_settings_of_what_is_done_again(tmp_path):
    done = distill(tmp_path / "run", until="relabel")
    expert = done.path / "squeeze" / "expert-0000.safetensors"
    before, stamp = bytes_of(done.distilled), expert.stat().st_mtime_ns
    distill(done.path, settings={"method.gradient": "published"}, redo="recover", until="relabel")
    assert expert.stat().st_mtime_ns == stamp
    assert bytes_of(done.distilled) != before
    assert yaml.safe_load((done.path / "config.yaml").read_text())["method"]["gradient"] == "published"
    with pytest.raises(ArtifactError, match=r"squeeze\.epochs"):
        distill(done.path, settings={"squeeze.epochs": 3}, redo="recover")
    distill(done.path, redo="recover", until="relabel")
    assert bytes_of(done.distilled) == before


def test_a_trained_network_is_not_overwritten(unbroken, tmp_path):
    attar.train(unbroken.path, "convnet-d2-w8", out=tmp_path, settings={"epochs": 1})
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ArtifactError, match="trained otherwise"):
        attar.train(unbroken.path, "convnet-d2-w8", out=tmp_path, settings={"epochs": 2})
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_images_that_stay_on_disk_make_the_same_dataset_and_records(unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "KEPT_BYTES", 0)
    made = distill(tmp_path / "run")
    found, expected = bytes_of(made.distilled), bytes_of(unbroken.distilled)
    told = {"README.md", "SHA256SUMS"}  # of the last evaluation, which other tests make of `unbroken` too
    assert {name: data for name, data in found.items() if name not in told} == {
        name: data for name, data in expected.items() if name not in told
    }
    assert made.records == unbroken.records


def test_a_source_given_as_out_is_refused_and_left_as_it_is(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (8, 8), 10 * i).save(tmp_path / name / f"{i}.png")
    before = bytes_of(tmp_path)
    with pytest.raises(ArtifactError, match="is not empty and not a run of attar: it holds cats, dogs"):
        attar.distill(tmp_path, "random", 1, recipe="none", out=tmp_path)
    assert bytes_of(tmp_path) == before
