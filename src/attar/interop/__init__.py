"""Other people's formats, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from attar.artifacts.distilled import Distilled
from attar.interop.folder import Export
from attar.interop.imagefolder import export_imagefolder, import_imagefolder
from attar.interop.tensors import export_tensors, import_tensors
from attar.task import Task


class Exporter(Protocol):
    """Write a distilled dataset into a new folder in another format."""

    def __call__(self, distilled: Distilled, out: Path, *, overwrite: bool = False) -> Export:
        """Export; say what is lost."""


class Importer(Protocol):
    """Make a distilled dataset of what another program wrote."""

    def __call__(self, source: Path, out: Path, *, task: Task | None = None, overwrite: bool = False) -> Distilled:
        """Import; `task` says what the images are for, where the format doesn't."""


EXPORTERS: dict[str, tuple[Exporter, str]] = {
    "imagefolder": (export_imagefolder, "PNGs in a folder for each class; 8-bit pixels and hard labels only"),
    "tensors": (export_tensors, "images_best.pt and labels_best.pt, as trajectory-matching code reads them"),
}
IMPORTERS: dict[str, tuple[Importer, str]] = {
    "imagefolder": (import_imagefolder, "PNG or JPEG images of one size in a folder for each class"),
    "tensors": (import_tensors, "images*.pt and labels*.pt: normalised images, and classes or probabilities"),
}
