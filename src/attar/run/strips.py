"""Which real images a run keeps as small pictures for its page."""

from __future__ import annotations

from pathlib import Path

import torch

from attar.data.sources import Source
from attar.report import strips
from attar.runtime.files import digest
from attar.runtime.seeding import generator


def keep_strips(folder: Path, source: Source, most: int) -> None:
    """Keep up to `most` training images of each class in `folder`, the same for every run of a source; 0 removes them.

    A source without images leaves what is there. Of many classes those are taken that a page shows. What is there and
    of the same images stays.
    """
    if not source.has_images:
        return
    if not most:
        (folder / strips.STRIPS).unlink(missing_ok=True)
        return
    own = digest([source.fingerprint, most])
    if strips.made_of(folder) == own:
        return
    classes, num = strips.places(source.task.num_classes, most)
    chosen = []
    for label in classes:
        members = (source.train.labels == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator(0, "strips", label))[:num]])
    places = torch.cat(chosen)
    pixels = source.train.pixels(places).permute(0, 2, 3, 1).numpy()
    strips.write_strips(folder, list(pixels), source.train.labels[places].tolist(), own)
