"""One `.npz` as MedMNIST lays its files out, which attar and other programs read as a training split.

    train_images    uint8 (n, h, w) of grey images, (n, h, w, 3) of coloured ones
    train_labels    whole numbers (n, 1)
    class_names     names of the classes in label order; the package of MedMNIST ignores them

A set made from `medmnist:pathmnist` is `pathmnist.npz`, so that `medmnist.PathMNIST(split="train", root=OUT)` reads
it; any other is `distilled.npz`. Holds 8-bit pixels and hard labels, and nothing else.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from attar.artifacts.distilled import Distilled
from attar.interop.folder import Export, exported, exporting, lost_in_8bit
from attar.runtime.files import write_bytes

_OF_THE_PACKAGE = re.compile(r"medmnist:(\w+)(?::(\d+))?")


def export_medmnist(distilled: Distilled, out: Path, *, overwrite: bool = False) -> Export:
    """Write the file, and say what is lost by it; the same dataset gives the same bytes.

    Raises ArtifactError where `out` is not empty; `overwrite` replaces an earlier export.
    """
    lost = lost_in_8bit(distilled)
    pixels = distilled.pixels_8bit().permute(0, 2, 3, 1).contiguous().numpy()
    narrow = np.uint8 if distilled.task.num_classes <= 256 else np.int64
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        train_images=pixels[..., 0] if distilled.task.channels == 1 else pixels,
        train_labels=distilled.labels.numpy().astype(narrow)[:, None],
        class_names=np.array(distilled.task.class_names),
    )
    with exporting(distilled, out, lost, loader="medmnist", whitened=False, overwrite=overwrite) as building:
        write_bytes(building / _name(distilled), stream.getvalue())
    return exported(out, lost)


def _name(distilled: Distilled) -> str:
    source = (distilled.info.get("provenance") or distilled.info).get("source") or {}
    match = _OF_THE_PACKAGE.fullmatch(str(source.get("name", "")).lower())
    if not match:
        return "distilled.npz"
    return f"{match[1]}.npz" if match[2] in (None, "28") else f"{match[1]}_{match[2]}.npz"
