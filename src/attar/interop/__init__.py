"""Other people's formats, both ways.

imagefolder.py  tensors.py  webdataset.py    a format each: export, read
medmnist.py     an .npz that other programs read    tensors.py reads it
fkd.py          soft labels that were stored for views of an image folder    unpacking.py   an archive of them
foreign.py      recognise a format        loaded.py   what was read        settings.py  scales.py   what values are
images.py       images of people one does not know
hub.py          a distilled dataset as a repository of the Hugging Face hub
loaders/        what an export brings along to be read without attar
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from attar.artifacts.distilled import Distilled
from attar.interop.folder import Export
from attar.interop.imagefolder import export_imagefolder
from attar.interop.medmnist import export_medmnist
from attar.interop.tensors import export_tensors
from attar.interop.webdataset import export_webdataset


class _Exporter(Protocol):
    """Write a distilled dataset into a new folder in another format."""

    def __call__(self, distilled: Distilled, out: Path, *, overwrite: bool = False) -> Export:
        """Export; say what is lost."""


EXPORTERS: dict[str, tuple[_Exporter, str]] = {
    "imagefolder": (export_imagefolder, "PNGs in a folder for each class; 8-bit pixels and hard labels only"),
    "tensors": (export_tensors, "images_best.pt and labels_best.pt, as trajectory-matching code reads them"),
    "medmnist": (export_medmnist, "one .npz as MedMNIST lays it out; 8-bit pixels and hard labels only"),
    "webdataset": (export_webdataset, "tar files with a PNG, a class and float pixels for each image, for streams"),
}
