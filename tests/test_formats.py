"""docs/formats.md tells how to read a distilled dataset without attar: what stands there is run."""

import re
from pathlib import Path

import pytest
import torch

from attar.artifacts.distilled import write_distilled
from attar.artifacts.labelling import Labelling
from attar.augment.stored_views import describe, records
from attar.augment.views import Views, ViewSettings
from attar.labels.plan import LabelPlan
from attar.labels.writing import write_labels
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EPOCHS, NUM = 5, 12


def read(tmp_path, monkeypatch, codec="q8", keep=0, channels=3, num_classes=6, stored=False, **view_settings):
    """Write a dataset where the page expects it, run the page, and return its names and attar's own reading."""
    scale = Normalization((0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels])
    task = Task(tuple(f"class {c}" for c in range(num_classes)), channels, 12, 9, scale)
    pixels = torch.randint(256, (NUM, *task.shape), generator=generator(0, "pixels"), dtype=torch.uint8)
    views = Views(ViewSettings(**view_settings), 77, NUM, task.shape)
    plan = LabelPlan(codec, num_classes, NUM, EPOCHS, keep, epochs_per_shard=2, views=stored)
    logits = 4 * torch.randn(EPOCHS, NUM, num_classes, generator=generator(0, "logits"))

    def drawn(epoch):
        return records(views.draw(torch.full((NUM,), epoch), torch.arange(NUM)))

    told = describe(views.settings.mix, 77, task.shape) if stored else views.to_json()
    write_labels(tmp_path / "relabel", plan, lambda epoch: [(torch.arange(NUM), logits[epoch])], views=drawn)
    distilled = write_distilled(
        tmp_path / "runs/mine/distilled",
        Distillate(scale.normalize(pixels), torch.arange(NUM) % num_classes, exact_8bit=True),
        task,
        labelling=Labelling("epochs", plan, tmp_path / "relabel", told),
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    return names, distilled, views


@pytest.mark.parametrize(("codec", "keep"), [("fp16", 0), ("q8", 0), ("q4", 0), ("topk", 2), ("pca", 3)])
@pytest.mark.parametrize("num_classes", [7, 300])
def test_labels_are_read_as_attar_reads_them(codec, keep, num_classes, tmp_path, monkeypatch):
    names, distilled, _ = read(tmp_path, monkeypatch, codec, keep, num_classes=num_classes)
    for epoch in range(EPOCHS):
        own = distilled.label_store.read(torch.full((NUM,), epoch), torch.arange(NUM))
        theirs = torch.stack([torch.from_numpy(names["logits"](epoch, image)) for image in range(NUM)])
        torch.testing.assert_close(theirs, own, rtol=1e-4, atol=1e-4)
    assert names["classes"] == distilled.labels.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mix": "mixup"},
        {"mix": "none", "flip": False},
        {"min_scale": 1.0},
        {"min_scale": 0.5, "shuffle_patches": 2},
        {"shuffle_patches": 5, "mix": "mixup"},
        {"stored": True},
        {"stored": True, "mix": "mixup"},
        {"stored": True, "mix": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_shown_as_attar_shows_them(settings, channels, tmp_path, monkeypatch):
    names, distilled, views = read(tmp_path, monkeypatch, channels=channels, **settings)
    for epoch in range(EPOCHS):
        own = views.apply(distilled.images_at, torch.full((NUM,), epoch), torch.arange(NUM))
        theirs = torch.stack([names["view"](epoch, image) for image in range(NUM)])
        torch.testing.assert_close(theirs, own, rtol=1e-4, atol=1e-4)
