"""Whether the parts of a distilled dataset agree: counts, epochs, views, labels and teachers. Needs no torch.

Each function returns what does not, in words for a person. Whoever makes new sums of a changed set is told here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from attar.artifacts.arrays import Array
from attar.artifacts.description import Classes, Description
from attar.augment.view_settings import ALGORITHM, ViewSettings
from attar.labels.codec import LOGIT_LIMIT
from attar.labels.plan import LabelPlan
from attar.labels.shards import TENSOR, OpenShard
from attar.runtime.reading import parse_notes

_PART = 4096
"""Labels that are decoded together."""


def class_problems(description: Description, labels: Array) -> list[str]:
    """Labels (n,), each class of which should have as many images as `ipc` says."""
    if description.ipc is None:
        return []
    counts = np.bincount(labels, minlength=len(description.task.class_names))
    odd = np.flatnonzero(counts != description.ipc)
    if not len(odd):
        return []
    name = description.task.class_names[odd[0]]
    return [
        f"{len(odd)} of {len(counts)} classes have another number of images than ipc = {description.ipc}, "
        f"the first is {name!r} with {counts[odd[0]]}"
    ]


def label_settings_problems(description: Description) -> list[str]:
    """The kind of labels and the number of stored epochs beside the settings that the set was made with."""
    asked, epochs = _section(description, "relabel"), _section(description, "train").get("epochs")
    kind, stored = description.labels.kind, description.labels.stored
    problems = []
    if asked.get("labels") in ("epochs", "online") and asked["labels"] != kind:
        problems.append(f"labels are of the kind {kind}, settings say relabel.labels = {asked['labels']}")
    if stored and asked.get("labels") == "epochs" and isinstance(epochs, int):
        most = min(asked.get("epochs") or epochs, epochs)
        if stored.num_epochs > most or (asked.get("label_budget") is None and stored.num_epochs < most):
            problems.append(f"labels of {stored.num_epochs} epochs are stored, settings say {most}")
    if stored and description.labels.error and description.labels.error.num != stored.num_epochs * stored.num_images:
        problems.append(
            f"the error of the labels was measured on {description.labels.error.num} of them, there are "
            f"{stored.num_epochs} epochs of {stored.num_images} images"
        )
    return problems


def view_problems(description: Description) -> list[str]:
    """What the views are replayed by, beside the images and the settings."""
    views, stored = description.labels.views, description.labels.stored
    if views is None:
        return []
    task = description.task
    problems = []
    if views.get("shape") != [task.channels, task.height_px, task.width_px]:
        problems.append(f"views are of images of the shape {views.get('shape')}, and not of these")
    if stored and stored.views:
        return problems
    if views.get("algorithm") != ALGORITHM:
        problems.append(f"views are drawn by algorithm {views.get('algorithm')!r}, this attar knows {ALGORITHM}")
    if views.get("tiles", 1) != description.tiles:
        problems.append(
            f"views are of images that hold {views.get('tiles', 1)!r} a side, these hold {description.tiles}"
        )
    if views.get("num_images") != description.num_images:
        problems.append(f"views are of {views.get('num_images')} images, there are {description.num_images}")
    if not isinstance(views.get("seed"), int):
        problems.append(f"the seed of the views is {views.get('seed')!r}")
    try:
        drawn = ViewSettings.model_validate(views.get("settings")).model_dump()
    except ValueError:
        return [*problems, "the settings of the views are none that this attar knows"]
    asked = _section(description, "relabel")
    return problems + [
        f"views have {name} = {value}, settings say relabel.{name} = {asked[name]}"
        for name, value in drawn.items()
        if name in asked and asked[name] != value
    ]


def decoded_problems(plan: LabelPlan, shard: OpenShard, first: int) -> list[str]:
    """The labels of a shard, read back, the first of stored epoch `first`: finite, and no larger than a teacher's."""
    coder, records = shard.coder(plan), shard.map(TENSOR)
    for place, epoch in enumerate(records):
        for begin in range(0, len(epoch), _PART):
            part = np.ascontiguousarray(epoch[begin : begin + _PART])
            logits = coder.decode(part.view(coder.record)[:, 0])
            bad = np.flatnonzero(~(np.abs(logits) <= 2 * LOGIT_LIMIT).all(axis=1))
            if len(bad):
                where = f"of image {begin + bad[0]} in stored epoch {first + place}"
                return [
                    f"{shard.path.name}: logits that are not finite or beyond {2 * LOGIT_LIMIT:g}, the first {where}"
                ]
    return []


def teacher_problems(path: Path, task: Classes) -> list[str]:
    """A teacher's file: of these classes and images, finite, and with an output for each class."""
    if path.suffix != ".safetensors":
        return []
    name = f"teacher/{path.name}"
    with safetensors.safe_open(path, framework="np") as file:
        note = parse_notes(file.metadata(), finite=False)
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (not a dict)
        odd = next((key for key, values in _floats(file, shapes) if not np.isfinite(values).all()), None)
    made_for = note.get("task")
    made_for = made_for if isinstance(made_for, Mapping) else {}
    problems = [f"{name}: {odd} holds values that are not finite"] if odd else []
    if made_for.get("class_names") != list(task.class_names):
        problems.append(f"{name} is of other classes")
    if [made_for.get(key) for key in ("channels", "height_px", "width_px")] != [
        *(task.channels, task.height_px, task.width_px)
    ]:
        problems.append(f"{name} is of images of another shape")
    if not any(shape[:1] == [len(task.class_names)] for shape in shapes.values()):
        problems.append(f"{name} has no output of {len(task.class_names)} classes")
    return problems


def _floats(file: Any, names: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    for name in names:
        if file.get_slice(name).get_dtype() in ("F16", "F32", "F64"):
            yield name, file.get_tensor(name)


def _section(description: Description, name: str) -> Mapping[str, Any]:
    found = description.settings.get(name)
    return found if isinstance(found, Mapping) else {}
