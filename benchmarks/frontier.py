"""Where is a byte best spent: accuracy against all bytes (images, labels, teacher), for codecs and schedules of labels.

    python benchmarks/frontier.py --json benchmarks/results/frontier.json

Digits, a few real images a class changed by sre2l, and random real ones under the same labels; a ConvNet-2 of width 16
teaches and learns. Each variant is a run that differs in its labels alone. The page `comparison.html` in --out has the
table and the figure of accuracy by bytes. Checks: the least bytes of labels, as a part of those of full float16 labels,
that keep 95 % of the gain of these over hard labels, where there is one; the aim is 0.01.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from table import Checks, Rows, arguments, finish, spread

import attar
from attar.results.records import Record

EPOCHS, SEEDS, KEPT, AIM = 100, 3, 0.95, 0.01
NETWORK = "convnet-d2-w16-batch"
BASE: dict[str, Any] = {
    "squeeze.model": NETWORK,
    "squeeze.augment": "crop",
    "method.start": "real",
    "method.lr_images": 0.05,
    "method.flip": False,
    "recover.iterations": 100,
    "relabel.flip": False,
    "relabel.min_scale": 0.5,
    "relabel.mix": "none",
    "train.epochs": EPOCHS,
    "train.batch_size": 50,
    "train.learning_rate": 0.004,
    "train.augment": "crop_scale_rotate",
    "train.temperature": 4,
    "evaluate.models": [NETWORK],
    "evaluate.seeds": SEEDS,
    "evaluate.baselines": ["random"],
}


def _stored(codec: str, keep: int = 0, epochs: int | None = None) -> dict[str, Any]:
    kept = {"relabel.keep": keep} if keep else {}
    return {"relabel.labels": "epochs", "relabel.codec": codec, "relabel.epochs": epochs, **kept}


VARIANTS: dict[str, dict[str, Any]] = {
    "fp16": _stored("fp16"),
    "q4": _stored("q4"),
    "q4, soft-hard-soft": _stored("q4") | {"train.hard_epochs": EPOCHS // 2},
    "pca, 2 bytes": _stored("pca", 2),
    "pca, 2 bytes, a tenth of the epochs": _stored("pca", 2, EPOCHS // 10),
    "fp16, a hundredth of the epochs": _stored("fp16", 0, EPOCHS // 100),
    "one label an image": {"relabel.labels": "teacher"},
    "teacher in training": {"relabel.labels": "online"},
}
FULL, ONLINE = "fp16", "teacher in training"


def main() -> None:
    options = arguments(__doc__ or "", _add)
    folder = options.out or Path(tempfile.mkdtemp())
    rows: Rows = []
    checks: Checks = {}
    paths = []
    for ipc in options.ipc:
        found = {name: _judged(folder, ipc, name, settings) for name, settings in VARIANTS.items()}
        paths += [run.path for run in found.values()]
        soft = {name: _of(run.records, "distilled", "soft") for name, run in found.items()}
        hard = _of(found[FULL].records, "distilled", "hard")
        labels = {name: run.load().sizes["labels"] + run.load().sizes["teacher"] for name, run in found.items()}
        gain = soft[FULL].mean - hard.mean
        rows.append(_row(ipc, "sre2l", "hard", hard, 0, ""))
        for name, one in soft.items():
            kept = f"{(one.mean - hard.mean) / gain:.2f}" if gain > 0 else ""
            rows.append(_row(ipc, "sre2l", name, one, labels[name], kept))
        rows.append(_row(ipc, "random", "hard", _of(found[FULL].records, "random", "hard"), 0, ""))
        online = _of(found[ONLINE].records, "random", "soft")  # whatever is stored, these are labelled in training
        rows.append(_row(ipc, "random", ONLINE, online, labels[ONLINE], ""))
        if gain > 0:
            enough = [labels[name] / labels[FULL] for name, one in soft.items() if one.mean - hard.mean >= KEPT * gain]
            checks[f"least_part_of_label_bytes_ipc{ipc}"] = {"value": min(enough), "target": AIM}
    attar.compare([str(path) for path in paths], out=folder)
    print(f"figure: {folder / 'comparison.html'}")
    finish(rows, checks, options.json)


def _judged(folder: Path, ipc: int, name: str, settings: dict[str, Any]) -> attar.Distillation:
    out = folder / f"ipc{ipc}-{name.replace(', ', '-').replace(' ', '-')}"
    return attar.distill(
        "digits", "sre2l", ipc, recipe="none", out=out, settings=BASE | settings, device="cpu", workers=1, thorough=True
    )


def _of(records: tuple[Record, ...], group: str, labels: str) -> Record:
    return next(one for one in records if (one.group, one.labels, one.best) == (group, labels, None))


def _row(ipc: int, group: str, name: str, record: Record, label_bytes: int, kept: str) -> dict[str, Any]:
    return {
        "images a class": ipc,
        "images": group,
        "labels": name,
        "bytes": record.size_bytes,
        "of them labels and teacher": label_bytes,
        "accuracy, %": spread(record.values),
        "gain kept": kept,
    }


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="folder of the runs and of the page; what is there is used")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 5], help="images a class")


if __name__ == "__main__":
    main()
