"""distilled/ is trained on by stock loops of others, unchanged: nothing of attar is called after it is written.

timm's own train.py is not in its package: TIMM_TRAIN=FILE names it, and the test runs it as it is.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from attar.artifacts.distilled import load_distilled, write_distilled
from attar.interop import export_imagefolder
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

SIDE, CLASSES, IPC = 32, 3, 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images whose class is their colour, so that whoever learns anything learns it all."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    labels = torch.arange(CLASSES).repeat(IPC)
    pixels = torch.randint(80, (len(labels), 3, SIDE, SIDE), generator=generator(0, "pixels"), dtype=torch.uint8)
    pixels[torch.arange(len(labels)), labels] += 150
    scale = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    task = Task(("red", "green", "blue"), 3, SIDE, SIDE, scale)
    write_distilled(tmp_path / "distilled", Distillate(scale.normalize(pixels), labels, exact_8bit=True), task)
    return tmp_path / "distilled"


def learn(model: nn.Module, batches: object, optimizer: torch.optim.Optimizer, epochs: int) -> float:
    """A plain loop; accuracy on what it was trained on, 0 to 1."""
    for _ in range(epochs):
        model.train()
        for images, labels in batches:  # type: ignore[attr-defined]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).float() for images, labels in batches]  # type: ignore[attr-defined]
    return float(torch.cat(right).mean())


def test_timm_trains_on_it(folder: Path, tmp_path: Path) -> None:
    """As timm's train.py: --dataset hfds/PATH."""
    import timm
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    torch.manual_seed(0)
    data = create_dataset(f"hfds/{folder}", root=str(tmp_path / "cache"), split="train", is_training=True)
    assert data.reader.class_to_idx == {"red": 0, "green": 1, "blue": 2}
    loader = create_loader(
        data,
        input_size=(3, SIDE, SIDE),
        batch_size=8,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        device=torch.device("cpu"),
        persistent_workers=False,
        pin_memory=False,
        color_jitter=0.0,
    )
    model = timm.create_model("test_resnet", pretrained=False, num_classes=CLASSES)
    assert learn(model, loader, create_optimizer_v2(model, opt="adamw", lr=3e-3), epochs=6) > 0.9


TIMM_TRAIN = os.environ.get("TIMM_TRAIN", "")
SETTINGS = f"""--model test_resnet --num-classes {CLASSES} --input-size 3 {SIDE} {SIDE} --batch-size 8
    --opt adamw --lr 3e-3 --epochs 20 --warmup-epochs 0 --no-aug --device cpu --workers 0 --seed 0""".split()


@pytest.mark.slow
@pytest.mark.skipif(
    not TIMM_TRAIN, reason="set TIMM_TRAIN to train.py of a checkout of huggingface/pytorch-image-models"
)
@pytest.mark.parametrize("form", ["distilled", "imagefolder"])
def test_timm_train_py_trains_on_it(folder: Path, tmp_path: Path, form: str) -> None:
    named = ["--dataset", f"hfds/{folder}", "--val-split", "train"]
    if form == "imagefolder":
        export_imagefolder(load_distilled(folder), tmp_path / "export")
        named = ["--data-dir", str(tmp_path / "export")]
    words = [sys.executable, TIMM_TRAIN, *named, *SETTINGS, "--output", str(tmp_path), "--experiment", "run"]
    ended = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    with (tmp_path / "run" / "summary.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["eval_top1"]) > 90


@pytest.mark.slow
def test_datasets_and_torchvision_train_on_it(folder: Path) -> None:
    from datasets import load_dataset
    from torchvision import models
    from torchvision.transforms import v2

    torch.manual_seed(0)
    view = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )

    def shown(rows: dict[str, list[object]]) -> dict[str, list[object]]:
        return {"image": [view(image) for image in rows["image"]], "label": rows["label"]}

    data = load_dataset(str(folder), split="train").with_transform(shown)
    assert data.features["label"].names == ["red", "green", "blue"]
    rows = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)

    class Pairs:
        def __iter__(self) -> object:
            return ((batch["image"], batch["label"]) for batch in rows)

    model = models.resnet18(num_classes=CLASSES)
    assert learn(model, Pairs(), torch.optim.AdamW(model.parameters(), lr=1e-3), epochs=8) > 0.9
