"""What a file or folder is that no reader takes, in words, and what to do about it."""

from __future__ import annotations

from pathlib import Path

_UNPACK = "unpack it and give the folder; a .zip or a plain .tar is read in place"
_WRITE = "write images and labels into an .npz, or the images into a folder for each class"
_SETS = "to judge or import a distilled set: `attar evaluate FILE --source SOURCE`, `attar import FILE`"
KINDS: dict[tuple[str, ...], tuple[str, str]] = {
    (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".gz", ".7z", ".rar"): ("a compressed archive", _UNPACK),
    (".pt", ".pth", ".safetensors"): ("a file of tensors", f"{_SETS}; as real images: {_WRITE}"),
    (".pkl", ".pickle"): ("a pickle, which could run any program and is not opened", _WRITE),
    (".npy",): ("one array of NumPy, without labels", _WRITE),
    (".h5", ".hdf5", ".mat"): ("a file of HDF5 or MATLAB", _WRITE),
    (".tfrecord", ".tfrecords", ".record"): ("a file of TensorFlow's", _WRITE),
    (".json", ".xlsx", ".xls", ".ods", ".txt"): (
        "a table or text of a kind that is not read",
        "list file and class of each image in labels.csv beside the images",
    ),
    (".idx1-ubyte", ".idx3-ubyte", "-ubyte"): ("a file of MNIST's format", "give mnist with --data-dir DIR"),
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"): (
        "one image",
        "give a folder that holds a folder of images for each class",
    ),
}
"""By the ending of a name: what it is, and what to do."""


def described(path: Path) -> tuple[str, str]:
    """What a file is, as far as its name tells, and what to do; for one that no reader is for."""
    name = path.name.lower()
    for endings, told in KINDS.items():
        if name.endswith(endings):
            return told
    return f"a file of a kind that is not read ({path.suffix or 'without an ending'})", "see `attar list datasets`"
