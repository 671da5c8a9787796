"""Where is a byte best spent: accuracy against all bytes (images, labels, teacher), for codecs and schedules of labels.

    python benchmarks/frontier.py --json benchmarks/results/frontier.json
    python benchmarks/frontier.py --source $ATTAR_DATA/tiny-imagenet-32 --per-class 100 --method easy --ipc 5 \
        --teacher convnet-d3-w32-batch --student convnet-d3-w16-batch --no-random --split validation --out WORK

By default digits, a few real images a class changed by sre2l, and random real ones under the same labels; a ConvNet-2
of width 16 teaches and learns. With another source of many classes come codecs for these. All runs have one teacher,
and those of one number of images a class have the same images: they differ in their labels alone. The page
`comparison.html` in --out has the table and the figure of accuracy by bytes. Checks: the least bytes of labels, as a
part of those of full float16 labels, that keep 95 % of the gain of these over hard labels, where there is one; the aim
is 0.01.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from table import Checks, Rows, arguments, finish, spread

import attar
from attar.artifacts.run import MANIFEST
from attar.options import Redo, Until
from attar.results.records import Record

SEEDS, KEPT, AIM = 3, 0.95, 0.01
MANY_CLASSES = 50
NETWORK = "convnet-d2-w16-batch"
SHARED: dict[str, Any] = {
    "relabel.min_scale": 0.5,
    "relabel.mix": "none",
    "train.batch_size": 50,
    "train.learning_rate": 0.004,
    "train.temperature": 4,
    "evaluate.protocol": "soft-labels",
    "evaluate.seeds": SEEDS,
    "evaluate.processes": 1,
}
DIGITS = {"squeeze.augment": "crop", "relabel.flip": False, "train.augment": "crop_scale_rotate"}
PHOTOGRAPHS = {"squeeze.epochs": 8, "train.augment": "flip_crop_scale_rotate"}
METHODS: dict[str, dict[str, Any]] = {
    "sre2l": {"method.start": "real", "method.lr_images": 0.05, "recover.iterations": 100},
    "easy": {},
    "kmeans": {},
}
FULL, ONLINE = "fp16", "teacher in training"


def _stored(codec: str, keep: int = 0, epochs: int | None = None) -> dict[str, Any]:
    kept = {"relabel.keep": keep} if keep else {}
    return {"relabel.labels": "epochs", "relabel.codec": codec, "relabel.epochs": epochs, **kept}


def few_classes(epochs: int) -> dict[str, dict[str, Any]]:
    """Settings of the labels, by name, for some ten classes."""
    return {
        FULL: _stored("fp16"),
        "q4": _stored("q4"),
        "q4, soft-hard-soft": _stored("q4") | {"train.hard_epochs": epochs // 2},
        "pca, 2 bytes": _stored("pca", 2),
        "pca, 2 bytes, a tenth of the epochs": _stored("pca", 2, epochs // 10),
        "fp16, a hundredth of the epochs": _stored("fp16", 0, max(1, epochs // 100)),
        "one label an image": {"relabel.labels": "teacher"},
        ONLINE: {"relabel.labels": "online"},
    }


def many_classes(epochs: int, label_bytes: int) -> dict[str, dict[str, Any]]:
    """The same for a hundred classes or more; `label_bytes` are those of full float16 labels."""
    tenth = max(1, epochs // 10)
    return {
        FULL: _stored("fp16"),
        "a budget of a hundredth": {"relabel.labels": "epochs", "relabel.label_budget": f"{label_bytes // 100}B"},
        "fp16, a hundredth of the epochs": _stored("fp16", 0, max(1, epochs // 100)),
        "pca, 17 bytes, a tenth of the epochs": _stored("pca", 17, tenth),
        "topk, 10 logits, a tenth of the epochs": _stored("topk", 10, tenth),
        "pca, 17 bytes, a fiftieth of the epochs": _stored("pca", 17, max(1, epochs // 50)),
        "one label an image": {"relabel.labels": "teacher"},
        ONLINE: {"relabel.labels": "online"},
        "fp16, a tenth of the epochs": _stored("fp16", 0, tenth),
        "pca, 34 bytes, soft-hard-soft, a tenth of the epochs": _stored("pca", 34, tenth)
        | {"train.hard_epochs": epochs // 2},
        "pca, 8 bytes": _stored("pca", 8),
        "topk, 10 logits": _stored("topk", 10),
    }


def main() -> None:
    options = arguments(__doc__ or "", _add)
    folder = options.out or Path(tempfile.mkdtemp())
    source = {"source.train_per_class": options.per_class} if options.per_class else {}
    num_classes = attar.open(options.source, settings=source, quiet=True).task.num_classes
    many = num_classes >= MANY_CLASSES
    rows: Rows = []
    checks: Checks = {}
    paths = []
    for ipc in options.ipc:
        label_bytes = 2 * num_classes**2 * ipc * options.epochs
        variants = many_classes(options.epochs, label_bytes) if many else few_classes(options.epochs)
        if options.variants:
            variants = {name: variants[name] for name in (FULL, *options.variants)}
        found = {name: _judged(options, folder, ipc, name, settings) for name, settings in variants.items()}
        paths += [run.path for run in found.values()]
        soft = {name: _of(run.records, "distilled", "soft") for name, run in found.items()}
        hard = _of(found[FULL].records, "distilled", "hard")
        labels = {name: run.load().sizes["labels"] + run.load().sizes["teacher"] for name, run in found.items()}
        gain = soft[FULL].mean - hard.mean
        rows.append(_row(ipc, options.method, "hard", hard, 0, "", ""))
        for name, one in soft.items():
            kept = f"{(one.mean - hard.mean) / gain:.2f}" if gain > 0 else ""
            part = f"{labels[name] / labels[FULL]:.4f}"
            rows.append(_row(ipc, options.method, name, one, labels[name], part, kept))
        if options.random and ONLINE in found:
            random = found[ONLINE].records  # whatever is stored, random images are labelled in training
            part = f"{labels[ONLINE] / labels[FULL]:.4f}"
            rows.append(_row(ipc, "random", "hard", _of(random, "random", "hard"), 0, "", ""))
            rows.append(_row(ipc, "random", ONLINE, _of(random, "random", "soft"), labels[ONLINE], part, ""))
        if gain > 0:
            enough = [labels[name] / labels[FULL] for name, one in soft.items() if one.mean - hard.mean >= KEPT * gain]
            checks[f"least_part_of_label_bytes_ipc{ipc}"] = {"value": min(enough), "target": AIM}
    attar.compare([str(path) for path in paths], out=folder)
    print(f"figure: {folder / 'comparison.html'}")
    finish(rows, checks, options.json)


def _judged(
    options: argparse.Namespace, folder: Path, ipc: int, name: str, settings: dict[str, Any]
) -> attar.Distillation:
    """A variant's students: its labels, made for images that all variants share."""
    beside = options.random and name == ONLINE
    labels = ["stored", "hard"] if beside or name == FULL else ["stored"]
    judging = {"evaluate.labels": labels, "evaluate.baselines": ["random"] if beside else []}
    squeezed, recovered = folder / "squeezed", folder / f"ipc{ipc}-images"
    _run(options, options.ipc[0], squeezed, "squeeze")
    _run(options, ipc, recovered, "recover", made=squeezed)
    out = folder / f"ipc{ipc}-{name.replace(', ', '-').replace(' ', '-')}"
    return _run(options, ipc, out, "evaluate", settings | judging, made=recovered)


def _run(
    options: argparse.Namespace,
    ipc: int,
    out: Path,
    until: Until,
    settings: dict[str, Any] | None = None,
    made: Path | None = None,
) -> attar.Distillation:
    """A run in `out` up to a stage, which goes on with what another run made."""
    first: Redo = "recover" if until == "recover" else "relabel"
    begun = made is None or (out / first / MANIFEST).exists()
    if made is not None and not begun and not out.exists():
        copy = out.with_name(f"{out.name}.part")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made, copy).rename(out)
    return attar.distill(
        options.source,
        options.method,
        ipc,
        recipe="none",
        out=out,
        until=until,
        redo=None if begun else first,
        settings=_settings(options) | (settings or {}),
        device="cpu",
        workers=1,
        thorough=True,
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    own = DIGITS if options.source == "digits" else PHOTOGRAPHS
    flip = {"method.flip": False} if (options.source, options.method) == ("digits", "sre2l") else {}
    named = {
        "source.train_per_class": options.per_class,
        "squeeze.model": options.teacher,
        "evaluate.models": [options.student],
        "evaluate.split": options.split,
        "train.epochs": options.epochs,
    }
    return SHARED | own | METHODS[options.method] | flip | named


def _of(records: tuple[Record, ...], group: str, labels: str) -> Record:
    return next(one for one in records if (one.group, one.labels, one.best) == (group, labels, None))


def _row(ipc: int, group: str, name: str, record: Record, label_bytes: int, part: str, kept: str) -> dict[str, Any]:
    return {
        "images a class": ipc,
        "images": group,
        "labels": name,
        "bytes": record.size_bytes,
        "of them labels and teacher": label_bytes,
        "part of float16's": part,
        "accuracy, %": spread(record.values),
        "gain kept": kept,
    }


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="folder of the runs and of the page; what is there is used")
    parser.add_argument("--source", default="digits", help="real images; with many classes, other codecs are compared")
    parser.add_argument("--per-class", type=int, help="real images of each class to distill; all where none is given")
    parser.add_argument(
        "--method", default="sre2l", choices=list(METHODS), help="what the images are made or chosen by"
    )
    parser.add_argument("--teacher", default=NETWORK)
    parser.add_argument("--student", default=NETWORK)
    parser.add_argument("--epochs", type=int, default=100, help="of students, on soft and on hard labels")
    parser.add_argument(
        "--variants", nargs="+", help="those to compare with full float16 labels; all where none is given"
    )
    parser.add_argument(
        "--random", action=argparse.BooleanOptionalAction, default=True, help="also train on random real images"
    )
    parser.add_argument("--split", default="test", choices=["test", "validation"], help="real images that judge")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 5], help="images a class")


if __name__ == "__main__":
    main()
