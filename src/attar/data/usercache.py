"""The user's cache folder: ~/.cache/attar, or what XDG_CACHE_HOME or ATTAR_CACHE names; an empty ATTAR_CACHE: none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

VARIABLE = "ATTAR_CACHE"


def cache_folder(name: str) -> Path | None:
    """A folder of this name in the user's cache, which need not be there; None where nothing is to be kept."""
    named = os.environ.get(VARIABLE)
    if named == "":
        return None
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attar"
    except RuntimeError:  # nobody's home
        return None
    return (Path(named) if named else cache) / name


def is_own(folder: Path) -> bool:
    """Whether nobody else can write there."""
    about = folder.stat()
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
