"""Class order that disagrees is told, between source, teacher and distilled set."""

import numpy as np
import pytest
from PIL import Image

import attar
from attar.errors import ArtifactError

TOY = {
    "squeeze.model": "convnet-d2-w8",
    "squeeze.epochs": 1,
    "evaluate.models": ["convnet-d2-w8"],
    "evaluate.seeds": 1,
    "train.epochs": 1,
    "evaluate.full_epochs": 1,
}


def make_folder(root, names):
    rng = np.random.default_rng(0)
    for name in names:
        for k in range(10):
            path = root / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


def test_a_source_whose_classes_differ_is_refused_by_evaluate_and_by_a_teacher(tmp_path):
    mine = make_folder(tmp_path / "mine", ["ant", "bee", "cat"])
    other = make_folder(tmp_path / "other", ["ant", "cat", "dog"])
    done = attar.distill(mine, "herding", 1, out=tmp_path / "run", settings=TOY)
    with pytest.raises(
        ArtifactError, match=r"class 1 is 'bee' there and 'cat' here|class 1 is 'cat' there and 'bee' here"
    ):
        attar.evaluate(done.path, other, out=tmp_path / "judged")

    from attar.data.sources import open_source
    from attar.runtime.engine import Engine
    from attar.squeeze.teacher_files import TrainedTeacher

    with pytest.raises(ArtifactError, match="class 1 is"):
        TrainedTeacher(done.path / "squeeze", open_source(str(other)).task, Engine("cpu"))
