"""Damaged and hostile inputs, and the command that is given each: it works or is told why not."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from torture_damage import NUMBERS, VALUES, damage, damaged_text
from torture_tries import Try, done, no_matter, refused

TOY = ("evaluate.full_epochs=1", "train.epochs=1", "source.train_per_class=6", "evaluate.models=[convnet-d1-w4]",
       "evaluate.seeds=1", "evaluate.baselines=[random]")  # fmt: skip
RUNS: dict[str, tuple[str, ...]] = {
    "random": ("npz", "--method", "random"),
    "sre2l": (
        *("digits", "--method", "sre2l", "--set", "squeeze.model=convnet-d1-w4-batch", "--set", "squeeze.epochs=1"),
        *("--set", "recover.iterations=2", "--set", "relabel.labels=epochs"),
    ),
    "tesla": (
        *("digits", "--method", "tesla", "--set", "squeeze.model=convnet-d1-w4", "--set", "squeeze.num_experts=2"),
        *("--set", "squeeze.epochs=3", "--set", "method.expert_epochs=1", "--set", "method.num_steps=2"),
        *("--set", "method.max_start_epoch=1", "--set", "recover.iterations=2"),
    ),
}
"""Base runs: source and what else is asked."""
KEYS = (
    *("recover.iterations", "iterations", "train.lr", "run.seed", "source.resolution", "train.dlb.tau", "x", ""),
    *("evaluate.models", "method", "run.peer_timeout", "squeeze.model", "=", "train", "run.workers", "run.ipc"),
    *("evaluate.seeds", "train.batch_size", "squeeze.num_experts", "train.epochs", "run.device", "squeeze.weights"),
)
LONG = ("evaluate.seeds", "train.epochs", "recover.iterations", "iterations")
"""Settings of which any number is a wish that takes its time."""
WIDE = ("convnet-d9999-w4", "convnet-d1-w999999999", "wrn-9999-9999", "densenet-bc-100-99999", "resnet999-cifar")
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "MASTER_ADDR")
NO_RANKS = ("", "x", "-1", "7", "1.5", "3[0-2]", "0x1", "9" * 30, "None", " ", "1,2")


def make_bases(folder: Path, attar: Callable[..., int]) -> None:
    """Small sound inputs of each kind, and runs, from which the damaged ones are made; `attar` runs a command."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels, rows = rng.integers(0, 256, (24, 8, 8, 3), np.uint8), []
    for i, image in enumerate(pixels):
        path = folder / f"folder/{'test' if i % 8 in (3, 6) else 'train'}/class{i % 2}/{i}.{'jpg' if i % 3 else 'png'}"
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
    torch.save({"images": torch.rand(20, 1, 8, 8), "labels": torch.arange(20) % 10}, folder / "pt.pt")
    for name, words in RUNS.items():
        code = attar(*distilling(name, folder / name))
        if code:
            raise SystemExit(f"the run that is to be damaged was not made: {words}")


def distilling(name: str, out: Path) -> tuple[str, ...]:
    """The command that makes a base run."""
    source, *rest = RUNS[name]
    sets = [word for value in TOY for word in ("--set", value)]
    source = str(out.with_name("npz.npz")) if source == "npz" else source
    return ("distill", source, *rest, "--recipe", "none", "--out", str(out), *sets, "-q", "--workers", "1")


def setting(rng: random.Random, _: Path, __: Path) -> Try:
    """A setting that is none, with another that is certainly none."""
    key = rng.choice(KEYS)
    value = rng.choice((*VALUES, *WIDE))
    words = ("plan", "digits", "--method", "tesla", "--set", f"{key}={value}", "--set", "nothing.of.this=1")
    return Try("--set", f"{key}={value[:30]!r}", (words,), refused)


def width(rng: random.Random, _: Path, folder: Path) -> Try:
    """Sizes beyond any machine, and numbers of which it is not said whether they can be."""
    key = rng.choice([key for key in KEYS if key not in LONG])
    value = rng.choice((*NUMBERS, "99999999", "1000000000000", *WIDE))
    flag = rng.choice((("--workers", value), ("--set", f"{key}={value}"), ("--resolution", value), ("--ipc", value)))
    sets = [word for one in TOY for word in ("--set", one)]
    words = ("distill", "digits", "--method", "random", *sets, *flag, "--out", str(folder / "out"), "-q")
    return Try("width", " ".join(flag)[:60], (words,))


def launcher(rng: random.Random, _: Path, __: Path) -> Try:
    """A launcher's variables that make no sense; --version answers all the same."""
    from attar.errors import ConfigError
    from attar.runtime.processes import launched

    environment = {name: rng.choice(NO_RANKS) for name in rng.sample(LAUNCHERS, rng.randrange(1, 5))}
    try:
        several = launched(environment).num > 1
    except ConfigError:
        several = False
    words = ("plan", "digits", "--method", "random") if rng.random() < 0.7 and not several else ("--version",)
    told = ", ".join(f"{name}={value[:9]!r}" for name, value in environment.items())
    wrong = done if words == ("--version",) else no_matter
    return Try("launcher", f"{words[0]}: {told}", (words,), wrong, environment=environment)


def recipe(rng: random.Random, _: Path, folder: Path) -> Try:
    """A damaged recipe."""
    import attar.recipes as bundled

    name = rng.choice(sorted(bundled.recipes()))
    text = (Path(bundled.__file__).parent / f"{name}.yaml").read_bytes()
    what, data = damaged_text(rng, text)
    (folder / "mine.yaml").write_bytes(data)
    words = ("plan", "digits", "--recipe", str(folder / "mine.yaml"), "--set", "nothing.of.this=1")
    return Try("recipe", f"{name}: {what}", (words,), refused)


def study(rng: random.Random, _: Path, folder: Path) -> Try:
    """A damaged study."""
    text = b"data: {source: digits, train_per_class: 6}\nmodels: [convnet-d1-w4]\nstrategies: [ce, dlb]\nseeds: 2\n"
    text += b"train: {epochs: 2, batch_size: 16, augment: none}\njudge: {split: validation}\n"
    what, data = damaged_text(rng, text)
    (folder / "mine.yaml").write_bytes(data)
    return Try("study", what, (("study", str(folder / "mine.yaml"), "--plan", "--out", str(folder / "out"), "-q"),))


def run_file(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A run folder of which one file is damaged."""
    name = rng.choice(tuple(RUNS))
    run = Path(shutil.copytree(bases / name, folder / name))
    files = [file for file in sorted(run.rglob("*")) if file.is_file() and "distilled/" not in file.as_posix()]
    file = rng.choice([file for file in files if file.suffix in (".json", ".jsonl", ".yaml", ".safetensors")])
    what = damage(rng, file)
    words = rng.choice((("report", str(run)), ("compare", str(run), str(run), "--out", str(folder / "page")),
                        ("squeeze", str(run), "--list"), ("relabel", str(run), "-q"),
                        ("evaluate", str(run), "--source", "digits", "-q")))  # fmt: skip
    return Try("run folder", f"{words[0]}: {file.relative_to(run)}: {what}", (words,))


def distilled(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A distilled set of which one file is damaged, with its sums or with new ones."""
    from attar.artifacts.checksums import NAME, write_sums

    made = Path(shutil.copytree(bases / rng.choice(tuple(RUNS)) / "distilled", folder / "distilled"))
    file = rng.choice(sorted(file for file in made.rglob("*") if file.is_file()))
    before, fresh = file.read_bytes(), rng.random() < 0.5
    what = damage(rng, file)
    changed = file.read_bytes() != before and file.name != NAME
    if fresh:
        write_sums(made)
        what += ", with new sums"
    words, wrong = ("verify", str(made)), refused if changed and not fresh else no_matter
    if rng.random() < 0.4:
        words = rng.choice((("export", str(made), "--to", "imagefolder", "--out", str(folder / "out"), "-q"),
                            ("report", str(made), "--out", str(folder / "out")),
                            ("evaluate", str(made), "--source", "digits", "--models", "convnet-d1-w4", "--seeds", "1",
                             "--baselines", "random", "-q", "--set", "train.epochs=1")))  # fmt: skip
        wrong = no_matter
    return Try("distilled set", f"{words[0]}: {file.name}: {what}", (words,), wrong)


def foreign(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A source or a set of another program that is damaged."""
    name = rng.choice(("zip.zip", "tar.tar", "csv", "npz.npz", "train.parquet", "pt.pt"))
    source = folder / name
    if name == "csv":
        shutil.copytree(bases / name, source)
        what = damage(rng, source / "metadata.csv")
    else:
        shutil.copy(bases / name, source)
        what = damage(rng, source)
    return Try("foreign", f"{name}: {what}", opening(source, folder))


def image(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A folder of images of which one is damaged."""
    source = Path(shutil.copytree(bases / "folder", folder / "folder"))
    file = rng.choice(sorted(file for file in source.rglob("*") if file.is_file()))
    return Try("image", f"{file.name}: {damage(rng, file)}", opening(source, folder))


def opening(source: Path, folder: Path) -> tuple[tuple[str, ...], ...]:
    """Commands that read all of a file or folder that is not of attar."""
    if source.suffix == ".pt":
        return (("import", str(source), "--source", "digits", "--out", str(folder / "out"), "-q"),)
    begin = ("squeeze", str(source), "--method", "random", "--recipe", "none", "--out", str(folder / "out"), "-q")
    return ((*begin, "--workers", "1"), ("relabel", str(folder / "out"), "-q"))
