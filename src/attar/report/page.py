"""One self-contained HTML page about a run: `render` is a pure function of what `collect` read.

Nothing is loaded from anywhere: images are data URIs, style and script stand in the page, and the page's
content security policy admits these two texts by their hashes and nothing else. Every value is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from attar.plain import is_number
from attar.report.charts import TONES, Chart, chart
from attar.report.collect import ReportData, collect
from attar.report.commands import commands, evaluate_command
from attar.report.continual import continual_view
from attar.report.curves import STAGES, Curve, by_network
from attar.report.formats import count, duration, setting, size
from attar.report.headline import accuracies, comparisons, facts, protocol, unbroken, unbroken_words, unlabelled
from attar.report.labels import label_story
from attar.report.layout import film_view, gallery_view
from attar.report.outside import FOREIGN
from attar.report.recovery import terms
from attar.report.scores import scores_view
from attar.results.verdict import best_lines
from attar.runtime.files import write_text
from attar.version import __version__

SIZES = {"images": "Images", "labels": "Labels", "teacher": "Teacher", "whitening": "Whitening", "total": "Total"}
MOST_DASHES = 2
STAGE_TITLES = {
    "squeeze": "What was learnt from the real images",
    "relabel": "Labelling the synthetic images",
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
    view = {
        "data": data,
        "title": _title(data),
        "kind": "dataset distillation report",
        "subtitle": _subtitle(data),
        "verdict": unbroken_words(data.verdict),
        "comparisons": comparisons(data.records),
        "protocol": protocol(data.records),
        "facts": facts(data.records),
        "best": [unbroken(line) for line in best_lines(data.records)],
        "gallery": gallery_view(data),
        "film": film_view(data),
        "film_charts": [made for made in charts if made.stage == "recover"],
        "stage_charts": _by_stage(charts),
        "terms": terms(data),
        "scores": scores_view(data),
        "continual": continual_view(data),
        "labels": label_story(data),
        "sizes": _sizes(data),
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
    return text.encode("utf-8", errors="replace").decode()  # names of files need not be text


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
