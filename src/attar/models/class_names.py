"""What weights call their classes, so that a task's classes are found among them by any of their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class ClassNames:
    """All names of each class, in the order of the classes; the one that it goes by most is the first."""

    of: tuple[tuple[str, ...], ...]

    @classmethod
    def listed(cls, categories: Sequence[Sequence[str]]) -> ClassNames:
        """Take names with their synonyms, `goldfish, Carassius auratus`, one such text or more for each class.

        A thousand of them are ImageNet-1K's, whose synonyms and WordNet ids are known.
        """
        if len(categories) == 1000:
            categories = [[*mine, *theirs] for mine, theirs in zip(categories, _imagenet_1k(), strict=True)]
        return cls(tuple(tuple(part for text in texts for part in _parts(text)) for texts in categories))

    @classmethod
    def of_task(cls, names: Sequence[str]) -> ClassNames:
        """Take the names of a task's classes, each with what its commas part."""
        return cls(tuple(tuple(dict.fromkeys([name, *_parts(name)])) for name in names))

    def __len__(self) -> int:
        return len(self.of)

    def row(self, name: str) -> int | None:
        """The class that shares most names with `name`, if there is one such.

        Of ImageNet-1K's classes two may have one name: a crayfish is a spiny lobster too, a Cardigan a dog and a
        cardigan a garment. So of equals it is the one that is written the same way, then the one that goes by that
        name first.
        """
        parts = _parts(name)
        shared: dict[int, list[int]] = defaultdict(list)
        for part in {plain_name(part) for part in parts}:
            for row, place in self._places.get(part, {}).items():
                shared[row].append(place)
        fits = {
            row: (len(places), len(set(parts).intersection(self.of[row])), -min(places))
            for row, places in shared.items()
        }
        best = [row for row, fit in fits.items() if fit == max(fits.values())]
        return best[0] if len(best) == 1 else None

    @cached_property
    def _places(self) -> Mapping[str, Mapping[int, int]]:
        """The classes that have a name, and which of their names it is."""
        places: dict[str, dict[int, int]] = defaultdict(dict)
        for row, names in enumerate(self.of):
            for place, name in enumerate(names):
                places[plain_name(name)].setdefault(row, place)
        return places


def wordnet_names(info: Any) -> list[list[str]]:
    """WordNet id and synonyms of each class of one of timm's `ImageNetInfo`."""
    return [[info.index_to_label_name(row), info.index_to_description(row)] for row in range(info.num_classes())]


def plain_name(name: str) -> str:
    """The same without regard to case, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _imagenet_1k() -> list[list[str]]:
    from timm.data.imagenet_info import ImageNetInfo

    return wordnet_names(ImageNetInfo("imagenet-1k"))
