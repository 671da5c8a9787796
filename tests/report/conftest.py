"""A run folder as the stages leave it, made up: what the report reads, without running anything."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from attar.items import Item, chunk_item
from attar.report.strips import write_strips
from attar.results.by_class import BY_CLASS, ByClass, to_text
from attar.results.records import Arrival, Record, read_records
from attar.results.verdict import verdict

MakeRun = Callable[..., Path]
HARDWARE = {"device": "cpu", "processor": "Some Processor 2.4 GHz", "threads": 2, "system": "Linux x86_64"}
VERSIONS = {"attar": "0.1.0", "torch": "2.9.0", "python": "3.12.3"}


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Write a new run folder and return it: `make_run(class_names=..., ipc=..., pixels=...)`."""

    def make(**options: Any) -> Path:
        return write_run(tmp_path_factory.mktemp("run") / "run", **options)

    return make


def write_run(
    run: Path,
    *,
    class_names: tuple[str, ...] = ("rose", "jasmine", "iris"),
    ipc: int = 1,
    pixels: np.ndarray | None = None,
    num_frames: int = 5,
    iterations: int = 60,
    experts: int = 2,
    source: str = "digits",
    evaluated: bool = True,
    complete: bool = True,
    class_order: bool = False,
    chunks: int = 0,
    networks: tuple[str, ...] = (),
    continual: int = 0,
    by_class: bool = False,
    strips: int = 0,
    watched: bool = False,
) -> Path:
    """`by_class`, `strips` real images of each class and `watched` students are what an evaluation leaves beside."""
    labels = [label for _ in range(ipc) for label in range(len(class_names))]
    if class_order:
        labels.sort()
    if pixels is None:
        pixels = _noise(1, (len(labels), 8, 8, 1))
    run.mkdir(parents=True, exist_ok=True)
    settings = {
        "run": {"source": source, "method": "tesla", "ipc": ipc, "seed": 0, "resolution": None},
        "source": {"data_dir": None, "validation": 0.1},
        "squeeze": {"model": "convnet-d3-w128", "num_experts": experts, "epochs": 20, "learning_rate": 0.01},
        "method": {"gradient": "exact", "inner_steps": 10, "expert_epochs": 2, "max_start_epoch": 5},
        "recover": {"iterations": iterations, "learning_rate": 0.05, "optimizer": "adam", "snapshots": 40},
        "train": {},
        "evaluate": {"models": ["convnet-d3-w128"], "seeds": 3, "epochs": 300},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    _events(run, iterations, experts, chunks)
    for stage, wall_s in (("squeeze", 41.3), ("recover", 96.8)):
        done = complete or stage == "squeeze"
        manifest = {"stage": stage, "versions": VERSIONS, "hardware": HARDWARE, "wall_s": wall_s, "complete": done}
        _json(run / stage / "manifest.json", manifest)
    _snapshots(run, pixels, labels, num_frames, iterations)
    if complete:
        _distilled(run, pixels, labels, class_names)
    if evaluated:
        _json(run / "evaluation.json", two_kinds_of_labels(networks) if networks else evaluation(len(labels)))
    if by_class:
        _by_class(run, len(class_names))
    if strips:
        real = [label for label in range(len(class_names)) for _ in range(strips)]
        write_strips(run, list(_noise(4, (len(real), *pixels.shape[1:]))), real, "made of")
    if watched:
        _watched(run)
    if continual:
        _json(run / "continual.json", continual_learning(continual))
    return run


def evaluation(num_images: int) -> dict[str, Any]:
    def of(group: str, values: list[float], images: int, size: int) -> dict[str, Any]:
        return Record.of(
            "accuracy",
            group,
            "convnet-d3-w128",
            values,
            seeds=(0, 1, 2),
            num_images=images,
            size_bytes=size,
            group=group,
            split="test",
            protocol={"epochs": 300, "optimizer": "sgd", "learning_rate": 0.018},
        ).to_json()

    records = [
        of("distilled", [93.0, 93.9, 92.7], num_images, 4912),
        of("random", [68.9, 73.1, 70.1], num_images, 1630),
        of("full", [98.3, 98.6, 98.7], 1438, 230_200),
    ]
    said = "The distilled images beat random real images of the same count by 22.5 points, 14 times the spread."
    return {"records": records, "verdict": {"sentences": [said], "points": []}}


def _by_class(run: Path, num_classes: int) -> None:
    """Counts for the records that evaluation.json holds: distilled images right 9 times of 10, random ones 7 times."""
    found = []
    for record in read_records(run, json.loads((run / "evaluation.json").read_text("utf-8"))):
        right = {"distilled": 9, "random": 7}.get(record.group, 10)
        cells = [(label, label, right) for label in range(num_classes)]
        cells += [(label, int(not label), 10 - right) for label in range(num_classes) if right < 10]
        found.append(ByClass.of(record, num_classes, [cells] * record.n))
    (run / BY_CLASS).write_text(to_text(found), "utf-8")


def _watched(run: Path) -> None:
    with (run / "events.jsonl").open("a", encoding="utf-8") as file:
        for group in ("distilled", "random"):
            for seed in range(3):
                item = Item(f"{group}/seed {seed}", "student", group, network="convnet-d3-w128", group=group, seed=seed)
                for epoch in (100, 200, 300):
                    told = {"stage": "evaluate", "event": "watched", **item.fields(), "step": epoch}
                    file.write("\n" + json.dumps(told | {"validation_accuracy": epoch / 4 + seed}))


def two_kinds_of_labels(networks: tuple[str, ...]) -> dict[str, Any]:
    """What `evaluate` writes for `--set evaluate.labels=[stored,hard]`: random images do better with hard labels."""
    means = {
        ("distilled", "soft"): (25.0, 100, 86_390),
        ("distilled", "hard"): (13.0, 100, 14_004),
        ("random", "soft"): (15.0, 100, 78_886),
        ("random", "hard"): (58.0, 100, 6_400),
        ("full", "hard"): (58.5, 1293, 82_752),
    }
    records = [
        Record.of(
            "accuracy",
            f"{group} with {labels} labels",
            network,
            [mean - 1 + k, mean + 1 + k],
            seeds=(0, 1),
            num_images=images,
            size_bytes=size,
            group=group,
            labels=labels,
            split="test",
            protocol={"epochs": 4 if group == "full" else 60},
        )
        for k, network in enumerate(networks)
        for (group, labels), (mean, images, size) in means.items()
    ]
    return {"records": [record.to_json() for record in records], "verdict": verdict(records).to_json()}


def continual_learning(steps: int) -> dict[str, Any]:
    """What `attar continual` writes."""
    records = [
        Record.of(
            "accuracy",
            subject,
            "convnet-d3-w128",
            [mean / (step + 1) - 2, mean / (step + 1) + 2],
            seeds=(0, 1),
            num_images=2 * (step + 1),
            size_bytes=100,
            group=subject,
            labels="hard",
            split="test",
            arrival=Arrival(step + 1, steps, 2 * (step + 1)),
        )
        for step in range(steps)
        for subject, mean in (("distilled", 90.0), ("random", 60.0))
    ]
    return {"records": [record.to_json() for record in records]}


def _events(run: Path, iterations: int, experts: int, chunks: int) -> None:
    rng = np.random.default_rng(2)
    message = "tesla, since the images are small, the classes few and one image is kept of each"
    lines: list[dict[str, Any]] = [{"stage": "distill", "event": "why", "message": message}]
    for expert in range(experts):
        for epoch in range(21):
            fit = math.exp(-epoch / 4) * 2.1 + 0.08 + 0.05 * rng.random()
            item = Item(f"expert {expert}", "expert", "expert", expert).fields()
            lines.append(
                {"stage": "squeeze", "event": "epoch", **item, "step": epoch, "loss": fit}
                | {"accuracy": 98 - 80 * math.exp(-epoch / 3) - rng.random()}
            )
    lines += [line for chunk in range(chunks) for line in _chunk(chunk, iterations, rng)]
    for step in range(1, 0 if chunks else iterations + 1):
        loss = 0.35 + 0.6 * math.exp(-6 * step / iterations) + 0.09 * rng.standard_normal() ** 2
        rate = 0.018 + 0.012 * (1 - math.exp(-4 * step / iterations))
        lines.append({"stage": "recover", "event": "step", "step": step, "loss": loss, "learning_rate": rate})
    text = "".join(json.dumps({"time_s": 1.0, **line}) + "\n" for line in lines)
    (run / "events.jsonl").write_text(text + '{"stage": "recover", "eve', "utf-8")


def _chunk(chunk: int, iterations: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Events of a chunk in which everything converges to a number that is its own."""
    lines = []
    for step in range(1, iterations + 1):
        left = 4 * math.exp(-6 * step / iterations) * (1 + 0.2 * rng.random()) if step < iterations else 0.0
        terms = {"classification": 1 + chunk / 100 + left, "statistics": 2 + chunk / 10 + left}
        whole = {"loss": terms["classification"] + 0.5 * terms["statistics"], **terms, "confidence": 1 / (1 + left)}
        lines.append({"stage": "recover", "event": "step", **chunk_item(chunk).fields(), "step": step, **whole})
    return lines


def _snapshots(run: Path, pixels: np.ndarray, labels: list[int], num_frames: int, iterations: int) -> None:
    folder = run / "recover" / "snapshots"
    folder.mkdir(parents=True)
    noise = _noise(3, pixels.shape)
    for i in range(num_frames):
        share = (i / max(1, num_frames - 1)) ** 0.7
        step = round(i * iterations / max(1, num_frames - 1))
        frame = (noise * (1 - share) + pixels * share).astype(np.uint8)
        note = {"step": json.dumps(step), "labels": json.dumps(labels)}
        save_file({"pixels": frame}, folder / f"step-{step:08d}.safetensors", metadata=note)


def _distilled(run: Path, pixels: np.ndarray, labels: list[int], class_names: tuple[str, ...]) -> None:
    images = [{"bytes": _png(image), "path": None} for image in pixels]
    folder = run / "distilled" / "data"
    folder.mkdir(parents=True)
    half = len(labels) // 2
    for shard, part in enumerate((slice(0, half), slice(half, None))):
        table = pa.table({"image": images[part], "label": labels[part]})
        pq.write_table(table, folder / f"train-{shard:05d}-of-00002.parquet", row_group_size=7)
    sizes = {"images": 3280, "labels": 412, "teacher": 0, "total": 3692}
    description = {"method": "tesla", "learning_rate": 0.0298, "sizes": sizes, "task": {"class_names": class_names}}
    _json(run / "distilled" / "attar.json", description)


def _png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(data, "PNG")
    return data.getvalue()


def _noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
