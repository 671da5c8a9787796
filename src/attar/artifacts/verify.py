"""Is a distilled dataset as it was written, and does it say the truth about itself? Needs no torch.

Works on damaged and hostile folders: each problem becomes a line, and nothing of them is run or unpickled.
A file whose bytes are not those written is told once and not looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from attar.artifacts import description as about
from attar.artifacts.agreement import (
    class_problems,
    decoded_problems,
    label_settings_problems,
    teacher_problems,
    view_problems,
)
from attar.artifacts.arrays import Array, StoredRows
from attar.artifacts.card import README, class_names
from attar.artifacts.checks import image_problems, label_problems, measure, soft_label_problems
from attar.artifacts.checksums import NAME as SUMS
from attar.artifacts.checksums import damage, files_of, read_sums
from attar.artifacts.description import WHITENING, Classes, Description, Scale, locate, read_description
from attar.artifacts.labelling import stored_plan
from attar.artifacts.parquet import Bytes8, Integers, quantise, read_shard
from attar.artifacts.whitening import OTHER_MATRIX, fingerprint, inverse, read_whitening, unwhiten
from attar.errors import ArtifactError, AttarError
from attar.labels.checks import view_problems as stored_view_problems
from attar.labels.plan import VIEW, LabelPlan
from attar.labels.shards import VIEWS, OpenShard, QuantizationError, open_shard
from attar.visible import visible


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found: one line for each problem; how many files there are, and their bytes in all."""

    path: Path
    problems: list[str]
    files: int
    bytes: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(path: Path | str) -> VerifyReport:
    """Check a distilled dataset: every byte, the schema of every file, and whether their values agree.

    Args:
        path: the dataset's folder, or a run folder that holds one as `distilled/`.

    Raises:
        ArtifactError: there is no such folder, or it holds something else. All else is told in the report.
    """
    folder = locate(path)
    inspection = _Inspection(folder)
    if not {about.NAME, README, SUMS}.intersection(inspection.names):
        raise ArtifactError(
            f"{folder} is no distilled dataset: it has neither {about.NAME} nor {SUMS}",
            expected="the folder of a distilled dataset, or a run folder that holds one as distilled/",
            fix="give the folder that `attar distill` wrote",
        )
    inspection.run()
    files = [folder / name for name in inspection.names if (folder / name).is_file()]
    problems = [_printable(problem) for problem in inspection.problems]
    return VerifyReport(folder, problems, len(files), sum(file.stat().st_size for file in files))


class _Inspection:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.names = files_of(folder)
        self.intact: set[str] = set(self.names)
        """Files that are worth looking into."""
        self.undo_whitening: Callable[[Array], Array] | None = None

    def run(self) -> None:
        known = self.check_bytes()
        self.require(known, about.NAME, README)
        if about.NAME in self.intact:
            with self.telling(about.NAME):
                self.check_content(known, read_description(self.folder))

    @contextmanager
    def telling(self, name: str) -> Iterator[None]:
        """Turn whatever a damaged file makes its reader raise into one line."""
        try:
            yield
        except AttarError as error:
            self.problems.append(error.found)
        except Exception as error:  # readers of hostile bytes raise nearly anything
            self.problems.append(f"{name} cannot be read: {type(error).__name__}: {error}")

    def require(self, known: set[str], *names: str) -> None:
        self.problems += [f"{name} is missing" for name in names if name not in known]

    def check_bytes(self) -> set[str]:
        """Compare files and sums; return all names that are there or have been told to be missing."""
        try:
            sums = read_sums(self.folder)
        except AttarError as error:
            self.problems.append(error.found)
            return set(self.names)
        told = {name: damage(self.folder, name, sums) for name in sorted({*self.names, *sums})}
        self.problems += [problem for problem in told.values() if problem]
        self.intact = {name for name, problem in told.items() if problem is None}
        return set(told)

    def check_content(self, known: set[str], description: Description) -> None:
        files = description.files
        self.require(known, *files.every())
        self.problems += label_settings_problems(description) + view_problems(description)
        self.check_whitening(description)
        self.check_images(description)
        self.check_soft_labels(description)
        self.check_stored_labels(description)
        for name in filter(self.intact.__contains__, files.teacher):
            with self.telling(name):
                self.problems += teacher_problems(self.folder / name, description.task)
        if self.intact.issuperset(files.every()):
            with self.telling("the size of the data"):
                self.check_sizes(description)
        if README in self.intact:
            with self.telling(README):
                self.check_card(description)

    def check_images(self, description: Description) -> None:
        """Check the float images, where there are some, then the parquet shards, and whether they show the same."""
        task, names = description.task, description.files.images
        floats = self.sound_floats(description)
        ids, unlike, num_read = list[Integers](), list[int](), 0
        labels = list[Integers]()
        for name in filter(self.intact.__contains__, names):
            with self.telling(name):
                labels.append(self.check_shard(name, task, ids, floats, unlike))
                num_read += 1
        if num_read < len(names):
            return
        places = np.concatenate([np.zeros(0, np.int64), *ids])
        if len(places) != description.num_images:
            self.problems.append(f"data/ holds {len(places)} images, {about.NAME} says {description.num_images}")
        elif (places != np.arange(len(places))).any():
            self.problems.append("the image_ids in data/ are not 0, 1, 2 and on, in order")
        every = np.concatenate([np.zeros(0, np.int64), *labels])
        if not label_problems(every, len(task.class_names)):
            self.problems += class_problems(description, every)
        if floats and unlike and len(places) == len(floats):
            self.problems.append(
                f"{len(unlike)} of {len(floats)} previews in data/ differ from their float images, "
                f"the first is {unlike[0]}"
            )

    def check_shard(
        self, name: str, task: Classes, ids: list[Integers], floats: StoredRows | None, unlike: list[int]
    ) -> Integers:
        """Check one shard, block by block; add its image ids to `ids`, and to `unlike` what its floats do not show.

        Returns its labels (n,).
        """
        labels, names, first = list[Integers](), task.class_names, sum(map(len, ids))
        for block in read_shard(self.folder / name, (task.channels, task.height_px, task.width_px)):
            rows = None if floats is None else floats[first : first + len(block.pixels)]
            if rows is not None and len(rows) == len(block.pixels):
                unlike += (self.unlike(rows, block.pixels, task.normalization) + first).tolist()
            labels.append(block.labels)
            ids.append(block.image_ids)
            names, first = block.class_names, first + len(block.pixels)
        if names != task.class_names:
            self.problems.append(_order(name, names, task.class_names))
        every: Integers = np.concatenate([np.zeros(0, np.int64), *labels])
        self.problems += [f"{name}: {p}" for p in label_problems(every, len(task.class_names))]
        return every

    def sound_floats(self, description: Description) -> StoredRows | None:
        """The float images, where there are some and nothing is wrong with their values."""
        task, names = description.task, description.files.pixels
        rows = self.open_rows(names, "images", "F32", (task.channels, task.height_px, task.width_px))
        if rows is None or description.image_range is None:
            return None
        found = self.check_count("pixels-*.safetensors", rows, description)
        found += image_problems(rows, *description.image_range)
        self.problems += found
        return None if found else rows

    def check_whitening(self, description: Description) -> None:
        """Check the matrix that the images were whitened by, and keep what undoes it."""
        task, named = description.task, description.task.normalization.whitening
        if named is None or WHITENING not in self.intact:
            return
        size = task.channels * task.height_px * task.width_px
        with self.telling(WHITENING):
            mean, triangle = read_whitening(self.folder, size)
            undo = inverse(triangle, size)
            if fingerprint(mean, triangle) == named.fingerprint:
                self.undo_whitening = partial(unwhiten, mean=mean, undo=undo)
            else:
                self.problems.append(OTHER_MATRIX)

    def unlike(self, rows: Array, previews: Bytes8, scale: Scale) -> Array:
        """Places of the float images that their previews do not show."""
        if scale.whitening is None:
            off = quantise(rows, scale.mean, scale.std) != previews
        elif self.undo_whitening is None:
            off = np.zeros(previews.shape, bool)
        else:
            channels = len(scale.mean)
            shown = quantise(self.undo_whitening(rows), (0.0,) * channels, (1.0,) * channels)
            off = np.abs(shown.astype(int) - previews) > 1  # sums of products round as the machine likes
        return np.flatnonzero(off.any(axis=(1, 2, 3)))

    def check_soft_labels(self, description: Description) -> None:
        names = description.files.soft_labels
        rows = self.open_rows(names, "soft_labels", "F16", (len(description.task.class_names),))
        if rows is not None:
            self.problems += self.check_count("labels-*.safetensors", rows, description)
            self.problems += soft_label_problems(rows[:])

    def check_stored_labels(self, description: Description) -> None:
        """Check headers, tables, stated error and every label of the shards."""
        with self.telling("the labels"):
            plan = stored_plan(description)
            if plan is None or description.labels.error is None:
                return
            errors = []
            for shard in plan.shards:
                if shard.name in self.intact:
                    with self.telling(shard.name):
                        opened = open_shard(self.folder, plan, shard)
                        errors.append(opened.error)
                        self.problems += decoded_problems(plan, opened, shard.first)
                        self.check_views(description, plan, opened)
            whole = len(errors) == len(plan.shards)
            if whole and QuantizationError.merge(errors).to_json() != description.labels.error.model_dump():
                self.problems.append(f"{about.NAME} states another error of the labels than their files do")

    def check_views(self, description: Description, plan: LabelPlan, shard: OpenShard) -> None:
        if plan.views:
            size = description.task.height_px, description.task.width_px
            views = shard.map(VIEWS).view(VIEW)[..., 0]
            self.problems += [f"{shard.path.name}: {p}" for p in stored_view_problems(views, plan.num_images, *size)]

    def check_count(self, name: str, rows: StoredRows, description: Description) -> list[str]:
        num = description.num_images
        return [] if len(rows) == num else [f"{name} holds {len(rows)} rows, {about.NAME} says {num} images"]

    def open_rows(self, names: tuple[str, ...], tensor: str, dtype: str, shape: tuple[int, ...]) -> StoredRows | None:
        """Rows of all shards, to be read, or None if there are none or one is not what it should be."""
        sound = []
        for name in filter(self.intact.__contains__, names):
            with self.telling(name):
                StoredRows([self.folder / name], tensor, dtype, shape)
                sound.append(self.folder / name)
        return StoredRows(sound, tensor, dtype, shape) if names and len(sound) == len(names) else None

    def check_sizes(self, description: Description) -> None:
        measured, said = measure(self.folder, description.files), description.sizes.model_dump()
        self.problems += [
            f"{about.NAME} says {said.get(kind, 0)} bytes of {kind}, there are {num}"
            for kind, num in measured.items()
            if said.get(kind, 0) != num
        ]

    def check_card(self, description: Description) -> None:
        found = class_names((self.folder / README).read_text("utf-8"))
        if found != description.task.class_names:
            self.problems.append(_order(README, found, description.task.class_names))


def _order(name: str, found: tuple[str, ...], expected: tuple[str, ...]) -> str:
    if len(found) != len(expected):
        return f"{name} names {len(found)} classes, {about.NAME} names {len(expected)}"
    place = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    return f"class {place} is {found[place]!r} in {name} and {expected[place]!r} in {about.NAME}"


def _printable(text: str) -> str:
    return visible(" ".join(text.split()))
