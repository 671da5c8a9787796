"""Class names and no images: all that a released network has to be told to be distilled from.

    classes:imagenet-1k            the classes of a dataset that goes by a name
    classes:names.txt              a text file, a class on each line
    classes:tench,golf ball        the names themselves, separated by commas

They stand in label order. A network that knows more classes gives up the rows that bear these names
(`models/weights.py`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from attar.data.examples import Found, quoted
from attar.data.named import NAMED
from attar.data.readers.base import Reader
from attar.errors import DataError, unknown
from attar.options import Reading
from attar.runtime.events import Events
from attar.text import is_text

PREFIX = "classes:"
_LIMIT_BYTES = 4_000_000
_EXPECTED = "two or more names, all different: a line each in a text file, or separated by commas"


def read_classes(text: str) -> Found:
    """List the classes that `text` stands for: a dataset's name, a file, or names separated by commas.

    Raises DataError where names are missing, double or no text, ConfigError where there is neither such a dataset
    nor such a file.
    """
    if text in NAMED and (known := NAMED[text].without_images):
        return known()
    if "," in text and not Path(text).is_file():
        names = [name.strip() for name in text.split(",")]
    else:
        names = _lines(Path(text).expanduser())
    return Found(_checked(names, text), {}, without_images=True)


def _lines(path: Path) -> list[str]:
    """The lines of a file that aren't blank."""
    if not path.is_file():
        sets = [name for name, source in NAMED.items() if source.without_images]
        raise unknown("set of classes", str(path), [*sets, "FILE", "NAME,NAME,..."])
    expected = "a text file in UTF-8 of up to 4 MB, a class on each line"
    if (size := path.stat().st_size) > _LIMIT_BYTES:
        raise DataError(f"{path} has {size:,} bytes", expected=expected)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}", expected=expected) from error
    return [line.strip() for line in lines if line.strip()]


def _checked(names: list[str], where: str) -> tuple[str, ...]:
    double = [name for name, count in Counter(names).items() if count > 1]
    odd = [name for name in names if not name or not is_text(name)]
    what = f"{quoted(double)} twice" if double else f"{quoted(odd)}, which is no name" if odd else ""
    if what or len(names) < 2:
        raise DataError(f"{PREFIX}{where} holds {what or f'{len(names)} class names'}", expected=_EXPECTED)
    return tuple(names)


def _read(text: str, how: Reading, events: Events) -> Found:
    return read_classes(text)


READER = Reader(
    "classes",
    "classes:NAMES",
    "class names without images, for a network that others trained: imagenet-1k, a file, or names with commas",
    _read,
    prefix=PREFIX,
)
