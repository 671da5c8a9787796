"""Damaged and hostile inputs, each a function of a seed and a number, and the command that is given it."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCES = ("folder", "zip", "tar", "csv", "npz", "parquet", "pt")
TOY = ("evaluate.full_epochs=1", "train.epochs=1", "source.train_per_class=6")
NUMBERS = ("0", "-1", "1e999", "-.inf", ".nan", "9" * 20, "9" * 5000, "0x", "1:2:3", "1e-400", "1_0", "0b2", "1e50")
VALUES = (
    *NUMBERS,
    *("null", "~", "", "yes", "'", '"', "[", "]", "{", "{a: b}", "[[[[1]]]]", "[1, x]", "*a", "&a [*a]", "!!set {x}"),
    *(
        "2020-99-99",
        "2020-01-01",
        "!!python/name:os.system",
        "!!binary eA==",
        "x" * 3000,
        "é\u202e\x1b[31m",
        "\0",
        "a,b",
    ),
    *("[" * 500, "- " * 500, "auto", "none", "true", "../../etc", "hf:x/y", "cpu", "<<: {a: 1}", "\udce9", "{}", "[]"),
)
KEYS = (
    *("recover.iterations", "iterations", "train.lr", "run.seed", "source.resolution", "train.dlb.tau", "x", ""),
    *("evaluate.models", "method", "run.peer_timeout", "squeeze.model", "=", "train"),
)
BLOCKS = (1, 4, 64, 512)


@dataclass(frozen=True)
class Try:
    """A command, what was done to its input, and whether it may end well."""

    kind: str
    what: str
    words: tuple[str, ...]
    must_refuse: bool = False
    """Exit code 0 would be a wrong result."""


def make_bases(folder: Path, attar: Callable[..., int]) -> None:
    """Small sound inputs of each kind, and a run, from which the damaged ones are made; `attar` runs a command."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels, rows = rng.integers(0, 256, (24, 8, 8, 3), np.uint8), []
    for i, image in enumerate(pixels):
        path = folder / f"folder/{'test' if i % 4 == 3 else 'train'}/class{i % 2}/{i}.{'jpg' if i % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        rows.append((path.relative_to(folder / "folder").as_posix(), f"class{i % 2}", path.read_bytes()))
    with zipfile.ZipFile(folder / "zip.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, _, data in rows:
            archive.writestr(name, data)
    with tarfile.open(folder / "tar.tar", "w") as tar:
        for i, (_, label, data) in enumerate(rows):
            for end, part in (("png" if data[:4] == b"\x89PNG" else "jpg", data), ("cls", label[-1:].encode())):
                member = tarfile.TarInfo(f"{i:04d}.{end}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    shutil.copytree(folder / "folder/train", folder / "csv")
    listed = [f"{n.removeprefix('train/')},{label}" for n, label, _ in rows if n.startswith("train/")]
    (folder / "csv/metadata.csv").write_text("\n".join(["file_name,label", *listed]))
    labels = np.arange(24) % 2
    np.savez(folder / "npz.npz", x_train=pixels, y_train=labels, x_test=pixels[:8], y_test=labels[:8])
    images = [{"bytes": data, "path": name} for name, _, data in rows]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
    torch.save({"images": torch.rand(20, 3, 8, 8), "labels": torch.arange(20) % 2}, folder / "pt.pt")
    sets = [word for value in TOY for word in ("--set", value)]
    code = attar("distill", "digits", "--method", "random", "--recipe", "none", "--out", str(folder / "run"), "-q",
                 *sets, "--set", "evaluate.seeds=1", "--workers", "1")  # fmt: skip
    if code:
        raise SystemExit("the run that is to be damaged was not made")


def make_try(number: int, seed: int, bases: Path, folder: Path) -> Try:
    """Prepare the input of one try in an empty folder."""
    rng = random.Random(f"{seed} {number}")
    return (_setting, _recipe, _study, _run_file, _distilled, _foreign, _image)[number % 7](rng, bases, folder)


def _setting(rng: random.Random, _: Path, __: Path) -> Try:
    key = rng.choice(KEYS)
    value = rng.choice(VALUES)
    words = ("plan", "digits", "--method", "tesla", "--set", f"{key}={value}", "--set", "nothing.of.this=1")
    return Try("--set", f"{key}={value[:30]!r}", words, must_refuse=True)


def _recipe(rng: random.Random, _: Path, folder: Path) -> Try:
    import attar.recipes as bundled

    name = rng.choice(sorted(bundled.recipes()))
    text = (Path(bundled.__file__).parent / f"{name}.yaml").read_bytes()
    what, data = _damaged_text(rng, text)
    (folder / "mine.yaml").write_bytes(data)
    words = ("plan", "digits", "--recipe", str(folder / "mine.yaml"), "--set", "nothing.of.this=1")
    return Try("recipe", f"{name}: {what}", words, must_refuse=True)


def _study(rng: random.Random, _: Path, folder: Path) -> Try:
    text = b"data: {source: digits, train_per_class: 6}\nmodels: [convnet-d1-w4]\nstrategies: [ce, dlb]\nseeds: 2\n"
    text += b"train: {epochs: 2, batch_size: 16, augment: none}\njudge: {split: validation}\n"
    what, data = _damaged_text(rng, text)
    (folder / "mine.yaml").write_bytes(data)
    words = ("study", str(folder / "mine.yaml"), "--plan", "--out", str(folder / "out"), "-q")
    return Try("study", what, words)


def _run_file(rng: random.Random, bases: Path, folder: Path) -> Try:
    run = Path(shutil.copytree(bases / "run", folder / "run"))
    files = [file for file in sorted(run.rglob("*")) if file.is_file() and "distilled/" not in file.as_posix()]
    file = rng.choice([file for file in files if file.suffix in (".json", ".jsonl", ".yaml", ".safetensors")])
    what = _damage(rng, file)
    command = rng.choice((("report", str(run)), ("compare", str(run), str(run), "--out", str(folder / "page")),
                          ("squeeze", str(run), "--list"), ("relabel", str(run), "-q")))  # fmt: skip
    return Try("run folder", f"{command[0]}: {file.relative_to(run)}: {what}", command)


def _distilled(rng: random.Random, bases: Path, folder: Path) -> Try:
    made = Path(shutil.copytree(bases / "run/distilled", folder / "distilled"))
    file = rng.choice(sorted(file for file in made.rglob("*") if file.is_file()))
    before = file.read_bytes()
    what = _damage(rng, file)
    changed = file.read_bytes() != before and file.name != "SHA256SUMS"
    words, must = ("verify", str(made)), changed
    if rng.random() < 0.3:
        words, must = ("export", str(made), "--to", "imagefolder", "--out", str(folder / "out"), "-q"), False
    return Try("distilled set", f"{words[0]}: {file.name}: {what}", words, must)


def _foreign(rng: random.Random, bases: Path, folder: Path) -> Try:
    name = rng.choice(("zip.zip", "tar.tar", "csv", "npz.npz", "train.parquet", "pt.pt"))
    source = folder / name
    if name == "csv":
        shutil.copytree(bases / name, source)
        what = _damage(rng, source / "metadata.csv")
    else:
        shutil.copy(bases / name, source)
        what = _damage(rng, source)
    if name == "pt.pt":
        return Try(
            "foreign",
            f"{name}: {what}",
            ("import", str(source), "--source", "digits", "--out", str(folder / "o"), "-q"),
        )
    return Try("foreign", f"{name}: {what}", _distill(source, folder))


def _image(rng: random.Random, bases: Path, folder: Path) -> Try:
    source = Path(shutil.copytree(bases / "folder", folder / "folder"))
    file = rng.choice(sorted(file for file in source.rglob("*") if file.is_file()))
    return Try("image", f"{file.name}: {_damage(rng, file)}", _distill(source, folder))


def _distill(source: Path, folder: Path) -> tuple[str, ...]:
    return ("squeeze", str(source), "--method", "random", "--recipe", "none", "--out", str(folder / "out"), "-q",
            "--set", "squeeze.model=convnet-d1-w4", "--workers", "1")  # fmt: skip


def _damaged_text(rng: random.Random, text: bytes) -> tuple[str, bytes]:
    """A text of YAML with a value, a line or bytes of it changed."""
    lines = text.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0 | 1:
            value = rng.choice(VALUES)
            key, colon, _ = lines[at].partition(b":")
            lines[at] = key + (colon or b":") + b" " + value.encode("utf-8", "surrogateescape")
            return f"value {value[:30]!r} in line {at}", b"\n".join(lines)
        case 2:
            return f"line {at} twice", b"\n".join([*lines[: at + 1], *lines[at:]])
        case 3:
            aliases = "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, rng.choice((3, 40))))
            return "aliases", b"a0: &a0 [x, x]\n" + aliases.encode() + text
        case 4:
            return "whole", rng.choice((b"", b"[" * 9000, b"x: " * 9000, b"\xff\xfe", b"3", b"[]", b"\0", text * 400))
    return _damaged(rng, text)


def _damage(rng: random.Random, file: Path) -> str:
    """Damage a file, in the words of its format where it has some."""
    data = file.read_bytes()
    if file.suffix in (".json", ".jsonl") and data and rng.random() < 0.6:
        what, data = _damaged_json(rng, data)
    elif file.suffix == ".yaml" and rng.random() < 0.7:
        what, data = _damaged_text(rng, data)
    else:
        what, data = _damaged(rng, data)
    file.write_bytes(data)
    return what


def _damaged_json(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """A JSON text in which one value is another."""
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    at = rng.randrange(len(lines))
    try:
        whole = json.loads(lines[at] or b"{}")
    except ValueError:
        return _damaged(rng, data)
    places = [(whole, key) for key in (whole if isinstance(whole, dict) else range(len(whole)))]
    for holder, key in places:
        inner = holder[key]
        if isinstance(inner, dict | list):
            places += [(inner, name) for name in (inner if isinstance(inner, dict) else range(len(inner)))]
    if not places:
        return _damaged(rng, data)
    holder, key = rng.choice(places)
    value = rng.choice(
        ("x", "", None, True, -1, 0, 0.5, 10**60, 1e300, [], {}, [[]], "../../x", "<b>", "\u202e", "\0", 2**63)
    )
    holder[key] = value
    lines[at] = json.dumps(whole).encode()
    return f"{key} is {str(value)[:30]!r}", b"\n".join(lines)


def _damaged(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Bytes cut off, flipped, blanked, moved, lost, doubled or grown."""
    if not data:
        return "grown", bytes(600)
    at, to, size = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice(BLOCKS)
    match rng.randrange(8):
        case 0:
            return f"cut off after {at}", data[:at]
        case 1:
            return f"byte {at} flipped", data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]
        case 2:
            return f"{size} zeros at {at}", data[:at] + bytes(size) + data[at + size :]
        case 3:
            return f"{size} ones at {at}", data[:at] + b"\xff" * size + data[at + size :]
        case 4:
            return f"{size} from {to} at {at}", data[:at] + data[to : to + size] + data[at + size :]
        case 5:
            return f"{size} lost at {at}", data[:at] + data[at + size :]
        case 6:
            return f"{size} doubled at {at}", data[: at + size] + data[at:]
    return "grown", data + bytes(600)
