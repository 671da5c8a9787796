"""Which images are shown, and that they are the ones that were stored."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from attar.errors import ArtifactError
from attar.report.pictures import (
    MOST_CLASSES,
    MOST_FRAMES,
    MOST_IMAGES,
    MOST_PER_CLASS,
    choose_images,
    read_film,
    read_gallery,
    round_by_class,
)

MakeRun = Callable[..., Path]


@given(st.lists(st.integers(0, 400), max_size=900))
def test_a_choice_keeps_within_its_bounds(labels: list[int]) -> None:
    chosen = choose_images(labels)
    shown = Counter(labels[i] for i in chosen)
    assert len(set(chosen)) == len(chosen) <= MOST_IMAGES
    assert len(shown) == min(MOST_CLASSES, len(set(labels)))
    assert all(count <= MOST_PER_CLASS for count in shown.values())
    assert [labels[i] for i in chosen] == sorted(labels[i] for i in chosen)


def test_few_images_are_all_chosen() -> None:
    assert choose_images([0, 1, 2] * 5) == [*range(0, 15, 3), *range(1, 15, 3), *range(2, 15, 3)]


def test_of_a_thousand_classes_evenly_spaced_ones_are_chosen() -> None:
    chosen = choose_images(list(range(1000)))
    assert len(chosen) == MOST_CLASSES
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert {b - a for a, b in itertools.pairwise(chosen)} <= {10, 11}


def test_every_class_comes_before_any_comes_twice() -> None:
    assert round_by_class([0, 0, 1, 1, 2]) == [0, 2, 4, 1, 3]


def test_the_gallery_holds_the_stored_pixels(make_run: MakeRun) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (30, 6, 5, 3), np.uint8)
    run = make_run(pixels=pixels, ipc=10)
    gallery = read_gallery(run / "distilled" / "data")
    assert gallery is not None
    assert gallery.num_images == 30
    assert gallery.labels == (0,) * 10 + (1,) * 10 + (2,) * 10
    assert (gallery.pixels == np.concatenate([pixels[c::3] for c in range(3)])).all()


def test_no_folder_no_pictures(tmp_path: Path) -> None:
    assert read_gallery(tmp_path) is None
    assert read_film(tmp_path) is None


def test_a_film_has_both_ends_and_a_bounded_number_of_frames(make_run: MakeRun) -> None:
    film = read_film(make_run(num_frames=101, iterations=1000) / "recover" / "snapshots")
    assert film is not None
    assert len(film.steps) == len(film.pixels) == MOST_FRAMES
    assert (film.steps[0], film.steps[-1]) == (0, 1000)
    assert film.labels == (0, 1, 2)


def test_a_film_of_many_images_shows_whole_rounds_of_the_classes(make_run: MakeRun) -> None:
    pixels = np.zeros((105, 4, 4, 1), np.uint8)
    film = read_film(make_run(pixels=pixels, ipc=15, class_names=tuple("abcdefg")) / "recover" / "snapshots")
    assert film is not None
    assert set(Counter(film.labels).values()) == {8}
    assert film.num_images == 105


def test_snapshots_of_another_shape_are_left_out(make_run: MakeRun) -> None:
    folder = make_run(num_frames=4, iterations=60) / "recover" / "snapshots"
    other = {"pixels": np.zeros((2, 4, 4, 1), np.uint8)}
    save_file(other, folder / "step-00000001.safetensors", metadata={"step": "1", "labels": "[0, 1]"})
    film = read_film(folder)
    assert film is not None
    assert 1 not in film.steps
    assert len(film.steps) == 4


@pytest.mark.parametrize(
    ("tensors", "labels"),
    [
        ({"pixels": np.zeros((2, 4, 4, 1), np.float32)}, "[0, 1]"),
        ({"pixels": np.zeros((2, 4, 4), np.uint8)}, "[0, 1]"),
        ({"pixels": np.zeros((2, 4, 4, 1), np.uint8)}, "[0, 1, 2]"),
        ({"images": np.zeros((2, 4, 4, 1), np.uint8)}, "[0, 1]"),
    ],
)
def test_what_is_no_snapshot_is_named(tmp_path: Path, tensors: dict[str, np.ndarray], labels: str) -> None:
    save_file(tensors, tmp_path / "step-00000007.safetensors", metadata={"step": "7", "labels": labels})
    with pytest.raises(ArtifactError, match="step-00000007"):
        read_film(tmp_path)
