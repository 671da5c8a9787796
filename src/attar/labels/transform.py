"""Transform coding: logits of one teacher lie near a low plane, so code where in it, and not each class.

    fit      mu, C = mean and covariance of centred logits z; C = V diag(s^2) V^T      (Karhunen-Loeve transform)
             bits b_j to the components, one at a time, to the one whose error falls most     (reverse water-filling)
    encode   a = V^T (z - mu); a_j / s_j to one of 2^b_j levels, evenly spaced
    decode   z = mu + V a

The error is a sum of squares of logits, which is what a student at a high temperature T sees: there KL(p || q) is
|z_p - z_q|^2 / (2 C T^2). The plane and the bits are those of the labels in one file, and stand in it once. On logits
of 100 classes 5 bytes a label lose less than the 5 greatest logits do in 14, at T = 1 as well as at T = 20.

Source: uniform quantisers of a normal variable, Max, "Quantizing for minimum distortion", 1960, table 2; transform
coding and bit allocation, Gersho and Gray, "Vector Quantization and Signal Compression", 1992, section 8.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from attar.errors import ArtifactError
from attar.labels.codec import LOGIT_LIMIT, Codec, Codes, Floats, Records, Tables, centred

STEPS = np.array([0, 1.596, 0.9957, 0.586, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308], np.float32)
"""Distance of levels that loses least of a standard normal variable, by the number of bits."""
_ERRORS = np.array([1, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.00104, 0.000304, 0.0000869])
"""Mean squared error that is left."""
MOST_BITS = 8
_SAMPLE_PER_CLASS = 16
_COMPONENTS_PER_BYTE = 4
"""More components than this would have less than two bits each: they are worth none."""


class Transform(Codec):
    """Principal components of the logits in `keep` bytes a label."""

    name = "pca"
    keeps = "bytes"

    def __init__(self, num_classes: int, keep: int = 0) -> None:
        super().__init__(num_classes, keep)
        self.rank = min(num_classes - 1, _COMPONENTS_PER_BYTE * keep)

    @property
    def record(self) -> np.dtype[Any]:
        """Levels of all components, bit by bit."""
        return np.dtype([("bits", "u1", (self.keep,))])

    @property
    def tables(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Mean; components, one a row, each times its standard deviation; bits of each."""
        return {
            "mean": ("<f4", (self.num_classes,)),
            "components": ("<f2", (self.rank, self.num_classes)),
            "num_bits": ("u1", (self.rank,)),
        }

    @property
    def sample_rows(self) -> int:
        """Enough for a covariance."""
        return _SAMPLE_PER_CLASS * self.num_classes

    def fit(self, logits: Floats) -> Tables:
        """Find the plane and the bits."""
        rows = centred(logits).astype(np.float64)
        mean = rows.mean(0)
        values, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        variances, basis = values[::-1][: self.rank].clip(0), vectors[:, ::-1][:, : self.rank]
        return {
            "mean": mean.astype(np.float32),
            "components": (basis * np.sqrt(variances)).T.astype(np.float16),
            "num_bits": allocate(variances, 8 * self.keep),
        }

    def using(self, tables: Tables) -> Self:
        """Prepare both directions; raises ArtifactError where the tables make no sense."""
        num_bits = tables["num_bits"].astype(np.int64)
        components = tables["components"].astype(np.float32)
        sound = num_bits.max(initial=0) <= MOST_BITS and num_bits.sum() <= 8 * self.keep
        if not (sound and (abs(tables["mean"]) <= LOGIT_LIMIT).all() and np.isfinite(components).all()):
            raise ArtifactError("the tables of the stored labels make no sense", fix="fetch the dataset again")
        ready = type(self)(self.num_classes, self.keep)
        ready._prepare(tables["mean"], components, num_bits)
        return ready

    def _prepare(self, mean: Floats, components: Floats, num_bits: npt.NDArray[np.int64]) -> None:
        self._mean, self._components = mean, components
        squares = (components**2).sum(1, keepdims=True)
        self._inverse = np.divide(components, squares, out=np.zeros_like(components), where=squares > 0).T
        self._steps, self._top = STEPS[num_bits], (1 << num_bits) - 1
        self._half = self._top.astype(np.float32) / 2
        self._owner = np.repeat(np.arange(self.rank), num_bits)
        """Component of each bit."""
        ends = np.cumsum(num_bits)
        self._shift = np.repeat(ends, num_bits) - 1 - np.arange(len(self._owner))
        """Place of each bit in its component's level."""
        self._weights = np.zeros((len(self._owner), self.rank), np.float32)
        self._weights[np.arange(len(self._owner)), self._owner] = 2.0**self._shift

    def encode(self, logits: Floats) -> Records:
        """Project, round to levels, and lay their bits side by side."""
        units = (centred(logits) - self._mean) @ self._inverse
        scaled = np.divide(units, self._steps, out=np.zeros_like(units), where=self._steps > 0)
        levels = np.rint(np.clip(scaled + self._half, 0, self._top)).astype(np.int64)
        bits = (levels[:, self._owner] >> self._shift) & 1
        records = np.zeros(len(logits), self.record)
        packed = np.packbits(bits.astype(np.uint8), axis=1)
        records["bits"][:, : packed.shape[1]] = packed
        return records

    def decode(self, records: Records) -> Floats:
        """Read the levels, and leave the plane."""
        bits: Codes = np.unpackbits(records["bits"], axis=1, count=len(self._owner))
        levels: Floats = bits.astype(np.float32) @ self._weights
        units = (levels - self._half) * self._steps
        return centred(np.asarray(units @ self._components + self._mean, np.float32))


def allocate(variances: npt.NDArray[np.float64], num_bits: int) -> Codes:
    """Bits uint8 (r,) for components of these variances (r,), `num_bits` in all or as many as are of use."""
    bits = np.zeros(len(variances), np.uint8)
    gains = np.append(_ERRORS[:-1] - _ERRORS[1:], 0.0)
    for _ in range(num_bits):
        gain = variances * gains[bits]
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        bits[best] += 1
    return bits
