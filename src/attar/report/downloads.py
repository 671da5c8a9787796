"""Tables of the page as files: CSV in a `data:` link, which a browser saves without a server and without a script."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from attar.plain import is_number

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a text that a spreadsheet would run as a formula."""
Cell = str | float | None


@dataclass(frozen=True)
class Download:
    """A link to a table: the name of the file, and all of it as a data URI."""

    name: str
    uri: str


def download(of: str, table: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Download:
    """A table as CSV (RFC 4180, UTF-8): numbers in full, nothing for None, no text that could be taken for a formula.

    Args:
        of: what the page is about, for the name of the file.
        table: what the table is.
        columns: heads of the columns.
        rows: cells, as many in each row as there are columns.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(_cell, columns))
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    uri = "data:text/csv;charset=utf-8," + quote(text.getvalue().encode("utf-8", "replace"), safe="")
    return Download(f"{_slug(of)}-{table}.csv", uri)


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if is_number(value):
        return repr(value)
    return f"'{value}" if str(value).startswith(FORMULA) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)[:40].strip("-.") or "attar"
