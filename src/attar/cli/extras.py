"""Flags that only the command line has, beside the options of the Python functions."""

from __future__ import annotations

from typing import Annotated

from attar.config import Config
from attar.marks import Flag


class Listing(Config):
    """Of `attar squeeze`."""

    listing: Annotated[bool, Flag("--list")] = False
    """Make nothing: list the experts in --out and whether SOURCE can use them; or those in SOURCE, a run."""


class Counting(Config):
    """Of `attar study`."""

    counting: Annotated[bool, Flag("--plan")] = False
    """Count the trainings, and train nothing."""
