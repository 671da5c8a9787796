from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SMALL: dict[str, Any] = {
    "data": {"source": "digits", "train_per_class": 6},
    "models": ["convnet-d1-w4-batch"],
    "strategies": ["ce", "dlb"],
    "seeds": 2,
    "train": {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "augment": "none"},
    "judge": {"split": "validation"},
}


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small study, with other fields where they are given."""

    def write(name: str = "study.yaml", **fields: Any) -> Path:
        path = tmp_path / name
        values = {key: value for key, value in {**SMALL, **fields}.items() if value is not None}
        path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
        return path

    return write
