"""Other formats as distilled datasets, where a task is at hand and no source."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from attar.artifacts.distilled import Distilled
from attar.interop.foreign import READERS
from attar.interop.loaded import Origin
from attar.task import Task


def read_as(exported: str) -> str:
    """The reader of an export: an .npz is a file of tensors."""
    return "tensors" if exported == "medmnist" else exported


def bring_in(kind: str, source: Path, out: Path, *, task: Task | None = None, overwrite: bool = False) -> Distilled:
    """Read a set of a format, a name in READERS or EXPORTERS, and write it as ours."""
    return READERS[read_as(kind)](source, Origin(task) if task else None).write(out, overwrite=overwrite)


import_imagefolder = partial(bring_in, "imagefolder")
import_tensors = partial(bring_in, "tensors")
import_webdataset = partial(bring_in, "webdataset")
