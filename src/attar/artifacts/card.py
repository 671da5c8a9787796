"""README.md of a distilled dataset, which a person reads and the Hugging Face hub parses, and its picture.

The text is a pure function of attar.json, the records and the verdict. Needs no torch.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attar.artifacts import description as about
from attar.artifacts.checksums import damage, read_sums, write_sums
from attar.artifacts.description import Description, locate, read_description
from attar.artifacts.labelling import stored_plan
from attar.artifacts.parquet import Bytes8, Integers, picture
from attar.errors import ArtifactError
from attar.results.records import Labels, Record
from attar.results.verdict import Words
from attar.runtime.files import write_text
from attar.text import parse_yaml, yaml_text
from attar.visible import visible

README = "README.md"
PREVIEW = "preview.png"
_MOST_NAMES = 20
_TILE_PX, _TILE_GAP_PX, _TILES_ACROSS = 64, 4, 10
_LICENSES = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|gpl-3\.0|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|odc-by|odbl|pddl|unknown"
)
"""Identifiers that the hub knows; any other licence is written as `other` with its name."""


def render(description: Description, records: Sequence[Record] = (), verdict: Words | None = None) -> str:
    """Write the dataset card: YAML header and Markdown."""
    header = yaml_text(_header(description))
    sections = (_title, _use, _making, _limits, _rights)
    title, use, making, limits, rights = ("\n".join(section(description)) for section in sections)
    results = "\n".join(_results(records, verdict or Words()))
    return visible(f"---\n{header}---\n\n" + "\n\n".join([title, results, use, making, limits, rights]) + "\n")


def update_card(path: Path | str, records: Sequence[Record], verdict: Words) -> None:
    """Write measured numbers into the card of a distilled dataset, and the card's new sum into SHA256SUMS.

    Raises ArtifactError where attar.json or SHA256SUMS is missing or damaged.
    """
    folder = locate(path)
    description = read_description(folder)
    if problem := damage(folder, about.NAME, read_sums(folder)):
        raise ArtifactError(f"{folder}: {problem}", fix="run `attar verify` on it, and make it again")
    write_text(folder / README, render(description, records, verdict))
    write_sums(folder, [README])


def class_names(text: str) -> tuple[str, ...]:
    """Class names as the YAML header of a card gives them; raises ArtifactError where it has none."""
    try:
        _, header, _ = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
        features = parse_yaml(header)["dataset_info"]["features"]
        names = next(f for f in features if f["name"] == "label")["dtype"]["class_label"]["names"]
        return tuple(names[str(label)] for label in range(len(names)))
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ArtifactError(
            f"{README} has no readable YAML header with class names",
            expected="dataset_info.features with a class_label",
            fix="make the dataset again, or fetch it again",
        ) from error


def shown(labels: Integers) -> list[int]:
    """Places of the images that `preview` draws, of labels (n,)."""
    return [place for row in _grid(labels) for place in row if place is not None]


def preview(pixels: Mapping[int, Bytes8], labels: Integers) -> bytes:
    """Draw a PNG of images (c, h, w), given by their places, without smoothing: a column for each of up to ten classes.

    With one image a class, up to a hundred classes are shown in rows of ten. The gaps are transparent.
    """
    grid = _grid(labels)
    across, down = (side + _TILE_GAP_PX for side in _tile(next(iter(pixels.values()))).size)
    size = len(grid[0]) * across - _TILE_GAP_PX, len(grid) * down - _TILE_GAP_PX
    sheet = Image.new("RGBA", size, (0, 0, 0, 0))
    for row, places in enumerate(grid):
        for column, place in enumerate(places):
            if place is not None:
                sheet.paste(_tile(pixels[place]), (column * across, row * down))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _grid(labels: Integers) -> list[list[int | None]]:
    members = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    most = max(map(len, members))
    shown = _spread(members, _TILES_ACROSS**2 if most == 1 else _TILES_ACROSS)
    if most == 1:
        places = [places[0] for places in shown]
        rows = [places[i : i + _TILES_ACROSS] for i in range(0, len(places), _TILES_ACROSS)]
        return [[*row, *[None] * (min(len(places), _TILES_ACROSS) - len(row))] for row in rows]
    num_rows = min(most, _TILES_ACROSS)
    return [[places[row] if row < len(places) else None for places in shown] for row in range(num_rows)]


def _spread(items: list[list[int]], most: int) -> list[list[int]]:
    num = min(len(items), most)
    return [items[i * len(items) // num] for i in range(num)]


def _tile(pixels: Bytes8) -> Image.Image:
    image = picture(pixels)
    longest = max(image.size)
    if longest > 2 * _TILE_PX:
        small = max(1, image.width * 2 * _TILE_PX // longest), max(1, image.height * 2 * _TILE_PX // longest)
        return image.resize(small, Image.Resampling.BOX)
    times = -(-_TILE_PX // longest)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _header(d: Description) -> dict[str, Any]:
    names = {str(label): name for label, name in enumerate(d.task.class_names)}
    return {
        "pretty_name": f"{d.source.name or 'A dataset'} in {_images(d.num_images)}",
        **_license(d.source.licence),
        "task_categories": ["image-classification"],
        "size_categories": [_size_category(d.num_images)],
        "tags": ["dataset-distillation", "dataset-condensation", "attar"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": [
                {"name": "image", "dtype": "image"},
                {"name": "label", "dtype": {"class_label": {"names": names}}},
                {"name": "image_id", "dtype": "int64"},
            ]
        },
    }


def _license(name: str | None) -> dict[str, str]:
    known = "-".join((name or "unknown").lower().split())
    return {"license": known} if _LICENSES.fullmatch(known) else {"license": "other", "license_name": str(name)}


def _size_category(num: int) -> str:
    steps = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for limit, name in steps if num < limit), "1M<n<10M")


def _title(d: Description) -> Iterator[str]:
    source = d.source
    real = f"the {source.num_train_images:,} training images" if source.num_train_images else "the training images"
    yield f"# {_text(source.name or 'A dataset')} in {_images(d.num_images)}\n"
    yield (
        f"{_images(d.num_images).capitalize()} of {len(d.task.class_names)} classes that stand in for {real}"
        f"{f' of {_text(source.name)}' if source.name else ''} when a network is trained. "
        f"Training on them needs **{_bytes(d.sizes.total)}**: {_size_parts(d)}.\n"
    )
    yield f"![Images of the dataset, enlarged, in label order]({PREVIEW})\n"
    names = [_text(name) for name in d.task.class_names[:_MOST_NAMES]]
    more = f" and {len(d.task.class_names) - _MOST_NAMES} more" if len(d.task.class_names) > _MOST_NAMES else ""
    yield f"Classes, in label order: {', '.join(names)}{more}."


def _results(records: Sequence[Record], verdict: Words) -> Iterator[str]:
    yield "## Results\n"
    yield from (f"**{_text(sentence)}**\n" for sentence in verdict.sentences)
    yield from (f"- {_text(point)}" for point in verdict.points)
    if verdict.points:
        yield ""
    if not records:
        yield "Not measured yet; `attar evaluate` writes its numbers here."
        return
    ours = next((record.labels for record in records if record.group == "distilled"), None)
    tables: dict[str, list[Record]] = {}
    for record in records:
        tables.setdefault(record.metric_name, []).append(record)
    for name, members in tables.items():
        unit = " (%)" if members[0].is_accuracy else ""
        yield f"| trained on | network | {_text(name.replace('_', ' '))}{unit} | n | images | size |"
        yield "|---|---|--:|--:|--:|--:|"
        yield from (_row(record, ours) for record in members)
        yield ""
    yield "Each number is the mean ± standard deviation over n seeds, at the last epoch, never the best one."
    if any(record.best for record in records):
        yield (
            "But for those under *best*: of several states or epochs the one that the test images judge best, which is "
            "what published tables report and more than can be had without them."
        )


def _row(record: Record, ours: Labels | None) -> str:
    """A line of the table; that of the distilled images with labels of the kind `ours` is bold."""
    digits = ".1f" if record.is_accuracy else ".4g"
    score = f"{record.mean:{digits}}" + (f" ± {record.std:{digits}}" if record.n > 1 else "")
    is_ours = record.group == "distilled" and record.labels == ours and record.augmented and not record.best
    bold = "**" if is_ours else ""
    what = f"{bold}{_text(record.subject)}{bold} | {_text(record.model)} | {bold}{score}{bold}"
    return f"| {what} | {record.n} | {record.num_images:,} | {_bytes(record.size_bytes)} |"


def _use(d: Description) -> Iterator[str]:
    yield "## Use\n"
    yield "```python\nimport attar\n"
    yield 'distilled = attar.load("path/to/this/folder")'
    yield "loader = distilled.loader(batch_size=64)  # normalised images, and their labels"
    yield "```\n"
    yield "Without attar, as any Hugging Face dataset:\n"
    yield "```python\nfrom datasets import load_dataset\n"
    yield 'images = load_dataset("path/to/this/folder", split="train")'
    yield "```\n"
    if d.pixels == "float32":
        yield (
            "The images in `data/` are 8-bit previews, clamped and rounded. What was optimised, and what the "
            "results stand on, are the float32 images in `pixels-*.safetensors`, which `attar.load` gives."
        )
    else:
        how = "whitened" if d.task.normalization.whitening else "normalised as `attar.json` says"
        yield f"The 8-bit images in `data/` are what training sees, once {how}."
    if d.tiles > 1:
        yield (
            f"\nEach image holds {d.tiles}×{d.tiles} others, to be trained on one at a time, enlarged to full size. "
            "`distilled.loader()` gives them so, and `attar train` and `attar evaluate` look at one of each in an "
            "epoch; whoever reads the files cuts them apart."
        )
    yield from _labels(d)
    if d.task.normalization.whitening:
        yield (
            "\nImages are whitened (ZCA) by the matrix in `whitening.safetensors` before a network sees them, and real "
            "ones must be too, for a network trained on these: `attar evaluate` does so. It counts towards the size."
        )
    if d.learning_rate is not None:
        yield f"\nA learning rate was learnt with them: {d.learning_rate:.6g} (SGD)."
    yield "\n`sha256sum -c SHA256SUMS` checks every byte, `attar verify` the meaning too."


_VIEWS = {
    False: "The views are not stored: attar replays them by what `attar.json` says under `labels.views`.",
    True: "The views stand beside them, as the program that labelled these images drew them.",
}


def _labels(d: Description) -> Iterator[str]:
    if d.soft_labels:
        yield "\n`labels-*.safetensors` holds the probabilities of all classes for each image, in float16."
    if (plan := stored_plan(d)) and d.labels.error:
        kept = f", which keeps {plan.keep} {plan.coder.keeps} of each" if plan.keep else ""
        yield (
            f"\n`labels-*.safetensors` holds a teacher's logits on {plan.num_epochs:,} augmented views of each image: "
            f"{plan.bytes_per_label:,} bytes per image and epoch (codec `{plan.codec}`{kept}). Read back, the "
            f"probabilities are off by a mean KL divergence of {d.labels.error.kl_1:.2g} at temperature 1 and "
            f"{d.labels.error.kl_20:.2g} at 20, no centred logit by more than {d.labels.error.max_abs:.2g}. "
            f"{_VIEWS[plan.views]}"
        )
    if d.labels.kind == "online":
        yield (
            "\nTraining is told what the teacher in `teacher/` makes of augmented views of the images, which attar "
            "replays by what `attar.json` says under `labels.views`; the teacher counts towards the size."
        )


def _making(d: Description) -> Iterator[str]:
    yield "## How it was made\n"
    summary = f" ({_text(d.summary)})" if d.summary else ""
    paper = f", after {_text(d.paper)}" if d.paper else ""
    yield f"Method: **{_text(d.method)}**{summary}{paper}, by attar {_text(d.attar_version)}."
    if command := d.command or _command(d):
        yield f"\n{_fenced('sh', command)}"
    if d.settings:
        yield "\n<details><summary>settings.yaml</summary>\n"
        yield f"{_fenced('yaml', yaml_text(d.settings))}\n\n</details>"


def _command(d: Description) -> str:
    if d.ipc is None or d.seed is None or not d.source.name:
        return ""
    flags = ["--method", d.method, "--ipc", str(d.ipc), "--seed", str(d.seed)]
    flags += ["--precision", d.precision] if d.precision else []
    flags += ["--recipe", "settings.yaml"] if d.settings else []
    return " ".join(shlex.quote(word) for word in ("attar", "distill", d.source.name, *flags))


def _fenced(language: str, text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _limits(d: Description) -> Iterator[str]:
    task = d.task
    yield "## Limits\n"
    yield (
        f"- Made for telling these {len(task.class_names)} classes apart at {task.width_px}×{task.height_px} "
        f"px ({'grey' if task.channels == 1 else 'RGB'}); nothing is known of other tasks and resolutions."
    )
    yield "- Distilled images favour the architecture that they were made with; others may gain less."
    yield "- For training only: a score on these images measures nothing, and the eye is no judge of them."
    yield "- What is wrong or skewed in the source is so here too, and so small a set misses rare cases."
    if left_out := d.source.left_out:
        names = ", ".join(_text(name) for name in left_out.names[:_MOST_NAMES])
        more = f" and {left_out.num - _MOST_NAMES:,} more" if left_out.num > _MOST_NAMES else ""
        yield f"- {_images(left_out.num).capitalize()} of the source could not be read and stayed out: {names}{more}."


def _rights(d: Description) -> Iterator[str]:
    source = d.source
    yield "## Licence\n"
    if source.licence:
        named = f", {_text(source.name)}," if source.name else ""
        yield f"The source{named} has the licence: {_text(source.licence)}."
    else:
        yield "The licence of the source was not given. Find it out before you share these images."


def _size_parts(d: Description) -> str:
    images = "float images" if d.pixels == "float32" else "PNG images"
    parts = [f"{_bytes(d.sizes.images)} of {images}", f"{_bytes(d.sizes.labels)} of labels"]
    if d.sizes.teacher:
        parts.append(f"{_bytes(d.sizes.teacher)} of teachers")
    if d.sizes.whitening:
        parts.append(f"{_bytes(d.sizes.whitening)} of whitening")
    return ", ".join(parts)


def _images(num: int) -> str:
    return f"{num:,} image{'' if num == 1 else 's'}"


def _bytes(num: int) -> str:
    if num < 1000:
        return f"{num} bytes"
    for unit, size in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if num < 999.5 * size:
            return f"{num / size:.3g} {unit}"
    return f"{num / 1e9:,.0f} GB"


def _text(value: str) -> str:
    """Make any text one line of Markdown that shows as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|~&$#!])", r"\\\1", " ".join(value.split()))
