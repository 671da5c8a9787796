"""What was judged in a folder that is no run: kept beside the records, so that a page can be drawn of it. No torch.

judged.json               where it lies, the source, the commands' settings; and what attar.json says of a set of ours
pictures.safetensors      the images that the page shows, `pixels` uint8 (n, h, w, c)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from attar.errors import ArtifactError
from attar.report.pictures import MOST_PICTURE_BYTES, Gallery, Pixels, checked_labels
from attar.runtime.files import read_json, write_bytes, write_json
from attar.runtime.reading import parse_notes, require_file
from attar.runtime.tensorfile import in_order

JUDGED, PICTURES = "judged.json", "pictures.safetensors"
FOREIGN = "another program"
"""Method of a set that says nothing of how it was made."""


@dataclass(frozen=True)
class Outside:
    """What was judged apart from its run, as the person who judged it named it and its source."""

    path: str
    """Where the images are."""
    source: str
    settings: tuple[str, ...] = ()
    """Assignments of the command, `foreign.pixels=zca` and the like."""
    data_dir: str | None = None
    ours: bool = True
    """Whether it is a distilled dataset of attar's."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """Fields of attar.json."""
    out: str | None = None
    """The folder that was named for the records; None: the one beside the set."""

    def problem(self) -> str:
        """Which field is of a wrong type, in words; empty where none is."""
        texts = dict.fromkeys(("data_dir", "out"), str | None)
        kinds = {"path": str, "source": str, "ours": bool, "description": Mapping, **texts}
        odd = [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]
        odd += [] if all(isinstance(text, str) for text in self.settings) else ["settings"]
        return f"{odd[0]} is of a wrong type" if odd else ""

    def arguments(self) -> list[str]:
        """Words of the command line that name it and its source."""
        named = {"--data-dir": self.data_dir, "--out": self.out}
        return [self.path, "--source", self.source, *(w for flag, to in named.items() if to for w in (flag, to))]


def keep_judged(folder: Path, outside: Outside, gallery: Gallery) -> None:
    """Write both files."""
    note = {"labels": json.dumps(gallery.labels), "num": json.dumps([gallery.num_images, gallery.num_classes])}
    tensors = {"pixels": np.ascontiguousarray(gallery.pixels)}
    write_bytes(folder / PICTURES, in_order(safetensors.numpy.save(tensors, metadata=note)))
    write_json(folder / JUDGED, {**vars(outside), "settings": list(outside.settings)})


def read_outside(folder: Path) -> tuple[Outside, Gallery] | None:
    """Read them; None where there are none, as in a run. Raises ArtifactError where one is damaged or missing."""
    if not (folder / JUDGED).is_file():
        return None
    try:
        values = read_json(folder / JUDGED)
        outside = Outside(**{**values, "settings": tuple(values["settings"])})
        if problem := outside.problem():
            raise ValueError(f"{JUDGED}: {problem}")
        require_file(folder / PICTURES, MOST_PICTURE_BYTES)
        with safe_open(folder / PICTURES, framework="np") as file:
            note = parse_notes(file.metadata())
            pixels: Pixels = file.get_tensor("pixels")
        labels, (num_images, num_classes) = checked_labels(pixels, note["labels"]), map(int, note["num"])
        if num_images < len(labels) or num_classes < len(set(labels)):
            raise ValueError(f"{PICTURES}: more pictures than the {num_images} images in {num_classes} classes")
        return outside, Gallery(pixels, tuple(labels), num_images, num_classes)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"what was judged in {folder} cannot be read: {error}", fix="run attar evaluate again"
        ) from error


def find_judged(path: Path) -> Path:
    """The folder to report on: this one, or the one in which a set that is in no run was judged."""
    beside = path.resolve().with_name(f"{path.resolve().name}-evaluation")
    return beside if not (path / JUDGED).is_file() and (beside / JUDGED).is_file() else path


def chosen_pictures(pixels: Pixels, chosen: Sequence[int], labels: Sequence[int]) -> Gallery:
    """A gallery of the images at the places `chosen`, uint8 (k, h, w, c), of all that have `labels`."""
    return Gallery(pixels, tuple(labels[place] for place in chosen), len(labels), len(set(labels)))
