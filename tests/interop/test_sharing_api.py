"""What the command line shares, from Python: the same functions, and no torch where none is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attar
from attar.artifacts.distilled import write_distilled
from attar.errors import ConfigError
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scale = Normalization((0.5,), (0.25,))
    pixels = torch.randint(256, (4, 1, 8, 8), generator=generator(0, "pixels"), dtype=torch.uint8)
    made = Distillate(scale.normalize(pixels), torch.arange(2).repeat(2), exact_8bit=True)
    write_distilled(tmp_path / "distilled", made, Task(("no", "yes"), 1, 8, 8, scale))
    return tmp_path / "distilled"


@pytest.mark.parametrize("to", ["imagefolder", "tensors", "webdataset"])
def test_what_is_exported_is_imported_again(folder, tmp_path, to):
    done = attar.export(folder, tmp_path / "out", to)
    assert done.path == tmp_path / "out"
    again = attar.import_(done.path, tmp_path / "again")
    order = torch.argsort(again.labels, stable=True), torch.argsort(attar.load(folder).labels, stable=True)
    assert torch.equal(again.stored[order[0]], attar.load(folder).stored[order[1]])
    assert attar.verify(again.path).ok


def test_an_unknown_format_is_told_with_those_there_are(folder, tmp_path):
    with pytest.raises(ConfigError, match="imagefolder"):
        attar.export(folder, tmp_path / "out", "zip")
    assert not (tmp_path / "out").exists()


def test_a_dry_push_counts_every_byte(folder):
    done = attar.push(folder, "somebody/digits", dry_run=True)
    assert sum(done.files.values()) == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_to_verify_takes_no_torch(folder):
    asked = f"import sys, attar; assert attar.verify({str(folder)!r}).ok; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", asked], check=True)


def test_tensors_that_somebody_changed_stay_floats(folder, tmp_path):
    done = attar.export(folder, tmp_path / "out", "tensors")
    changed = torch.load(done.path / "images_best.pt", weights_only=True) + 0.01
    torch.save(changed, done.path / "images_best.pt")
    again = attar.import_(done.path, tmp_path / "again")
    assert torch.equal(again.stored, changed)
