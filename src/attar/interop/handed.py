"""Distilled images that a program hands over to be judged: kept in a file by their content, and read like any other."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from attar.errors import DataError
from attar.runtime.files import write_bytes

FOLDER = Path("runs")


def is_handed(thing: Any) -> bool:
    """Whether it is (images, labels) as arrays or tensors."""
    kinds = np.ndarray | Tensor
    return isinstance(thing, tuple | list) and len(thing) == 2 and all(isinstance(one, kinds) for one in thing)


def keep_handed(thing: Any) -> Path:
    """Write images (n, c, h, w), (n, h, w, c) or (n, h, w), and labels (n,) or soft ones (n, classes), to one file.

    The same content has the same name under `runs/`, so that its evaluation is gone on with. Raises DataError where
    their numbers differ.
    """
    images, labels = (torch.as_tensor(one).detach().cpu() for one in thing)
    if images.ndim not in (3, 4) or not len(images) or len(images) != len(labels):
        raise DataError(
            f"images of shape {tuple(images.shape)} with labels of shape {tuple(labels.shape)}",
            expected="(n, channels, height, width), and one label for each",
        )
    data = safetensors.torch.save({"images": images.contiguous(), "labels": labels.contiguous()})
    path = FOLDER / f"set-{hashlib.sha256(data).hexdigest()[:10]}.safetensors"
    if not path.exists():
        write_bytes(path, data)
    return path
