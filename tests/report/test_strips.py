"""Strips of real images: as many as a page shows, small, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attar.errors import ArtifactError
from attar.report.strips import STRIP_PX, STRIPS, made_of, places, read_strips, write_strips


@pytest.mark.parametrize(
    ("num_classes", "most", "classes", "each"), [(10, 5, 10, 5), (60, 5, 60, 4), (1000, 5, 100, 2)]
)
def test_they_are_as_many_as_a_page_shows(num_classes: int, most: int, classes: int, each: int) -> None:
    found, num = places(num_classes, most)
    assert (len(found), num) == (classes, each)
    assert (found[0], found[-1]) == (0, num_classes - 1)


@pytest.mark.parametrize(
    ("shape", "kept"), [((8, 8, 1), (8, 8, 1)), ((224, 224, 3), (64, 64, 3)), ((200, 100, 1), (64, 32, 1))]
)
def test_large_ones_are_made_small(shape: tuple[int, int, int], kept: tuple[int, int, int], tmp_path: Path) -> None:
    pixels = [np.full(shape, value, np.uint8) for value in (7, 200)]
    write_strips(tmp_path, pixels, [0, 1], "these")
    found = read_strips(tmp_path)
    assert found is not None
    assert found.pixels.shape == (2, *kept)
    assert max(found.pixels.shape[1:3]) <= STRIP_PX
    assert [int(one.mean()) for one in found.pixels] == [7, 200]
    assert (found.labels, found.num_bytes) == ((0, 1), (tmp_path / STRIPS).stat().st_size)
    assert made_of(tmp_path) == "these"


def test_none_are_none(tmp_path: Path) -> None:
    assert read_strips(tmp_path) is None
    assert made_of(tmp_path) is None


@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x00" * 100])
def test_damaged_ones_are_told_and_made_again(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / STRIPS).write_bytes(damage)
    assert made_of(tmp_path) is None
    with pytest.raises(ArtifactError, match=r"real\.safetensors holds no pictures"):
        read_strips(tmp_path)
