"""How a set that another program made is read, where its files leave that open."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from attar.artifacts.description import MOST_TILES
from attar.config import Config
from attar.normalizations import parse_normalization

PixelKind = Literal["auto", "normalized", "unit", "bytes", "zca"]


class ForeignSettings(Config):
    """How other people's distilled images and labels are read."""

    pixels: PixelKind = "auto"
    """Values of image tensors: normalized, unit (0 to 1), bytes (0 to 255), zca (whitened), or told from the values and
    refused where they leave it open."""
    normalization: str = "auto"
    """What normalized tensors were normalised by: source (the real images' own statistics), imagenet, cifar, cifar100,
    mnist, fashion-mnist, svhn (constants of published code), half (0.5 and 0.5), unit (0 and 1), or numbers such as
    0.5,0.5,0.5/0.25,0.25,0.25 (means, then standard deviations). auto: what published code has for a source, or a
    folder, of that name, else source."""
    zca_epsilon: float = Field(default=0.1, gt=0, le=1e6)
    """ε of the whitening of zca tensors; published code of MTT, TESLA and DATM has 0.1."""
    soft_labels: Literal["auto", "probabilities", "logits"] = "auto"
    """Values of float labels; auto: probabilities where they sum to 1, logits where some are negative."""
    tiles: int = Field(default=0, ge=0, le=MOST_TILES)
    """Images along a side that each image holds, to be trained on one at a time: 2 for sets of IDC, DREAM or NCFM with
    `factor: 2`. 0: as the note of an export says, else 1."""
    part: int = Field(default=0, ge=0)
    """Which one, where a file holds the sets of several experiments."""
    fkd: Path | None = None
    """Stored soft labels: the folder of `epoch_0/batch_0.tar` and on, where it does not lie in that of the images; or a
    tar archive of it, which is unpacked beside itself."""
    fkd_seed: int = Field(default=42, ge=0, lt=2**63)
    """Seed of the order of images in those labels (`--fkd-seed` of the program that stored them)."""
    fkd_unchecked: bool = False
    """Take those labels even where they do not favour the classes of their images."""

    @field_validator("normalization")
    @classmethod
    def _known(cls, text: str) -> str:
        if text not in ("auto", "source"):
            parse_normalization(text, beside=("auto", "source"))
        return text
