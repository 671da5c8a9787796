"""Texts of other people as they are shown: on a page, on a card, on a terminal."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and newline
    "\xad\u180e\u200b\u2060-\u2065\ufeff\ufff9-\ufffb"  # nothing that is seen
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # the direction of writing
    "\u2028\u2029"  # ends of lines
    "\ud800-\udfff"  # no characters: bytes of a name that is no UTF-8
    "\U000e0000-\U000e0fff"  # tags
    "]"
)


def visible(text: str) -> str:
    """A text with what cannot be seen or turns what is written around escaped as Python does; lines stay lines.

    A name that moves the cursor, or reads from right to left what is written after it, shows as what it is. Inside the
    double quotes of YAML the result stands for the text as it was.
    """
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    if "\udc80" <= found[0] <= "\udcff":  # a byte of a path that is no UTF-8, as Python keeps it
        return f"\\x{ord(found[0]) - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def visible_json(text: str) -> str:
    """The same of a JSON text, which stands for the same values."""
    return _UNSEEN.sub(_units, text)


def _units(found: re.Match[str]) -> str:
    data = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[k : k + 2].hex()}" for k in range(0, len(data), 2))
