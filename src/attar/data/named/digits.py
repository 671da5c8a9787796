"""The handwritten digits that scikit-learn brings."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.data.examples import Found
from attar.data.named.base import NamedSource, of_arrays

_DIGITS_FILE = Path("datasets", "data", "digits.csv.gz")


def read_digits(data_dir: Path | None, download: bool) -> Found:
    """Read the file that lies with scikit-learn."""
    pixels, labels = _bundled_digits()
    examples = of_arrays(np.round(pixels * (255 / 16)).astype(np.uint8), labels.tolist(), "digit")
    return Found(tuple("0123456789"), {"train": examples}, licence="CC-BY-4.0")


def _bundled_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Digits (1797, 8, 8) in 0..16 and labels (1797,), as scikit-learn's `load_digits` gives them.

    The file is read where it lies: importing scikit-learn for it takes as long as importing torch.
    """
    package = find_spec("sklearn")
    file = Path(package.origin if package and package.origin else "").parent / _DIGITS_FILE
    if not file.exists():  # a scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    with gzip.open(file, "rt") as text:
        table = np.loadtxt(text, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


SOURCES = (
    NamedSource(
        "digits", "1,797 handwritten digits of 8x8 px, bundled with scikit-learn: nothing to download", read_digits
    ),
)
