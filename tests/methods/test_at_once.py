"""A network that looks at a few images at a time makes those of the whole chunk."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import attar
from attar.artifacts.recovered import read_chunks
from attar.losses import statistics
from attar.losses.recomputed import Look, Recomputed

TINY = {
    "squeeze.model": "convnet-d1-w8-batch",
    "squeeze.epochs": 1,
    "source.train_per_class": 10,
    "method.start": "real",
    "recover.iterations": 4,
    "recover.num_snapshots": 0,
    "run.workers": 1,
}


@pytest.mark.parametrize(
    ("method", "more", "sizes"),
    [
        ("sre2l", {}, (5, 5, 5, 5)),
        ("sre2l", {"method.statistics_unit": "channel"}, (5, 5, 5, 5)),
        ("fadrm", {}, (5, 5, 5, 5)),
        ("teddy", {"squeeze.num_members": 1, "method.class_share": 0.5}, (4, 4, 4, 4, 4)),
    ],
)
def test_the_images_are_those_of_the_whole_chunk(
    method: str, more: dict[str, Any], sizes: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def apply(images: Any, parts: tuple[int, ...], look: Look) -> Any:
        asked.append(parts)
        return Recomputed.apply(images, parts, look)

    monkeypatch.setattr(statistics, "Recomputed", SimpleNamespace(apply=apply))
    made = []
    for at_once in (None, 5):
        settings = TINY | more | {"method.images_at_once": at_once}
        out = tmp_path / str(at_once)
        attar.distill("digits", method, 2, recipe="none", out=out, until="recover", settings=settings)
        made.append(read_chunks(out / "recover").images)
        assert set(asked) == ({sizes} if at_once else set())
    whole, parts = made
    assert float((whole - parts).abs().mean()) < 0.01 < float((whole - whole.mean()).abs().mean())
