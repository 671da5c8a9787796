"""What it takes to list many images: WebDataset shards and a folder of small files, the first time and the second.

    python benchmarks/opening.py --work WORK --members 200000 --shards 20
    python benchmarks/opening.py --work WORK --members 1281167 --shards 147 --json benchmarks/results/opening.json

Writes shards and a folder of tiny images into WORK, unless they are there, and lists each twice with a cache of its
own: shards by their headers, then by what was kept of them; the folder by its entries both times, as a file can be
written anew without a trace in its folder. Seconds are of the clock and of this process; files are in the system's
memory by then, so a cold disk adds its own. Memory is the peak of the whole process so far.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from table import Checks, Rows, arguments, finish

from attar.data.examples import Found
from attar.data.readers.folders import read_folder
from attar.data.readers.shards import read_shards

CLASSES = 1000


def tiny_image() -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(made, "png")
    return made.getvalue()


def write_shards(folder: Path, members: int, num_shards: int, image: bytes) -> None:
    if folder.exists():
        return
    making = folder.with_suffix(".tmp")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for shard in range(num_shards):
        with tarfile.open(making / f"train-{shard:06}.tar", "w") as tar:
            for number in range(shard, members, num_shards):
                for ending, data in (("png", image), ("cls", str(number % CLASSES).encode())):
                    member = tarfile.TarInfo(f"{number:08}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    making.rename(folder)


def write_folder(folder: Path, members: int, image: bytes) -> None:
    if folder.exists():
        return
    making = folder.with_suffix(".tmp")
    shutil.rmtree(making, ignore_errors=True)
    for label in range(CLASSES):
        (making / "train" / f"n{label:04}").mkdir(parents=True)
    for number in range(members):
        (making / "train" / f"n{number % CLASSES:04}" / f"{number:08}.png").write_bytes(image)
    making.rename(folder)


def measure(name: str, open_it: Callable[[], Found]) -> dict[str, Any]:
    """List a source, and say what that took."""
    wall_s, own_s = time.perf_counter(), time.process_time()
    found = open_it()
    wall_s, own_s = time.perf_counter() - wall_s, time.process_time() - own_s
    peak_mib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    num = sum(map(len, found.splits.values()))
    seconds = {"seconds": round(wall_s, 2), "of the process": round(own_s, 2)}
    row = {"listed": name, "images": num, **seconds, "peak so far, MiB": peak_mib}
    print(row, flush=True)
    return row


def add(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--members", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=20)


def main() -> None:
    """Write what is missing, and list it."""
    asked = arguments(__doc__ or "", add)
    image = tiny_image()
    shards, folder = (asked.work / f"{kind}-{asked.members}" for kind in ("shards", "folder"))
    write_shards(shards, asked.members, asked.shards, image)
    write_folder(folder, asked.members, image)
    os.environ["ATTAR_CACHE"] = str(asked.work / "cache")
    shutil.rmtree(asked.work / "cache", ignore_errors=True)
    time.sleep(2.5)  # a shard of this moment is not kept
    rows: Rows = [
        measure(f"shards, the {time_} time", lambda: read_shards(str(shards))) for time_ in ("first", "second")
    ]
    rows += [measure(f"folder, the {time_} time", lambda: read_folder(folder)) for time_ in ("first", "second")]
    kept = sum(path.stat().st_size for path in (asked.work / "cache" / "listings").iterdir())
    gain = rows[0]["of the process"] / max(rows[1]["of the process"], 0.01)
    checks: Checks = {
        "shards: times as fast the second time": {"value": round(gain, 1), "target": 10.0},
        "bytes kept for each image": {"value": round(kept / asked.members, 1), "target": 64.0},
    }
    finish(rows, checks, asked.json)


if __name__ == "__main__":
    main()
