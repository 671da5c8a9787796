"""One set in several files: `images_best_0.pt` and on with their labels, `NAME_part0.npz`, `NAME-00000-of-00002.pt`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from attar.errors import DataError

SINGLE = (".pt", ".pth", ".npz", ".safetensors")
"""Endings of files that may hold images and labels together."""
_NUMBERED = re.compile(r"(.*?)(?:_best_|[-_.]?part[-_.]?)(\d{1,9})", re.IGNORECASE)
_OF_MANY = re.compile(r"(.*)-(\d{1,9})-of-(\d{1,9})", re.IGNORECASE)
_BESIDE = ("labels", "soft_labels", "lr")


def numbered(folder: Path) -> list[Path]:
    """The files of one set's parts in the order of their numbers, those of images where labels lie apart; or none.

    Files that are only numbered, such as `images_1000.pt`, are states of one set at several iterations, not its parts.
    Raises DataError where a part is missing.
    """
    found: dict[tuple[str, str], dict[int, Path]] = {}
    totals: dict[tuple[str, str], int] = {}
    for path in sorted(folder.iterdir()):
        match = _OF_MANY.fullmatch(path.stem) or _NUMBERED.fullmatch(path.stem)
        if match and path.suffix.lower() in SINGLE and path.is_file() and not match[1].startswith(_BESIDE):
            found.setdefault((match[1], path.suffix), {})[int(match[2])] = path
            totals[(match[1], path.suffix)] = int(match[3]) if len(match.groups()) > 2 else 0
    sets = [_whole(parts, totals[key], folder) for key, parts in found.items() if len(parts) > 1 or totals[key] > 1]
    return sets[0] if len(sets) == 1 else []


def _whole(parts: Mapping[int, Path], total: int, folder: Path) -> list[Path]:
    first = min(0 if 0 in parts else 1, min(parts))
    end = max(max(parts) + 1, first + total)
    if len(parts) < end - first:
        missing = islice((number for number in range(first, end) if number not in parts), 10)  # there may be millions
        raise DataError(
            f"{folder} holds {len(parts)} parts of a set; missing are {', '.join(map(str, missing))}",
            expected="parts numbered from 0 or 1 on, without gaps",
            fix="fetch them too; or give one part, to judge it alone",
        )
    return [parts[number] for number in sorted(parts)]
