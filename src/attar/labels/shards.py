"""A file of labels: bytes (epochs, images, bytes of a label), the codec's tables; plan and error as metadata.

Where the plan says so, `views` too: bytes (epochs, images, bytes of a view).

Needs no torch. Opening reads no more than the header.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.errors import ArtifactError
from attar.labels.codec import Codec
from attar.labels.plan import VIEW, LabelPlan, Shard
from attar.runtime.tensorfile import Place
from attar.text import parse_json

TENSOR, VIEWS = "labels", "views"
_CODES = {"u1": "U8", "<f2": "F16", "<f4": "F32"}
"""Dtypes as safetensors spells them."""
_MOST_HEADER_BYTES = 100_000


@dataclass(frozen=True)
class OpenShard:
    """Where the tensors of a shard lie, and the stated error of its labels."""

    path: Path
    tensors: dict[str, Place]
    error: QuantizationError

    def map(self, name: str) -> npt.NDArray[Any]:
        """One tensor, memory-mapped."""
        place = self.tensors[name]
        return np.memmap(self.path, place.dtype, "r", place.offset, place.shape)

    def coder(self, plan: LabelPlan) -> Codec:
        """The codec with the tables of this file; raises ArtifactError where they make no sense."""
        return plan.coder.using({name: np.array(self.map(name)) for name in plan.coder.tables})


def open_shard(folder: Path, plan: LabelPlan, shard: Shard) -> OpenShard:
    """Read and check the header of a shard; raises ArtifactError where it is not what the plan says."""
    path = folder / shard.name
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MOST_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = parse_json(file.read(length))
        note = {key: parse_json(value) for key, value in header.pop("__metadata__").items()}
        if note["plan"] != plan.to_json():
            raise _unexpected(path, f"{note['plan']}", f"{plan.to_json()}")
        tensors = _places(header, _tensors_of(plan, shard), 8 + length, path.stat().st_size)
        return OpenShard(path, tensors, QuantizationError(**note["error"]))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", fix="fetch the dataset again, or relabel again") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise _unexpected(path, str(error), "the safetensors header of a label shard") from error


def _tensors_of(plan: LabelPlan, shard: Shard) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor of a shard: the labels, and the tables of their codec."""
    rows = (shard.num, plan.num_images)
    views = {VIEWS: ("u1", (*rows, VIEW.itemsize))} if plan.views else {}
    return {TENSOR: ("u1", (*rows, plan.bytes_per_label)), **views, **plan.coder.tables}


def _places(
    header: dict[str, Any], due: dict[str, tuple[str, tuple[int, ...]]], start: int, end: int
) -> dict[str, Place]:
    """Check that the tensors of a header are those due, and fill the file from `start` to `end` without a gap."""
    if set(header) != set(due):
        raise ValueError(f"tensors {sorted(header)} where {sorted(due)} are due")
    places: dict[str, Place] = {}
    for name, said in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = due[name]
        num = np.dtype(dtype).itemsize * math.prod(shape)
        expected = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [0, num]}
        begin = said["data_offsets"][0]
        if {**said, "data_offsets": [0, said["data_offsets"][1] - begin]} != expected or begin != sum(
            np.dtype(p.dtype).itemsize * math.prod(p.shape) for p in places.values()
        ):
            raise ValueError(f"tensor {name} {said} where {expected} is due")
        places[name] = Place(start + begin, dtype, shape)
        end -= num
    if end != start:
        raise ValueError(f"{abs(end - start)} bytes too {'many' if end > start else 'few'}")
    return places


def _unexpected(path: Path, found: str, expected: str) -> ArtifactError:
    return ArtifactError(
        f"{path.name} is damaged or of other labels: {found}",
        expected=expected,
        fix="fetch the dataset again, or relabel again with --fresh",
    )


@dataclass(frozen=True)
class QuantizationError:
    """What a codec costs: how far decoded logits are from the teacher's, measured on all of them.

    Logits count up to a constant a row, so both sides are centred.
    """

    max_abs: float
    """Greatest difference between a centred logit and the one read back."""
    kl_1: float
    """Mean KL divergence of softmax(decoded) from softmax(teacher), in nats."""
    kl_20: float
    """The same of softmax(./20)."""
    num: int
    """Labels that this was measured on."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def merge(cls, errors: Iterable[QuantizationError]) -> QuantizationError:
        """The error of all labels together; `errors` is not empty."""
        every = list(errors)
        num = sum(error.num for error in every)
        return cls(
            max_abs=max(error.max_abs for error in every),
            kl_1=sum(error.kl_1 * error.num for error in every) / num,
            kl_20=sum(error.kl_20 * error.num for error in every) / num,
            num=num,
        )
