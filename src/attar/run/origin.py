"""Which real images a distilled dataset was made from, and in what others differ."""

from __future__ import annotations

from typing import Any

from attar.artifacts.distilled import Distilled
from attar.artifacts.run import MANIFEST
from attar.config import dump
from attar.data.sources import Source
from attar.runtime.files import read_json

_READS = {"validation_fraction", "train_per_class", "resolution", "skip_corrupt", "skip_unlabelled", "normalization"}
"""Settings of a source by which the same files are other splits or images."""


def about_source(source: Source) -> dict[str, Any]:
    """What tells a source from others, part by part: plain values."""
    return {
        "fingerprint": source.fingerprint,
        "training images": len(source.train),
        "validation images": len(source.validation),
        "test images": source.num_test,
        "bytes of the training images": source.content("train").digest[:16],
        "bytes of the validation images": source.content("validation").digest[:16],
    }


def made_of_names(distilled: Distilled) -> bool:
    """Whether a dataset was made from class names alone, and no images were taken from anywhere."""
    return bool((distilled.info.get("source") or {}).get("num_train_images") == 0)


def differs_from(distilled: Distilled, source: Source) -> tuple[str, ...]:
    """In what a source differs from the one that the dataset was made from, in words; nothing where it says no source.

    A run folder that holds the dataset knows more of its source than the dataset itself.
    """
    made_from = distilled.info.get("source") or {}
    if made_of_names(distilled):
        return ()
    before = {"fingerprint": made_from.get("fingerprint"), "training images": made_from.get("num_train_images")}
    manifest, now = distilled.path.resolve().parent / "squeeze" / MANIFEST, about_source(source)
    if not before["fingerprint"] or before["fingerprint"] == now["fingerprint"]:
        return ()
    if manifest.is_file() and isinstance(noted := read_json(manifest).get("source"), dict):
        before |= {name: value for name, value in noted.items() if name in now}
    told = [f"{name} {before[name]}, now {value}" for name, value in now.items() if before.get(name, value) != value]
    settings = (distilled.info.get("settings") or {}).get("source", {})
    read = {name: (settings[name], value) for name, value in dump(source.how).items() if name in _READS & set(settings)}
    return (*told, *(f"source.{name} {old}, now {new}" for name, (old, new) in read.items() if old != new))
