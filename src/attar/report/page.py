"""One self-contained HTML page about a run: `render` is a pure function of what `collect` read.

Nothing is loaded from anywhere: images are data URIs, style and script stand in the page, and the page's
content security policy admits these two texts by their hashes and nothing else. Every value is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from attar.plain import is_number
from attar.report.charts import TONES, Chart, chart
from attar.report.classes import classes_view
from attar.report.collect import ReportData, collect, mapping
from attar.report.commands import commands, evaluate_command
from attar.report.continual import continual_view
from attar.report.curves import STAGES, Curve, by_network
from attar.report.formats import count, duration, setting, size
from attar.report.headline import accuracies, comparisons, facts, protocol, unbroken, unbroken_words, unlabelled
from attar.report.labels import label_story
from attar.report.layout import film_view, gallery_view, real_note
from attar.report.outside import FOREIGN
from attar.report.recovery import terms
from attar.report.scores import scores_view
from attar.report.tables import page_tables
from attar.results.verdict import best_lines
from attar.runtime.files import write_text
from attar.version import __version__
from attar.visible import visible

SIZES = {"images": "Images", "labels": "Labels", "teacher": "Teacher", "whitening": "Whitening", "total": "Total"}
MOST_DASHES = 2
DISTILLED = "distilled images"
"""What a method that makes images of its own calls them."""
CONTENTS = "<!--contents-->"
"""Where a template wants the table of contents; text of a page can't hold it, as it is escaped."""
SECTION = re.compile(
    r'<section id="([\w-]+)"[^>]*>(?:\s*<(?:details|summary)\b[^>]*>)*\s*<h2[^>]*>(?:<bdi>)?(.*?)(?:</bdi>)?</h2>'
)
STAGE_TITLES = {
    "squeeze": "What was learnt from the real images",
    "relabel": "Labelling the images",
    "train": "Training on the result",
    "evaluate": "Training for the evaluation",
}


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run, by default to `report.html` in it, and return its path.

    Raises:
        ArtifactError: the folder is not a run folder or a file in it is damaged.
        ResourceError: the page cannot be written.
    """
    path = out or run / "report.html"
    write_text(path, render(collect(run)))
    return path


def render(data: ReportData) -> str:
    """Draw the page; the same data gives the same text."""
    named = len({record.model for record in data.records}) != 1
    charts = [chart(part) for curve in data.curves if _tells(curve) for part in by_network(curve, named=named)]
    measured = accuracies(data.records)
    title, by_class, last, scored = _title(data), classes_view(data), terms(data), scores_view(data)
    arriving, sizes = continual_view(data), _sizes(data)
    tables = page_tables(
        title, data, classes_of=by_class, terms=last, scores_of=scored, continual=arriving, parts=sizes
    )
    view = {
        "data": data,
        "title": title,
        "downloads": tables,
        "classes": by_class,
        "kind": "dataset distillation report",
        "subtitle": _subtitle(data),
        "verdict": unbroken_words(data.verdict),
        "comparisons": comparisons(data.records),
        "protocol": protocol(data.records),
        "facts": facts(data.records),
        "best": [unbroken(line) for line in best_lines(data.records)],
        "gallery": gallery_view(data),
        "called": data.makes if data.makes and data.makes != DISTILLED else "synthetic images",
        "film": film_view(data),
        "film_charts": [made for made in charts if made.stage == "recover"],
        "accuracy_charts": [made for made in charts if _is_watched(made)],
        "stage_charts": _by_stage([made for made in charts if not _is_watched(made)]),
        "terms": last,
        "scores": scored,
        "continual": arriving,
        "labels": label_story(data),
        "sizes": sizes,
        "real_note": real_note(data),
        "settings": _settings(data),
        "whole": next((record for record in measured if record.group == "full"), None),
        "metrics": list(dict.fromkeys(record.metric_name for record in data.records)),
        "split": measured[0].split if measured else "",
        "unfinished": [stage.name for stage in data.stages if not stage.complete],
        "hardware": _merged([stage.hardware for stage in data.stages] or [data.judged_on]),
        "versions": _merged(stage.versions for stage in data.stages),
        "commands": commands(data),
        "evaluate_command": evaluate_command(data),
        "dataset_line": _dataset_line(data),
    }
    return draw("template.html", view)


def draw(template: str, view: Mapping[str, Any]) -> str:
    """Fill a template in its frame: style, script, and a policy that admits these two and images only."""
    style, script = _part("style.css"), _part("script.js")
    frame = {
        "policy": _policy(style, script),
        "style": Markup(style),
        "script": Markup(script),
        "version": __version__,
    }
    text = _environment().get_template(template).render({**view, **frame})
    text = text.replace(CONTENTS, _contents(text), 1)
    return visible(text)


def _contents(page: str) -> str:
    """Links to the sections of a page that have a name and a heading; none where there are few."""
    found = SECTION.findall(page)
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading in found)
    return f'<nav class="contents" aria-label="On this page"><ul>{links}</ul></nav>' if len(found) > 2 else ""


@cache
def _environment() -> jinja2.Environment:
    """Kept, since compiling the templates takes longer than filling them."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, size=size, duration=duration, setting=setting)
    environment.filters.update(tone=_tone, unlabelled=unlabelled)
    return environment


def _part(name: str) -> str:
    return (resources.files("attar.report") / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Images from data URIs, this style, this script, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _title(data: ReportData) -> str:
    source = str(data.settings.get("run", {}).get("source") or Path(data.run).name)
    source = data.outside.source if data.outside else source
    name = source.rstrip("/").rsplit("/", 1)[-1].removeprefix("hf:").removeprefix("wds:") or source
    if not data.gallery:
        return name
    return f"{name} in {count(data.gallery.num_images)} image{'s' if data.gallery.num_images > 1 else ''}"


def _dataset_line(data: ReportData) -> str:
    """How the images are opened without attar; empty where they are no dataset repository."""
    if data.outside and not data.outside.ours:
        return ""
    path = data.outside.path if data.outside else str(Path(data.run) / "distilled")
    return f"datasets.load_dataset({path!r})"


def _subtitle(data: ReportData) -> list[str]:
    run, gallery = data.settings.get("run", {}), data.gallery
    if data.outside:
        run = {name: value for name in ("ipc", "seed") if is_number(value := data.description.get(name))}
    parts = [f"{data.description.get('method') or run.get('method') or ''}"]
    if data.outside and not data.outside.ours:
        parts = [f"{Path(data.outside.path).name}, of {FOREIGN}"]
    if ipc := run.get("ipc"):
        parts.append(f"{ipc} image{'s' if ipc != 1 else ''} per class")
    if gallery:
        height, width, channels = gallery.pixels.shape[1:]
        parts.append(f"{count(len(data.class_names) or gallery.num_classes)} classes")
        parts.append(f"{width} × {height} px, {'grey' if channels == 1 else 'colour'}")
    if total := data.sizes_bytes.get("total"):
        parts.append(size(total))
    if "seed" in run:
        parts.append(f"seed {run['seed']}")
    return [part for part in parts if part]


def _tells(curve: Curve) -> bool:
    """A value that never changes is a setting, and stands among these, as does the schedule of the evaluation."""
    if curve.stage == "evaluate" and curve.metric == "learning_rate":
        return False
    return len({value for series in curve.series for value in series.values}) > 1


def _is_watched(made: Chart) -> bool:
    """Whether a chart is of the students' accuracy over epochs."""
    return made.stage == "evaluate" and made.metric.endswith("_accuracy")


def _settings(data: ReportData) -> Mapping[str, Mapping[str, Any]]:
    """Settings of the run, or those that a set of ours that was judged elsewhere was made with."""
    told = data.settings or mapping(data.description.get("settings"))
    return {str(name): values for name, values in told.items() if isinstance(values, Mapping)}


def _tone(number: int) -> str:
    """Classes of a line and of its key: TONES colours, then the same with dashes."""
    return f"tone-{number % TONES} dash-{min(number // TONES, MOST_DASHES)}"


def _by_stage(charts: Sequence[Chart]) -> list[tuple[str, list[Chart]]]:
    stages = dict.fromkeys([*STAGES, *(c.stage for c in charts)])
    found = [(name, [c for c in charts if c.stage == name]) for name in stages if name != "recover"]
    return [(STAGE_TITLES.get(name, name), members) for name, members in found if members]


def _sizes(data: ReportData) -> list[tuple[str, int, float]]:
    """Name, bytes and percent of the total of each part; the total comes last."""
    total = data.sizes_bytes.get("total") or sum(data.sizes_bytes.values())
    parts = [(name, num) for name, num in data.sizes_bytes.items() if name != "total"]
    rows = [*parts, ("total", total)] if total else []
    return [(SIZES.get(name, name), num, round(100 * num / total, 2)) for name, num in rows]


def _merged(tables: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """One table of several: where stages differ, all their values."""
    merged: dict[str, list[str]] = {}
    for table in tables:
        for key, value in table.items():
            merged.setdefault(str(key), []).append(setting(value))
    return {key: "; ".join(dict.fromkeys(values)) for key, values in merged.items()}
