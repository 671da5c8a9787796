"""A study of training strategies as a benchmark: `attar study NAME`, its table with date, hardware and command.

    ATTAR_DATA=FOLDER python benchmarks/studies.py cifar10-cpu --json FILE
    python benchmarks/studies.py few-images --distilled RUN --labels stored --json FILE

FOLDER holds cifar10/; RUN is made as the study's file says. What is there in --out is used, so that a study that was
run before is only told. The checks ask whether dlb lowers the error of ce by the least that its authors report on
average for CIFAR-10, 0.37 points, at equal images seen and (where the study has them) at equal epochs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from table import Checks, Rows, arguments, finish, spread

import attar
from attar.results.significance import Contrast, cell_of, signed
from attar.studies.settings import read_study

PUBLISHED = 0.37


def main() -> None:
    options = arguments(__doc__ or "", _add)
    settings = _source(options.study)
    if options.distilled:
        settings |= {"data.distilled": str(options.distilled), "data.labels": options.labels}
    found = attar.study(
        options.study,
        out=options.out,
        settings=settings,
        processes=options.processes,
        workers=1,
        device="cpu",
        quiet=False,
    )
    beside = {id(contrast.record): contrast for contrast in found.contrasts}
    rows: Rows = []
    for record in found.records:
        own, contrast = cell_of(record), beside.get(id(record))
        rows.append(
            {
                "strategy": own.strategy,
                "variant": own.variant,
                "wrong labels": own.label_noise,
                "images seen": own.images_seen,
                "accuracy, %": spread(record.values),
                "values": ", ".join(f"{value:.2f}" for value in record.values),
                "to ce": signed(contrast.points) if contrast else "",
                "95 %": contrast.interval if contrast else "",
                "verdict": contrast.verdict if contrast else "",
            }
        )
    print(f"{found.summary}\n{found.held_equal}")
    finish(rows, _checks(found.contrasts), options.json)


def _source(study: str) -> dict[str, str]:
    """The parquet shards of cifar10 for a study of it; nothing for one of a bundled source."""
    if read_study(study).data.source != "cifar10":
        return {}
    data = os.environ.get("ATTAR_DATA")
    if not data:
        sys.exit("set ATTAR_DATA to a folder with cifar10/ as parquet shards")
    return {"data.source": str(Path(data) / "cifar10")}


def _checks(contrasts: Sequence[Contrast]) -> Checks:
    made: Checks = {}
    for name, what in (("dlb", "equal_images_seen"), ("dlb-as-published", "equal_epochs")):
        places = [(cell_of(contrast.record), contrast.points) for contrast in contrasts]
        clean = [points for cell, points in places if cell.strategy == name and not cell.label_noise]
        if clean:
            made[f"dlb_points_over_ce_at_{what}"] = {"value": statistics.fmean(clean), "target": PUBLISHED}
    return made


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="a bundled study, or a file")
    parser.add_argument("--distilled", type=Path, help="train on this distilled dataset")
    parser.add_argument("--labels", default="stored", choices=("stored", "hard"), help="of the distilled images")
    parser.add_argument("--out", type=Path, help="the study's folder")
    parser.add_argument("--processes", type=int, help="trainings at a time, of one thread each")


if __name__ == "__main__":
    main()
