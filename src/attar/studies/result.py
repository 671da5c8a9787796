"""What a study comes to: a record for each cell, its difference to the baseline, and the files that hold them.

study.json    records, differences, what they say, what was held equal
study.csv     a line for each training
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.config import dump
from attar.errors import ArtifactError
from attar.results.records import ACCURACY, Record
from attar.results.records import Cell as Place
from attar.results.significance import Contrast, cell_of, summary, to_baseline
from attar.results.verdict import Words
from attar.runtime.engine import hardware
from attar.runtime.files import write_json, write_text
from attar.studies.grid import Cell, images_seen, showings
from attar.studies.trainings import Study, Training

RESULT, _TABLE = "study.json", "study.csv"


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    `records` are one for each cell, `contrasts` their differences to the baseline, `summary` these in words and
    `held_equal` what is equal among the trainings; `path` is the folder, `report` the page.
    """

    path: Path
    records: tuple[Record, ...]
    contrasts: tuple[Contrast, ...]
    summary: Words
    held_equal: str
    report: Path | None = None


def gather(study: Study) -> StudyResult:
    """Read the finished trainings of every cell; all must be there."""
    accuracies = {(id(one.cell), one.seed): _reached(study, one) for one in study.trainings}
    values = [[accuracies[id(cell), seed] for seed in cell.seeds] for cell in study.cells]
    records = [_record(study, cell, mine) for cell, mine in zip(study.cells, values, strict=True)]
    compared = to_baseline(records, study.settings.baseline)
    return StudyResult(study.folder, tuple(records), tuple(compared), summary(compared), held_equal(study))


def write(result: StudyResult, study: Study) -> None:
    """Write both files."""
    settings, data = study.settings, study.data
    values = {
        "about": settings.about,
        "records": [record.to_json() for record in result.records],
        "contrasts": [contrast.to_json() for contrast in result.contrasts],
        "summary": result.summary.to_json(),
        "baseline": settings.baseline,
        "equal": settings.equal,
        "held_equal": result.held_equal,
        "source": data.source.fingerprint,
        "description": data.source.description,
        "hardware": hardware(study.engine.device),
        "settings": settings.model_dump(mode="json", exclude_unset=True),
    }
    write_json(result.path / RESULT, values)
    write_text(result.path / _TABLE, _csv(result.records))


def held_equal(study: Study) -> str:
    """What is equal among the trainings, and what is not, in a sentence or two."""
    by_num: dict[int, dict[str, int]] = {}
    for cell in study.cells:
        seen = images_seen(cell.settings, study.data.subject.num_images)
        by_num.setdefault(seen, {})[cell.strategy] = showings(cell.settings)
    equal = len(by_num) == 1
    often: dict[int, list[str]] = {}
    for name, times in {name: times for names in by_num.values() for name, times in names.items()}.items():
        often.setdefault(times, []).append(name)
    told = [_shown(times, names, equal) for times, names in sorted(often.items()) if times > 1]
    if equal:
        return " ".join([f"Every training sees {next(iter(by_num)):,} images, each view counted.", *told])
    parts = [f"{num:,} by {', '.join(names)}" for num, names in sorted(by_num.items())]
    return " ".join([f"Images seen are not equal, each view counted: {'; '.join(parts)}.", *told])


def _shown(times: int, names: Sequence[str], equal: bool) -> str:
    """`dlb and ddgsd show each image twice an epoch, and have half of the epochs.`"""
    who = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    verb, have = ("show", "have") if len(names) > 1 else ("shows", "has")
    often = "twice" if times == 2 else f"{times} times"
    fewer = f", and {have} {'half' if times == 2 else f'one in {times}'} of the epochs" if equal else ""
    return f"{who} {verb} each image {often} an epoch{fewer}."


def _reached(study: Study, training: Training) -> float:
    reached = study.finished(training)
    if reached is None:
        raise ArtifactError(f"{training.name} has not been trained in {study.folder}", fix="run the study to its end")
    return reached


def _record(study: Study, cell: Cell, values: Sequence[float]) -> Record:
    data, wrong = study.data, f", {100 * cell.noise:g} % wrong labels" if cell.noise else ""
    num = data.subject.num_images
    return Record.of(
        ACCURACY,
        f"{cell.strategy}, {cell.variant}{wrong}",
        cell.model,
        values,
        seeds=cell.seeds,
        num_images=num,
        size_bytes=data.subject.size_bytes,
        group=data.subject.group,
        labels=data.subject.labels,
        split=data.split,
        num_judges=len(data.judge),
        cell=Place(
            strategy=cell.strategy,
            variant=cell.variant,
            label_noise=cell.noise,
            images_seen=images_seen(cell.settings, num),
            showings=showings(cell.settings),
        ),
        protocol={"precision": study.engine.precision, **dump(cell.settings)},
    )


def _csv(records: Sequence[Record]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "model",
            "strategy",
            "variant",
            "label_noise",
            "seed",
            records[0].metric_name,
            "epochs",
            "images",
            "images_seen",
        ]
    )
    for record in records:
        own = cell_of(record)
        for seed, value in zip(record.seeds, record.values, strict=True):
            row = [record.model, own.strategy, own.variant, own.label_noise, seed, value, record.protocol["epochs"]]
            writer.writerow([*row, record.num_images, own.images_seen])
    return text.getvalue()
