"""Datasets of the Hugging Face hub, through its own library; none of their code runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from attar.data.examples import Found
from attar.data.readers.base import Reader
from attar.data.tables import found_in, mapped
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.events import Events

CONNECT_S = 5.0
"""How long the hub may take to answer before the cache is all that is looked into."""


def read_hub(name: str, how: Reading | None = None) -> Found:
    """Read `owner/name` or `owner/name:config` of the Hugging Face hub, through its library; runs none of its code.

    Raises DataError where it can't be opened, or its columns or labels aren't as expected.
    """
    repository, _, config = name.partition(":")
    with _reached_or_cached():
        tables = mapped(f"hf:{name}", repository, *([config] if config else []))
        return found_in(tables, f"hf:{name}", _hub_licence(repository), how)


@contextmanager
def _reached_or_cached() -> Iterator[None]:
    """Where the hub can't be reached, let its libraries look into their cache only, in place of trying for minutes."""
    import datasets.config
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE or _is_reached(hub.ENDPOINT):
        yield
        return
    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error.found.partition(' can')[0]} is not in the cache, and the hub can't be reached",
            expected=f"a connection to {urlsplit(hub.ENDPOINT).hostname}",
            fix="check the connection, or give the path of a copy",
        ) from error
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _is_reached(endpoint: str) -> bool:
    """Whether someone answers there, within seconds; behind a proxy that is left to the libraries."""
    if getproxies():
        return True
    parts = urlsplit(endpoint)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout=CONNECT_S):
            return True
    except OSError:
        return False


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
    "a dataset of the Hugging Face hub; hf:OWNER/NAME:CONFIG for one of its configurations",
    _read,
    prefix="hf:",
    columns=True,
)
