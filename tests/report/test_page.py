"""The page as text: pure, escaped, self-contained, and honest about what is missing."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from attar.errors import ArtifactError
from attar.report.collect import collect
from attar.report.downloads import download
from attar.report.page import render, write_report

MakeRun = Callable[..., Path]
EVIL = "<script>alert('\"1\"')</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Every tag with its attributes, and the text of each style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.shown = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.raw else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside].append(data)
        else:
            self.shown += data


def test_the_same_run_gives_the_same_page(make_run: MakeRun) -> None:
    run = make_run()
    data = collect(run)
    assert render(data) == render(data) == render(collect(run))
    assert render(data).lstrip().startswith("<!doctype html>")


def test_names_settings_and_sentences_are_escaped(make_run: MakeRun) -> None:
    run = make_run(class_names=(EVIL, "b", "c"), source=EVIL, by_class=True, strips=1, watched=True)
    counted = json.loads((run / "by_class.json").read_text("utf-8"))
    (run / "by_class.json").write_text(
        json.dumps({"by_class": [one | {"model": EVIL} for one in counted["by_class"]]}), "utf-8"
    )
    evaluation = json.loads((run / "evaluation.json").read_text("utf-8"))
    evaluation["verdict"] = {"sentences": [EVIL], "points": [EVIL]}
    for record in evaluation["records"]:
        record |= {"model": EVIL, "protocol": {EVIL: EVIL}}
    evaluation["records"][2] |= {"subject": EVIL, "group": EVIL}
    evaluation["judged"] = {"left_out": {"num": 2, "names": [EVIL, EVIL]}}
    (run / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    with (run / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"stage": EVIL, "event": "step", "item": EVIL, "step": 1, EVIL: 1.0}) + "\n")
        file.write(json.dumps({"stage": "distill", "event": "why", "message": EVIL}) + "\n")
    page = Page(render(collect(run)))
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == names.count("style") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.shown.count(EVIL) > 20
    assert sum(EVIL in str(attributes.get("alt")) for _, attributes in page.tags) == 2, "a synthetic and a real image"
    assert not any("<" in str(attributes.get("href")) for _, attributes in page.tags)


def files_of(page: Page) -> dict[str, list[list[str]]]:
    """The tables that a page offers as files, by name."""
    links = [a for tag, a in page.tags if tag == "a" and a.get("download")]
    start = "data:text/csv;charset=utf-8,"
    assert all(str(link["href"]).startswith(start) for link in links)
    texts = {str(a["download"]): unquote(str(a["href"]).removeprefix(start)) for a in links}
    return {name: list(csv.reader(io.StringIO(text))) for name, text in texts.items()}


def test_the_contents_lead_to_every_heading(make_run: MakeRun) -> None:
    page = Page(render(collect(make_run(by_class=True, strips=1, watched=True, continual=3, chunks=3))))
    links = [str(a["href"]) for tag, a in page.tags if tag == "a" and not a.get("download")]
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert len(links) == [tag for tag, _ in page.tags].count("h2") > 8
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_tables_are_files_with_numbers_in_full(make_run: MakeRun) -> None:
    run = make_run(by_class=True, watched=True, continual=3, chunks=3)
    files = files_of(Page(render(collect(run))))
    assert set(files) == {
        f"digits-in-3-images-{table}.csv"
        for table in ("measurements", "classes", "confusion", "sizes", "steps", "terms", "curves")
    }
    head, first, *_ = files["digits-in-3-images-measurements.csv"]
    record = json.loads((run / "evaluation.json").read_text("utf-8"))["records"][0]
    told = dict(zip(head, first, strict=True))
    assert float(told["mean"]) == record["mean"]
    assert [float(told[f"value {n}"]) for n in (1, 2, 3)] == record["values"]
    assert files["digits-in-3-images-classes.csv"][1][:4] == ["rose", "90.0", "30", "27"]
    assert ["Random real images", "rose", "jasmine", "9", "30"] in files["digits-in-3-images-confusion.csv"]
    assert len(files["digits-in-3-images-curves.csv"]) == 1 + 2 * 3 * 3
    assert [cell.lower() for cell in files["digits-in-3-images-sizes.csv"][-1]] == ["total", "3692"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", 'a "quoted", name', "two\nlines", "ünï"])
def test_no_name_is_a_formula_and_each_is_read_back(name: str) -> None:
    made = download(name, "table", [name, "number"], [[name, -0.1], [None, 3]])
    rows = list(csv.reader(io.StringIO(unquote(made.uri.split(",", 1)[1]), newline="")))
    formula = name[0] in "=+-@\t"
    assert rows == [[f"'{name}" if formula else name, "number"], [f"'{name}" if formula else name, "-0.1"], ["", "3"]]
    assert re.fullmatch(r"[\w.-]+-table\.csv", made.name)


def test_settings_are_folded_away_and_images_left_out_are_listed(make_run: MakeRun) -> None:
    run = make_run()
    evaluation = json.loads((run / "evaluation.json").read_text("utf-8"))
    evaluation["judged"] = {"left_out": {"num": 1200, "names": ["red/0.png", "red/1.png"]}}
    (run / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    page = Page(render(collect(run)))
    assert "1,200 images of the source could not be read. The first 2:" in page.shown
    assert "red/1.png" in page.shown
    folded = [attributes for tag, attributes in page.tags if tag == "details"]
    assert len(folded) == 4, "how it was measured, images left out, settings, made with"
    assert not any("open" in attributes for attributes in folded)


def test_real_images_stand_beside_and_are_weighed_apart(make_run: MakeRun) -> None:
    run = make_run(strips=4)
    page = Page(render(collect(run)))
    alts = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    assert [f"rose, real image {n}" for n in (1, 2, 3, 4)] == [alt for alt in alts if alt.startswith("rose, real")]
    assert "the run also keeps 12 real images" in page.shown
    without = Page(render(collect(make_run()))).shown
    total = next(line for line in without.splitlines() if "2,716" in line or "3,692" in line)
    assert total in page.shown, "the distilled set weighs what it weighed"
    (run / "real.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"real\.safetensors holds no pictures"):
        collect(run)


def test_accuracy_over_epochs_is_a_chart_of_its_own(make_run: MakeRun) -> None:
    page = Page(render(collect(make_run(watched=True)))).shown
    assert "Accuracy over epochs" in page
    assert "validation accuracy, percent" in page
    assert "Accuracy over epochs" not in Page(render(collect(make_run()))).shown


def test_a_best_over_the_run_is_a_line_below_the_headline_and_a_row(make_run: MakeRun) -> None:
    run = make_run()
    without = Page(render(collect(run))).shown
    evaluation = json.loads((run / "evaluation.json").read_text("utf-8"))
    first = evaluation["records"][0]
    tested = [{"at": 7, "mean": 99.5}, {"at": None, "mean": 1}]
    best = {"over": "steps", "at": [7], "tested": tested}
    evaluation["records"].append(first | {"subject": "distilled, best over the run", "mean": 99.5, "best": best})
    (run / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    page = Page(render(collect(run))).shown
    assert "step 7 of 2 tested, chosen by the images that judge, as in published tables" in page
    assert "best_test_accuracy" in page
    assert "best_test_accuracy" not in without
    evaluation["records"][-1]["best"] = {"over": "steps", "at": "7", "tested": tested}
    (run / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    with pytest.raises(ArtifactError, match=r"best\.at: Input should be a valid tuple"):
        collect(run)


def test_nothing_is_loaded_and_the_policy_admits_this_style_and_script_only(make_run: MakeRun) -> None:
    page = Page(render(collect(make_run())))
    for tag, attributes in page.tags:
        assert "style" not in attributes, f"the policy forbids style attributes, as on <{tag}>"
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            assert str(attributes.get(name, "data:")).startswith(("data:", "#"))
    (policy,) = (str(a["content"]) for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    for kind in ("style", "script"):
        digest = hashlib.sha256("".join(page.raw[kind]).encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_numbers_are_on_the_page(make_run: MakeRun) -> None:
    shown = " ".join(Page(render(collect(make_run()))).shown.split())
    for text in (
        "digits in 3 images",
        "93.2 ± 0.6",
        "70.7 ± 2.2",
        "98.5 ± 0.2",
        "n = 3",
        "points ahead of random real images",
        "4.9 kB",
        "479×",
    ):
        assert text in shown
    for text in ("Some Processor 2.4 GHz", "max_start_epoch", "1 min 37 s", "attar distill digits --method tesla"):
        assert text in shown


def test_the_page_tells_of_each_kind_of_labels_and_each_network(make_run: MakeRun) -> None:
    run = make_run(networks=("net-a", "net-b", "net-c"))
    page = Page(render(collect(run)))
    shown = " ".join(page.shown.split())
    assert "With soft labels, distilled images clearly beat random real images at the same count on all 3" in shown
    assert "With hard labels, distilled images clearly beat random real images at the same count on none of 3" in shown
    assert "With the better labels for each, random real images are ahead on all 3 networks." in shown
    assert shown.count("Soft labels") == shown.count("Hard labels") == 3
    contents = sum(str(attributes.get("href")).startswith("#") for _, attributes in page.tags)
    assert [tag for tag, _ in page.tags].count("li") - contents == 3, "a line for each network"
    assert "points behind random real images, hard labels" in shown
    command = "--models net-a,net-b,net-c --seeds 2 --baselines random,full --set 'evaluate.labels=[stored,hard]'"
    assert command in shown


def test_lines_of_one_chart_do_not_look_alike(make_run: MakeRun) -> None:
    run = make_run()
    with (run / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
        for k, step in itertools.product(range(15), (1, 2)):
            fields = {"stage": "train", "event": "epoch", "item": f"on net {k}x", "step": step, "loss": k + step}
            file.write(json.dumps(fields) + "\n")
    keys = [str(attributes.get("class")) for tag, attributes in Page(render(collect(run))).tags if tag == "svg"]
    styles = [key for key in keys if key.startswith("tone-")]
    assert len(set(styles)) == 15


def test_the_recorded_command_is_shown(make_run: MakeRun) -> None:
    run = make_run()
    path = run / "distilled" / "attar.json"
    command = ["attar", "distill", "my photos", "--ipc", "1"]
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"command": command}), "utf-8")
    assert "attar distill 'my photos' --ipc 1" in Page(render(collect(run))).shown


@pytest.mark.parametrize(
    ("tiles", "told"), [(2, "Each holds 4 smaller ones"), (1, ""), (None, ""), ("<b>", ""), (-1, "")]
)
def test_images_that_hold_others_are_said_to(tiles: object, told: str, make_run: MakeRun) -> None:
    run = make_run()
    path = run / "distilled" / "attar.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"tiles": tiles}), "utf-8")
    shown = Page(render(collect(run))).shown
    assert "smaller ones, and training sees one of them at a time" in shown if told else "smaller ones" not in shown
    assert told in shown


def test_a_run_without_evaluation_says_how_to_get_one(make_run: MakeRun) -> None:
    shown = Page(render(collect(make_run(evaluated=False)))).shown
    assert "Not evaluated yet" in shown
    assert "attar evaluate" in shown


def test_an_interrupted_run_says_so(make_run: MakeRun) -> None:
    shown = Page(render(collect(make_run(complete=False, evaluated=False)))).shown
    assert "Not complete: recover had not ended" in shown
    assert "as the last snapshot (step 60) has them" in shown
    assert "attar evaluate" not in shown


def test_a_run_that_has_only_started_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {source: 'hf:owner/flowers'}\n", "utf-8")
    page = render(collect(tmp_path))
    assert "<title>flowers · attar</title>" in page
    assert '<nav class="contents"' not in page, "there is next to nothing to lead to"


def test_of_a_thousand_classes_a_stated_part_is_shown(make_run: MakeRun) -> None:
    names = tuple(f"class number {i}" for i in range(1000))
    pixels = np.zeros((2000, 2, 2, 1), np.uint8)
    page = Page(render(collect(make_run(class_names=names, ipc=2, pixels=pixels, num_frames=2))))
    assert "200 of 2,000 images, from 100 of 1,000 classes" in page.shown
    assert "60 of the 2,000 images; step 0 to step 60 in 2 frames." in page.shown


@pytest.mark.parametrize("ipc", [1, 2, 5, 12])
def test_every_count_has_a_layout(make_run: MakeRun, ipc: int) -> None:
    text = render(collect(make_run(ipc=ipc)))
    assert {1: "singles", 2: "blocks per-2", 5: "blocks per-5", 12: "rows"}[ipc] in text
    assert ("of 36 images" in text) == (ipc == 12)


def test_a_page_is_written_beside_the_run_or_where_one_says(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    assert write_report(run) == run / "report.html"
    assert write_report(run, tmp_path / "deep" / "page.html").read_bytes() == (run / "report.html").read_bytes()
