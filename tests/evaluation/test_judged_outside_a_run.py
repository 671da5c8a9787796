"""What is judged in no run, other people's sets and ours alone, gets a page too, and stands beside runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import attar
from attar import cli
from attar.artifacts.distilled import load_distilled
from attar.data.sources import SourceSettings, open_source
from attar.errors import ArtifactError
from attar.report.collect import collect
from attar.report.commands import commands
from attar.report.outside import PICTURES, Outside, find_judged, keep_judged
from attar.report.pictures import Gallery

TOY = {"train.epochs": 2, "evaluate.full_epochs": 1, "source.train_per_class": 12}
ASKED = {"models": ["convnet-d1-w8"], "seeds": 2, "baselines": ["random", "full"], "settings": TOY}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as SRe2L leaves images, judged."""
    folder, real = tmp_path_factory.mktemp("others") / "theirs", open_source("digits", SourceSettings()).train
    for label in range(10):
        (folder / f"new{label:03d}").mkdir(parents=True)
        for number, index in enumerate((real.labels == label).nonzero()[:2]):
            pixels = np.repeat(real.pixels(index)[0, 0].numpy()[:, :, None], 3, 2)
            Image.fromarray(pixels).save(folder / f"new{label:03d}/class{label:03d}_id{number:03d}.png")
    result = attar.evaluate(folder, "digits", **ASKED)
    assert result.report == folder.with_name("theirs-evaluation") / "report.html"
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distilled dataset away from the run that made it."""
    folder = tmp_path_factory.mktemp("alone")
    made = attar.distill("digits", "random", 2, out=folder / "run", until="relabel", settings={"train_per_class": 12})
    shutil.copytree(made.distilled, folder / "alone")
    attar.evaluate(folder / "alone", "digits", **ASKED)
    return folder / "alone"


def test_a_set_of_another_program_gets_a_page_with_its_images(theirs: Path) -> None:
    page = (theirs.with_name("theirs-evaluation") / "report.html").read_text("utf-8")
    assert "<bdi>digits in 20 images</bdi>" in page
    assert "theirs, of another program" in page
    assert page.count("synthetic image 2") == 10
    assert "Judged on" in page
    assert "load_dataset" not in page, "it is no dataset repository"
    data = collect(theirs.with_name("theirs-evaluation"))
    assert data.gallery is not None
    real = open_source("digits", SourceSettings()).train
    first = real.pixels((real.labels == 3).nonzero()[:1, 0])[0]
    shown = torch.from_numpy(data.gallery.pixels[data.gallery.labels.index(3)]).permute(2, 0, 1)
    assert torch.equal(shown, first)


def test_the_page_tells_the_command_that_judges_again(theirs: Path) -> None:
    told = commands(collect(theirs.with_name("theirs-evaluation")))
    assert [command.purpose for command in told] == ["Evaluate", "Draw this page"]
    line = told[0].line
    assert line.split()[:5] == ["attar", "evaluate", str(theirs), "--source", "digits"]
    assert "train.epochs=2" in line
    assert "--seeds 2" in line


def test_a_set_of_ours_that_lies_alone_has_a_page_and_its_classes_may_arrive(ours: Path) -> None:
    attar.continual(ours, "digits", model="convnet-d1-w8", steps=2, settings={"train_per_class": 12, "train.epochs": 1})
    page = (ours.with_name("alone-evaluation") / "report.html").read_text("utf-8")
    assert "Classes arriving step by step" in page
    assert f"load_dataset(&#39;{ours}&#39;)" in re.sub(r"</?span>", "", page)
    assert load_distilled(ours).info["method"] in page
    assert "<h2>The chosen real images</h2>" in page, "random picks real images"
    assert "synthetic" not in page


def run(*words: str) -> None:
    assert not typer.main.get_command(cli.app).main(list(words), standalone_mode=False)


def test_report_takes_the_set_or_the_folder_of_its_evaluation(theirs: Path, tmp_path: Path) -> None:
    for number, path in enumerate((theirs, theirs.with_name("theirs-evaluation"))):
        run("report", str(path), "--out", str(tmp_path / f"{number}"))
    assert (tmp_path / "0" / "report.html").read_bytes() == (tmp_path / "1" / "report.html").read_bytes()
    assert find_judged(tmp_path) == tmp_path


def test_they_stand_beside_each_other(theirs: Path, ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("compare", str(theirs), str(ours), "--json")
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert [row["run"] for row in group["rows"]] == ["theirs", "alone"]
    assert [row["method"] for row in group["rows"]] == ["another program", "random"]
    assert {row["source"] for row in group["rows"]} == {"digits"}


def test_a_damaged_note_is_told(theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs.with_name("theirs-evaluation"), tmp_path / "copy")
    (tmp_path / "copy" / PICTURES).write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"what was judged in .* cannot be read"):
        collect(tmp_path / "copy")


def test_out_leaves_the_set_and_its_card_alone_and_the_page_says_where_all_is(ours: Path, tmp_path: Path) -> None:
    run = ours.with_name("run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    few = {"models": ["convnet-d1-w8"], "seeds": 1, "baselines": ["random"], "settings": TOY}
    for judged, out in ((run, tmp_path / "of-run"), (ours, tmp_path / "of-set")):
        card = (attar.load(judged).path / "README.md").read_bytes()
        result = attar.evaluate(judged, "digits", out=out, **few)
        assert result.report == out / "report.html"
        assert (attar.load(judged).path / "README.md").read_bytes() == card
        assert not (out / "config.yaml").exists()
        told = {command.purpose: command.line for command in commands(collect(out))}
        assert told["Evaluate"].split()[:7] == [
            *("attar", "evaluate", str(attar.load(judged).path), "--source", "digits", "--out", str(out))
        ]
        assert told["Draw this page"] == f"attar report {out}"
        assert told["Distill"].startswith("attar distill digits --method random --ipc 2")
        page = re.sub(r"</?span>", "", (out / "report.html").read_text("utf-8"))
        assert f"load_dataset(&#39;{attar.load(judged).path}&#39;)" in page
        assert "<bdi>2 images per class</bdi>" in page
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with_own = attar.evaluate(run, "digits", out=run, **few)
    assert with_own.report == run / "report.html"
    assert "Not measured yet" not in (run / "distilled" / "README.md").read_text("utf-8")


def test_what_is_judged_is_not_told_among_other_things(ours: Path, tmp_path: Path) -> None:
    shutil.copytree(ours.with_name("run"), tmp_path / "run")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "bench.json").touch()
    others = ((tmp_path / "run", "a run folder"), (ours, "a distilled dataset"), (tmp_path / "bench", "a bench"))
    for out, what in others:
        before = sorted(path.name for path in out.iterdir())
        with pytest.raises(ArtifactError, match=what):
            attar.evaluate(ours, "digits", out=out)
        assert sorted(path.name for path in out.iterdir()) == before


def test_the_kept_pictures_have_one_order_of_bytes(tmp_path: Path) -> None:
    gallery = Gallery(np.zeros((1, 2, 2, 1), np.uint8), (0,), 1, 1)
    written = set()
    for _ in range(20):
        keep_judged(tmp_path, Outside("set", "digits"), gallery)
        written.add((tmp_path / PICTURES).read_bytes())
    assert len(written) == 1
