"""Data sets of the Hugging Face hub, through its own library; none of their code runs."""

from __future__ import annotations

from attar.data.examples import Found
from attar.data.readers.base import Reader
from attar.data.tables import found_in, mapped
from attar.options import Reading
from attar.runtime.events import Events


def read_hub(name: str, how: Reading | None = None) -> Found:
    """Read `owner/name` or `owner/name:config` of the Hugging Face hub, through its library; runs none of its code.

    Raises DataError where it can't be opened, or its columns or labels aren't as expected.
    """
    repository, _, config = name.partition(":")
    tables = mapped(f"hf:{name}", repository, *([config] if config else []))
    return found_in(tables, f"hf:{name}", _hub_licence(repository), how)


def _hub_licence(repository: str) -> str | None:
    from huggingface_hub import DatasetCard

    try:
        licence = DatasetCard.load(repository).data.license
    except Exception:  # no card, no connection: the licence then stays unknown
        return None
    return ", ".join(licence) if isinstance(licence, list) else licence


def _read(name: str, how: Reading, events: Events) -> Found:
    return read_hub(name, how)


READER = Reader(
    "hub",
    "hf:OWNER/NAME",
    "a data set of the Hugging Face hub; hf:OWNER/NAME:CONFIG for one of its configurations",
    _read,
    prefix="hf:",
    columns=True,
)
