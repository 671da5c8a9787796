"""Images per second and core of reading 224 px JPEGs, by attar and by others, on the same machine.

    ATTAR_DATA=FOLDER python benchmarks/input.py --json benchmarks/results/input.json

JPEGs of imagenette/ in ATTAR_DATA (parquet shards, 224 px), written as a folder of classes into a temporary folder.
"decode" rows are a function on the bytes of one image: Pillow, Pillow with its draft mode (which lets libjpeg scale by
the cosine transform, so that pixels differ), torchvision.io.decode_jpeg, and attar's by Pillow and, where it is
installed, by simplejpeg. "read" rows are an epoch in shuffled batches of 64, normalised: attar's as it opens and
decodes a source once, and then from memory, from decoded pixels on disk and by decoding each time; and torchvision's
ImageFolder with a DataLoader of 0 and 2 workers and the same crop. At 224 px nothing is resized; at 112 px all are.
Seconds are those of processors, so that rates are a core's, but for the DataLoader of 2 workers, which are started
before and of which the clock alone is known; all in turn, `--rounds` times, of which the fastest counts. attar has a
process of its own, as it tells the one that it runs in how to treat memory.
"""

from __future__ import annotations

import io
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from table import Checks, Rows, arguments, finish
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import decode_jpeg

from attar.data import raster
from attar.data.loading import RealSet, batches, plainly
from attar.data.raster import to_pixels
from attar.data.sources import SourceSettings, open_source
from attar.runtime.engine import Engine

BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Work = Callable[[], Any]
Decoder = Callable[[], Any]
FAST: Decoder = raster.jpeg_decoder


def SLOW() -> None:  # noqa: N802
    """No decoder but Pillow."""


def write_images(folder: Path, num: int) -> list[bytes]:
    """Write the first colour images as class folders, and return their bytes."""
    shard = next((Path(os.environ["ATTAR_DATA"]) / "imagenette").glob("train-*.parquet"))
    table = pq.read_table(shard).slice(0, 2 * num)
    images, labels = table.column("image").to_pylist(), table.column("label").to_pylist()
    kept = [
        (image["bytes"], label)
        for image, label in zip(images, labels, strict=True)
        if Image.open(io.BytesIO(image["bytes"])).mode == "RGB"
    ][:num]
    for number, (data, label) in enumerate(kept):
        path = folder / "train" / f"c{label}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [data for data, _ in kept]


def decoders(side_px: int) -> dict[str, Callable[[bytes], Any]]:
    def pillow(data: bytes) -> Any:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC))

    def draft(data: bytes) -> Any:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (side_px, side_px))
        return np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC))

    def attar(data: bytes, fast: bool) -> Any:
        raster.jpeg_decoder = FAST if fast else SLOW
        return to_pixels(data, side_px)

    found: dict[str, Callable[[bytes], Any]] = {
        "Pillow": pillow,
        "attar, by Pillow": lambda data: attar(data, False),
    }
    if FAST():
        found["attar, by simplejpeg"] = lambda data: attar(data, True)
    if side_px != 224:
        return found | {"Pillow, draft": draft}
    found["torchvision.io"] = lambda data: decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return found


def loader(folder: Path, side_px: int, workers: int) -> Work:
    steps = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if side_px != 224:
        steps.insert(0, transforms.Resize(side_px, transforms.InterpolationMode.BICUBIC))
    images = ImageFolder(str(folder / "train"), transforms.Compose([*steps, transforms.CenterCrop(side_px)]))

    batches_of = DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def epoch() -> None:
        for _ in batches_of:
            pass

    return epoch


def attar_reads(folder: Path, side_px: int) -> dict[str, Work]:
    """Openings of the source and epochs of it, by name."""

    def settings(**how: float) -> SourceSettings:
        return SourceSettings(resolution=side_px, validation_fraction=0, normalization="imagenet", **how)  # type: ignore[arg-type]

    def epoch(how: SourceSettings, decoder: Decoder) -> Work:
        source = open_source(str(folder), how)
        images = RealSet(source.train, source.task.normalization)

        def work() -> None:
            raster.jpeg_decoder = decoder
            for _ in batches(plainly(images), torch.randperm(len(images)).split(BATCH), prefetch=2):
                pass

        return work

    def opening(how: SourceSettings, decoder: Decoder) -> Work:
        def work() -> None:
            raster.jpeg_decoder = decoder
            open_source(str(folder), how)

        return work

    memory, mapped, none = settings(memory_gib=4), settings(memory_gib=0, cache_gib=4), settings(memory_gib=0)
    found = {
        "attar, from memory": epoch(memory, FAST),
        "attar, from a memory map": epoch(mapped, FAST),
        "attar, opening into memory, Pillow": opening(memory, SLOW),
        "attar, decoding each time, Pillow": epoch(none, SLOW),
        "attar, opening the memory map again": opening(mapped, FAST),
    }
    if FAST():
        found["attar, opening into memory, simplejpeg"] = opening(memory, FAST)
        found["attar, decoding each time, simplejpeg"] = epoch(none, FAST)
    return found


def used_s() -> float:
    """Seconds of processors that this process and its ended children have used."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


WORKERS = "read: DataLoader, 2 workers"
"""Whose workers stay, so that their seconds are not known."""
WORKS: dict[str, Work] = {}
"""What a process of this benchmark runs, by name."""


def prepare(ours: bool, folder: Path, data: list[bytes], side_px: int) -> list[str]:
    """Make ready what one side runs, run each once, and name it."""
    torch.set_num_threads(1)
    os.environ["ATTAR_CACHE"] = str(folder.parent / "cache")
    if ours:
        Engine("cpu")
    decode = {name: one for name, one in decoders(side_px).items() if name.startswith("attar") == ours}
    WORKS.clear()
    WORKS.update({f"decode: {name}": lambda one=one: [one(image) for image in data] for name, one in decode.items()})
    reads = (
        attar_reads(folder, side_px)
        if ours
        else {f"DataLoader, {n} workers": loader(folder, side_px, n) for n in (0, 2)}
    )
    WORKS.update({f"read: {name}": one for name, one in reads.items()})
    for work in WORKS.values():
        work()
    return list(WORKS)


def run(name: str) -> tuple[float, float]:
    """Seconds of processors and of the clock that one takes."""
    used, clock = used_s(), time.perf_counter()
    WORKS[name]()
    return used_s() - used, time.perf_counter() - clock


def main() -> None:
    asked = arguments(
        __doc__.splitlines()[0],
        lambda parser: [
            parser.add_argument("--images", type=int, default=320),
            parser.add_argument("--rounds", type=int, default=3),
        ],
    )
    rows: Rows = []
    checks: Checks = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "images"
        data = write_images(folder, asked.images)
        for side_px in (224, 112):
            found: dict[str, tuple[float, float]] = {}
            with ExitStack() as stack:
                sides = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(2)]
                names = [
                    side.submit(prepare, ours, folder, data, side_px).result()
                    for side, ours in zip(sides, (False, True), strict=True)
                ]
                for _ in range(asked.rounds):
                    for side, of_side in zip(sides, names, strict=True):
                        for name in of_side:
                            took = side.submit(run, name).result()
                            found[name] = min(found.get(name, took), took)
            base = found["read: DataLoader, 0 workers"][0]
            rows += [
                {
                    "px": side_px,
                    "what": name,
                    "images/s a core": f"{len(data) / used:,.0f}" if name != WORKERS else "-",
                    "images/s": f"{len(data) / clock:,.0f}",
                    "x DataLoader, a core": f"{base / used:.2f}" if name != WORKERS else "-",
                }
                for name, (used, clock) in found.items()
            ]
            for decoder in ("Pillow", "simplejpeg"):
                if took := found.get(f"read: attar, decoding each time, {decoder}"):
                    name = f"decoding each time over a DataLoader's, {decoder}, {side_px} px"
                    checks[name] = {"value": base / took[0], "target": 1.0}
    finish(rows, checks, asked.json)


if __name__ == "__main__":
    main()
