"""The codecs. Softmax does not see a constant added to all logits, so none stores one: rows come back centred.

A label is one record of a packed numpy structure; records of all labels make one array. Needs no torch.

| codec | bytes a label | holds |
|---|---|---|
| fp16 | 2 C | all logits |
| q8 | C + 2 | each logit in 8 bits between the least and the greatest of its row |
| q4 | C / 2 + 2 | the same in 4 bits |
| topk | 2 k + 4 (3 k + 4 above 256 classes) | the k greatest logits in 8 bits; one value for all others |
| pca | keep | principal components, in as many bits as each is worth; see transform.py |
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attar.errors import ArtifactError
from attar.labels.codec import Codec, Codes, Floats, Records, centred
from attar.registry import Registry, classes_in, require_class

TAIL_TEMPERATURE = 4.0
"""At which topk keeps the probability of all classes outside the k: 1 doubles the error at 20 of what it halves at 1,
and 20 the other way round (measured on logits of 100 classes)."""


class Half(Codec):
    """All logits as float16."""

    name = "fp16"

    @property
    def record(self) -> np.dtype[Any]:
        """C float16."""
        return np.dtype([("logits", "<f2", (self.num_classes,))])

    def encode(self, logits: Floats) -> Records:
        """Centre, for the sake of precision, and round."""
        records = np.zeros(len(logits), self.record)
        records["logits"] = centred(logits)
        return records

    def decode(self, records: Records) -> Floats:
        """Centre again."""
        return centred(records["logits"].astype(np.float32))


class Eight(Codec):
    """8 bits a logit, between the least and the greatest of its row."""

    name = "q8"

    @property
    def record(self) -> np.dtype[Any]:
        """The row's range, and C codes."""
        return np.dtype([("range", "<f2"), ("codes", "u1", (self.num_classes,))])

    def encode(self, logits: Floats) -> Records:
        """Round to 256 levels."""
        records = np.zeros(len(logits), self.record)
        low = logits.min(1, keepdims=True)
        records["range"] = np.ptp(logits, axis=1)
        records["codes"] = _levels(logits - low, records["range"], 255)
        return records

    def decode(self, records: Records) -> Floats:
        """Levels times their distance."""
        return centred(_values(records["codes"], records["range"], 255))


class Four(Codec):
    """4 bits a logit, between the least and the greatest of its row."""

    name = "q4"

    @property
    def record(self) -> np.dtype[Any]:
        """The row's range, and C codes, two a byte, the first in the lower half."""
        return np.dtype([("range", "<f2"), ("codes", "u1", ((self.num_classes + 1) // 2,))])

    def encode(self, logits: Floats) -> Records:
        """Round to 16 levels."""
        records = np.zeros(len(logits), self.record)
        low = logits.min(1, keepdims=True)
        records["range"] = np.ptp(logits, axis=1)
        records["codes"] = pack_nibbles(_levels(logits - low, records["range"], 15))
        return records

    def decode(self, records: Records) -> Floats:
        """Levels times their distance."""
        return centred(_values(unpack_nibbles(records["codes"], self.num_classes), records["range"], 15))


class TopK(Codec):
    """The k greatest logits in 8 bits each, and one value for all others.

    That value is T log mean exp(z / T) over the others, which keeps their joint probability at temperature T
    exactly: T = TAIL_TEMPERATURE. Logits are stored less this value, so that it need not be stored.
    """

    name = "topk"
    keeps = "logits"
    spared = 1

    @property
    def record(self) -> np.dtype[Any]:
        """Least and greatest of the k above the others, indices, codes."""
        index = "u1" if self.num_classes <= 256 else "<u2"
        return np.dtype(
            [("low", "<f2"), ("high", "<f2"), ("classes", index, (self.keep,)), ("codes", "u1", (self.keep,))]
        )

    def encode(self, logits: Floats) -> Records:
        """Find the k, subtract the tail, round to 256 levels."""
        order = np.argpartition(-logits, self.keep - 1, axis=1)
        chosen, rest = order[:, : self.keep], order[:, self.keep :]
        above = np.take_along_axis(logits, chosen, 1) - _soft_mean(np.take_along_axis(logits, rest, 1))
        records = np.zeros(len(logits), self.record)
        records["classes"] = chosen
        records["low"], records["high"] = above.min(1), above.max(1)
        low, high = records["low"].astype(np.float32), records["high"].astype(np.float32)
        records["codes"] = _levels(above - low[:, None], high - low, 255)
        return records

    def decode(self, records: Records) -> Floats:
        """Put the k back among zeros."""
        if records["classes"].max(initial=0) >= self.num_classes:
            raise ArtifactError("a stored label names a class that does not exist", fix="fetch the dataset again")
        low, high = records["low"].astype(np.float32), records["high"].astype(np.float32)
        logits = np.zeros((len(records), self.num_classes), np.float32)
        values = low[:, None] + _values(records["codes"], high - low, 255)
        np.put_along_axis(logits, records["classes"].astype(np.int64), values, 1)
        return centred(logits)


def _accepted(thing: Any, name: str) -> type[Codec]:
    found: type[Codec] = require_class(thing, Codec, "label codec")
    return found


CODECS: Registry[type[Codec]] = Registry(
    "attar.codecs", "label codec", lambda: classes_in("attar.labels", Codec), _accepted
)
"""Codecs by name. A new one is a file in this room, or in another package that names it as an entry point."""


def pack_nibbles(codes: Codes) -> Codes:
    """Codes 0..15 (m, n), two a byte (m, ceil(n / 2)), the first in the lower half."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    packed: Codes = even[:, ::2] | (even[:, 1::2] << np.uint8(4))
    return packed


def unpack_nibbles(packed: Codes, num: int) -> Codes:
    """Codes (m, num) of what `pack_nibbles` gave."""
    codes: Codes = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    codes[:, ::2], codes[:, 1::2] = packed & 15, packed >> 4
    return codes[:, :num]


def _levels(offsets: Floats, ranges: npt.NDArray[Any], top: int) -> Codes:
    """Round offsets (m, n) within 0..range (m,) to levels 0..top."""
    ranges = ranges.astype(np.float32)
    scale = np.divide(top, ranges, out=np.zeros_like(ranges), where=ranges > 0)
    levels: Codes = np.rint(np.clip(offsets * scale[:, None], 0, top)).astype(np.uint8)
    return levels


def _values(codes: Codes, ranges: npt.NDArray[Any], top: int) -> Floats:
    values: Floats = codes * (ranges.astype(np.float32) / np.float32(top))[:, None]
    return values


def _soft_mean(tail: Floats) -> Floats:
    """T log mean exp(z / T) of each row (m, n), as (m, 1)."""
    most = tail.max(1, keepdims=True)
    T = np.float32(TAIL_TEMPERATURE)
    mean: Floats = most + T * np.log(np.exp((tail - most) / T).mean(1, keepdims=True))
    return mean
