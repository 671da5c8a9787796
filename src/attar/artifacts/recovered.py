"""What recover leaves: chunks of synthetic images, and what else the method hands over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from attar.artifacts.arrays import StoredRows
from attar.artifacts.images import float_images
from attar.methods.base import Distillate
from attar.runtime.checkpoint import read_note, read_tensors, write_tensors

_STATES = "states"


def chunk_name(chunk: int) -> str:
    """Name of the file of a chunk."""
    return f"synthetic-{chunk:05d}.safetensors"


def state_name(step: int) -> str:
    """Name, within the stage, of all images as they were after this step."""
    return f"{_STATES}/step-{step:08d}.safetensors"


def write_chunk(path: Path, distillate: Distillate) -> None:
    """Store what a method handed over for one chunk."""
    tensors = {"images": distillate.images[:], "labels": distillate.labels}
    if distillate.soft_labels is not None:
        tensors["soft_labels"] = distillate.soft_labels
    note = {"learning_rate": distillate.learning_rate, "exact_8bit": distillate.exact_8bit}
    if distillate.tiles > 1:
        note["tiles"] = distillate.tiles
    write_tensors(path, tensors, note)


def read_chunks(folder: Path) -> Distillate:
    """All chunks of a complete stage, joined in their order; where images are many, they are read when asked for."""
    return _joined(sorted(folder.glob(chunk_name(0).replace("00000", "*"))))


def read_states(folder: Path) -> dict[int, Distillate]:
    """All images as they were on the way, by the number of steps before; empty where none were kept."""
    paths = sorted((folder / _STATES).glob("step-*.safetensors"))
    return {int(path.stem.removeprefix("step-")): _joined([path]) for path in paths}


def _joined(paths: Sequence[Path]) -> Distillate:
    note, labels, soft = read_note(paths[0]), list[Tensor](), list[Tensor]()
    for path in paths:
        tensors, _ = read_tensors(path, leaving=("images",))
        labels.append(tensors["labels"].clone())  # as read it would keep the whole file mapped
        if "soft_labels" in tensors:
            soft.append(tensors["soft_labels"].clone())
    return Distillate(
        float_images(StoredRows(paths, "images", "F32", alone=False)),
        torch.cat(labels),
        torch.cat(soft) if soft else None,
        note["learning_rate"],
        note["exact_8bit"],
        note.get("tiles", 1),
    )
