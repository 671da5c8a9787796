"""What an export brings along is read where attar cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attar.artifacts.distilled import Distilled
from attar.interop import EXPORTERS

WITHOUT_ATTAR = """
import importlib.util, json, sys
from pathlib import Path
sys.modules["attar"] = None  # an import of it fails from here on
import pytest
import torch
for folder in map(Path, sys.argv[1:]):
    spec = importlib.util.spec_from_file_location("loader", folder / "loader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = module.DistilledImages()
    loader = torch.utils.data.DataLoader(data, batch_size=len(data))
    images, targets = next(iter(loader))
    torch.save([images, targets], folder / "read.pt")
    print(json.dumps([len(data), data[0][0].dtype == torch.float32]))
"""


@pytest.mark.slow
def test_a_plain_dataset_reads_each_export(tmp_path: Path, floats: Distilled, exact: Distilled) -> None:
    folders = {}
    for name, distilled in (("floats", floats), ("exact", exact)):
        for to, (export, _) in EXPORTERS.items():
            folders[name, to] = export(distilled, tmp_path / f"out-{name}-{to}").path
    command = [sys.executable, "-W", "error", "-c", WITHOUT_ATTAR, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[8, True]] * len(folders)
    for (name, to), folder in folders.items():
        distilled = floats if name == "floats" else exact
        images, targets = torch.load(folder / "read.pt", weights_only=True)
        if name == "floats" and to in ("imagefolder", "medmnist"):
            shown = distilled.task.normalization.normalize(distilled.pixels_8bit())
            assert torch.allclose(images, shown, atol=1e-6)
            assert torch.equal(targets, distilled.labels)
        else:
            assert torch.allclose(images, distilled.images, atol=1e-6)
            assert torch.equal(targets, distilled.targets)


def test_loaders_are_short_and_need_no_attar() -> None:
    for path in sorted(Path(sys.modules["attar.interop"].__file__ or "").parent.glob("loaders/[a-z]*.py")):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 30, path.name
        assert "import attar" not in text
        assert "from attar" not in text
