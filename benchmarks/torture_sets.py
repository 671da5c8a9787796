"""Sets of others that mean ill: pickles that call or grow; distilled sets whose parts disagree though the sums hold."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture_tries import Try, refused

CALLED = (b"cposix\nsystem\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nexec\n", b"csubprocess\ncall\n")
HARMLESS = (
    *(b"c__builtin__\nbytearray\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"cnumpy.core.multiarray\nscalar\n", b"c_codecs\nencode\n", b"ctorch\nFloatStorage\n", b"cbuiltins\ngetattr\n"),
    *(b"ctorch\nSize\n", b"ctorch.serialization\nload\n", b"ctorch._utils\n_rebuild_parameter\n", b"cbuiltins\nset\n"),
)
STEPS = (
    *(
        b"N",
        b"K\x01",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"\x8a\x05\0\0\0\0\x08",
        b"G" + bytes(8),
    ),
    *(b"]", b")", b"}", b"(", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"\x85", b"\x86", b"\x87", b"0", b"1", b"2"),
    *(b"R", b"R", b"b", b"\x81", b"Q", b"q\x01", b"h\x01", b"X\x06\0\0\0images", b"X\x06\0\0\0labels", b"X\0\0\0\0"),
    *(b"X\x07\0\0\0storage", b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ"),
)
BOMBS = (
    b"}" + b")" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(2, 60)) + b"K\x01s",
    b"]" + b"".join(b"q%c]h%ch%c\x86e"[:-1] % (n, n, n) + b"a" for n in range(2, 40)),
    b"c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x08\x85R",
    b"]" * 30_000 + b"a" * 29_999,
    b"}" + b")" + b"\x85" * 100_000 + b"K\x01s",
    b"](c_codecs\nencode\nq\x01X"
    + struct.pack("<I", 100_000)
    + b"x" * 100_000
    + b"q\x02"
    + b"h\x01h\x02\x85R" * 9_000
    + b"e",
)


def pickle(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A file of torch.save that calls, grows or is no program at all; nothing of it may be run."""
    owned, file = folder / "owned", folder / "file.pt"
    order = f"touch {owned}".encode()
    call = rng.choice(CALLED) + b"X" + struct.pack("<I", len(order)) + order + b"\x85R"
    match rng.randrange(4):
        case 0:
            what, program = "a call", call
        case 1:
            number = rng.randrange(len(BOMBS))
            what, program = f"bomb {number}", BOMBS[number]
        case _:
            parts = [rng.choice((*STEPS, *STEPS, *HARMLESS, call)) for _ in range(rng.choice((3, 9, 30)))]
            what, program = f"{len(parts)} steps at random", b"".join(parts)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("file/data.pkl", b"\x80\x02" + program + b".")
        archive.writestr("file/version", b"3\n")
        archive.writestr("file/byteorder", b"little")
        archive.writestr("file/data/0", bytes(rng.choice((8, 8, 4096))))
    where = str(folder / "out")
    squeeze = ("squeeze", "digits", "--out", where, "-q", "--method")
    words = rng.choice((("import", str(file), "--source", "digits", "--out", where, "-q"),
                        (*squeeze, "tesla", "--set", f"squeeze.weights={file}"),
                        (*squeeze, "herding", "--model", "convnet-d1-w4", "--weights", str(file))))  # fmt: skip

    def wrong(codes: list[int], said: str) -> str:
        return "what the file calls was run" if owned.exists() else "" if codes[-1] else "accepted"

    return Try("pickle", f"{' '.join(words[5:8])[:30]}: {what}", (words,), wrong)


def lie(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A distilled set that says what is not so of itself, with new sums: `verify` finds it."""
    from attar.artifacts.checksums import write_sums

    base = rng.choice(("random", "sre2l", "tesla"))
    made = Path(shutil.copytree(bases / base / "distilled", folder / "distilled"))
    name, tell = rng.choice([(name, tell) for name, (only, tell) in LIES.items() if base in only])
    tell(rng, made)
    write_sums(made)
    return Try("lie", f"{base}: {name}", (("verify", str(made)),), refused)


def _said(change: Callable[[random.Random, dict[str, Any]], object]) -> Callable[[random.Random, Path], None]:
    """A lie in `attar.json`."""

    def tell(rng: random.Random, made: Path) -> None:
        values = json.loads((made / "attar.json").read_text())
        change(rng, values)
        (made / "attar.json").write_text(json.dumps(values))

    return tell


def _labels(change: Callable[[random.Random, dict[str, Any]], object]) -> Callable[[random.Random, Path], None]:
    """A lie in what `attar.json` says of the labels."""
    return _said(lambda rng, values: change(rng, values["labels"]))


def _mirror(settings: dict[str, Any]) -> None:
    settings["flip"] = not settings["flip"]


def _rows(change: Callable[[random.Random, Any], Any]) -> Callable[[random.Random, Path], None]:
    """A lie in the images' table."""

    def tell(rng: random.Random, made: Path) -> None:
        import pyarrow.parquet as pq

        (file,) = sorted(made.glob("data/*.parquet"))
        pq.write_table(change(rng, pq.read_table(file)), file)

    return tell


def _column(table: Any, name: str, values: list[Any]) -> Any:
    import pyarrow as pa

    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def _other(rng: random.Random, table: Any, name: str, value: int, after: int = 0) -> Any:
    """Another value in one row, from a row `after` the first on."""
    values = table.column(name).to_pylist()
    values[rng.randrange(after, len(values))] = value
    return _column(table, name, values)


def _tensor(pattern: str, change: Callable[[random.Random, Any], Any]) -> Callable[[random.Random, Path], None]:
    """A lie in a file of tensors, whose notes are kept."""

    def tell(rng: random.Random, made: Path) -> None:
        import numpy as np
        import safetensors
        from safetensors.numpy import save_file

        file = rng.choice(sorted(made.glob(pattern)))
        with safetensors.safe_open(file, framework="np") as opened:
            notes, tensors = opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        changed = {key: np.ascontiguousarray(change(rng, value.copy())) for key, value in tensors.items()}
        save_file(changed, file, notes)

    return tell


def _put(value: float) -> Callable[[random.Random, Any], Any]:
    def change(rng: random.Random, rows: Any) -> Any:
        if rows.dtype.kind == "f":
            rows.flat[rng.randrange(rows.size)] = value
        return rows

    return change


def _swap(names: list[Any], rng: random.Random) -> None:
    at = rng.randrange(len(names) - 1)
    names[at], names[at + 1] = names[at + 1], names[at]


ALL, FLOATS, STORED = ("random", "sre2l", "tesla"), ("tesla",), ("sre2l",)
LIES: dict[str, tuple[tuple[str, ...], Callable[[random.Random, Path], None]]] = {
    "classes swapped": (ALL, _said(lambda rng, v: _swap(v["task"]["class_names"], rng))),
    "a class fewer": (ALL, _said(lambda rng, v: v["task"]["class_names"].pop())),
    "a class twice": (ALL, _said(lambda rng, v: v["task"]["class_names"].__setitem__(0, v["task"]["class_names"][1]))),
    "other count": (ALL, _said(lambda rng, v: v.update(num_images=v["num_images"] + rng.choice((-1, 1, 10**6))))),
    "other ipc": (ALL, _said(lambda rng, v: v.update(ipc=2))),
    "other height": (ALL, _said(lambda rng, v: v["task"].update(height_px=rng.choice((1, 7, 9, 4096))))),
    "other channels": (ALL, _said(lambda rng, v: v["task"].update(channels=4 - v["task"]["channels"]))),
    "other size": (ALL, _said(lambda rng, v: v["sizes"].update(images=v["sizes"]["images"] + 1))),
    "file outside": (ALL, _said(lambda rng, v: v["files"].update(images=["../../secret.parquet"]))),
    "file not there": (ALL, _said(lambda rng, v: v["files"].update(images=["data/train-00000-of-00002.parquet"]))),
    "label out of range": (ALL, _rows(lambda rng, t: _other(rng, t, "label", rng.choice((-1, 10, 1000))))),
    "label of another class": (ALL, _rows(lambda rng, t: _other(rng, t, "label", 0, after=1))),
    "image fewer": (ALL, _rows(lambda rng, t: t.slice(0, len(t) - 1))),
    "id twice": (ALL, _rows(lambda rng, t: _other(rng, t, "image_id", rng.choice((-1, 0, 10**9)), after=1))),
    "nan pixel": (FLOATS, _tensor("pixels-*", _put(float("nan")))),
    "pixel out of range": (FLOATS, _tensor("pixels-*", _put(1e4))),
    "float image fewer": (FLOATS, _tensor("pixels-*", lambda rng, rows: rows[:-1])),
    "images turned": (FLOATS, _tensor("pixels-*", lambda rng, rows: rows[::-1])),
    "epochs of labels": (STORED, _labels(lambda rng, v: v["stored"].update(num_epochs=rng.choice((2, 5, 10**6))))),
    "images of labels": (STORED, _labels(lambda rng, v: v["stored"].update(num_images=rng.choice((1, 9, 11))))),
    "views of another shape": (STORED, _labels(lambda rng, v: v["views"].update(shape=[3, 8, 8]))),
    "views by another algorithm": (STORED, _labels(lambda rng, v: v["views"].update(algorithm=99))),
    "mirrored views": (STORED, _labels(lambda rng, v: _mirror(v["views"]["settings"]))),
    "labels cut off": (STORED, lambda rng, made: _cut(sorted(made.glob("labels-*"))[0])),
}  # fmt: skip


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])
