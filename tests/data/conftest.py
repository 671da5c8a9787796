import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

MakeImage = Callable[..., bytes]


@pytest.fixture
def make_image() -> MakeImage:
    """Encode an image of noise that depends on `seed` alone."""

    def make(seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB", kind: str = "PNG") -> bytes:
        shape = size if mode == "L" else (*size, len(mode))
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def make_folder(tmp_path: Path, make_image: MakeImage) -> Callable[..., Path]:
    """Write class folders of noise: `splits` maps split folders ("" for none) to images per class."""

    def make(splits: dict[str, int], classes: tuple[str, ...] = ("ant", "bee"), **options: Any) -> Path:
        root = tmp_path / "pictures"
        for split, num in splits.items():
            for c, name in enumerate(classes):
                folder = root / split / name
                folder.mkdir(parents=True)
                for i in range(num):
                    seed = 10_000 * len(split) + 1000 * c + i
                    (folder / f"{i:04}.png").write_bytes(make_image(seed, **options))
        return root

    return make


@pytest.fixture
def make_parquet(tmp_path: Path, make_image: MakeImage) -> Callable[..., Path]:
    """Write one parquet shard of noise images with the labels given."""

    def make(
        name: str,
        labels: list[Any],
        *,
        names: list[str] | None = None,
        image: str = "image",
        label: str = "label",
        plain_bytes: bool = False,
        **options: Any,
    ) -> Path:
        blobs = [make_image(i + 1000 * len(name), **options) for i in range(len(labels))]
        images = pa.array(blobs if plain_bytes else [{"bytes": blob, "path": None} for blob in blobs])
        table = pa.table({image: images, label: pa.array(labels)})
        if names is not None:
            features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    return make
