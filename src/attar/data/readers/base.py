"""What a reader of files is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attar.data.examples import Found
from attar.options import Reading
from attar.runtime.events import Events


def _never(path: Path) -> bool:
    return False


@dataclass(frozen=True)
class Reader:
    """Reads the sources of one format.

    Attributes:
        name: of the format.
        shown: what a user types for such a source, as lists of sources show it.
        summary: a line on what that is.
        read: lists a source, from its path (or what is behind `prefix`), the settings and where notes go. Raises
            DataError where it can't.
        fits: whether a file or folder is of this format; looks at names, and at the beginning of a few files.
        prefix: texts that begin so are read by it, whatever lies there.
        rank: of several readers that a path fits, the one of the lowest rank reads it.
        columns: whether its sources have columns, so that `label_column` can name one.
    """

    name: str
    shown: str
    summary: str
    read: Callable[[str, Reading, Events], Found]
    fits: Callable[[Path], bool] = _never
    prefix: str = ""
    rank: int = 50
    columns: bool = False
