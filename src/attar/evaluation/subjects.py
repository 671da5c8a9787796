"""What networks are trained on to judge a distilled set: its images, and real ones that they are compared with.

All with the same labels, schedule and augmentation, but that of images which hold others (pca) one is seen at a time;
where the distilled images have soft labels, the same teacher labels the real ones.

    distilled    the images
    random       real images at the same count of each class, drawn anew for each seed
    herding, kcenter, kmeans, easy    real images at the same count, chosen as those methods do
    full         the whole training split, with its own labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attar.artifacts.distilled import Distilled
from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.data.loading import RealSet, TrainingSet, kept
from attar.errors import ConfigError, DataError
from attar.evaluation.trials import Source, Subject, distilled_subject, full_subject, random_subject
from attar.methods import method as method_named
from attar.methods.choosing import ByFeatures, ClassByClass
from attar.results.records import Labels
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import sha256
from attar.runtime.seeding import generator
from attar.training.loop import TrainSettings
from attar.training.soft import Teacher, labelled_by

PLAIN = {"augment": "none", "cutmix": 0.0, "mixup": 0.0, "cutout_px": 0, "randaugment": 0}
"""Settings of a training on images as they are."""


class Subjects:
    """Makes the subjects of one evaluation.

    Args:
        distilled: what is judged.
        source: the real images.
        training: schedule and augmentation of those that are as small as the distilled set.
        engine: where labels are made.
        events: progress.
        teacher: labels real images where the distilled ones have soft labels, and those where they are made in
            training; None: real images have hard labels only.
    """

    def __init__(
        self,
        distilled: Distilled,
        source: Source,
        training: TrainSettings,
        engine: Engine,
        events: Events,
        teacher: Teacher | None,
    ) -> None:
        self._distilled, self._source, self._training = distilled, source, training
        self._engine, self._events, self._teacher = engine, events, teacher
        self._real = RealSet(source.train, distilled.task.normalization)
        self._chosen = cache(self._choose)

    def distilled(self, kinds: Sequence[Labels]) -> list[Subject]:
        """The distilled images with each of these kinds of labels."""
        return [
            distilled_subject(self._distilled, self._training, kind, self._engine, self._teacher, name)
            for kind, name in _named("distilled", kinds)
        ]

    def real(self, name: str, kinds: Sequence[Labels]) -> list[Subject]:
        """Real images at the same count, random or chosen as the coreset `name` does, with what labels can be had.

        Making them raises DataError where a class has too few.
        """
        known: Sequence[Labels] = kinds if self._teacher else ["hard"]
        made = [
            random_subject(self._distilled, self._source, self._training, self._engine, self._teacher_of(kind), subject)
            for kind, subject in _named(name, known)
        ]
        return made if name == "random" else [self._chosen_instead(name, subject) for subject in made]

    def full(self, training: TrainSettings, epochs: int) -> Subject:
        """The whole training split, with this schedule over this many epochs."""
        warmup = min(training.warmup_epochs, epochs - 1)
        longer = training.model_copy(update={"epochs": epochs, "warmup_epochs": warmup})
        return full_subject(self._distilled, self._source, longer)

    def not_augmented(self, subject: Subject) -> Subject:
        """The same without augmentation; labels by epoch are made anew, of the image as it is.

        Raises ConfigError where that needs a teacher and there is none.
        """
        views = self._distilled.label_kind in ("epochs", "online") and subject.labels == "soft"
        if views and self._teacher is None:
            raise ConfigError(
                "labels are of augmented views, and there is no teacher to label the images as they are",
                expected="a distilled dataset in the run that made it, or with its teacher",
            )
        return replace(
            subject,
            name=f"{subject.name}, not augmented",
            augmented=False,
            settings=subject.settings.model_copy(update=PLAIN),
            make=lambda seed: self._plain(subject.make(seed), subject.tiles) if views else subject.make(seed),
            identity=[subject.identity, "not augmented"],
        )

    def _plain(self, data: TrainingSet, tiles: int) -> TrainingSet:
        teacher = self._teacher
        assert teacher is not None
        whole = ViewSettings(min_scale=1.0, flip=False, mix="none")
        views = Views(whole, 0, len(data), self._distilled.task.shape, tiles)
        return ReplayedSet(data.images, data.labels, views, teacher.logits, self._engine.device)

    def _teacher_of(self, kind: Labels) -> Teacher | None:
        return self._teacher if kind == "soft" else None

    def _chosen_instead(self, name: str, subject: Subject) -> Subject:
        teacher = self._teacher_of(subject.labels)
        if chosen_by_teacher(name) and self._guide() is None:
            raise ConfigError(
                f"{name} chooses by what a teacher says of each image, and there is none",
                expected="a distilled dataset in a run with a teacher, or with its teacher",
                fix=f"leave {name} out of evaluate.baselines, or make it: attar distill SOURCE --method {name}",
            )

        def make(seed: int) -> TrainingSet:
            data = kept(self._real, self._chosen(name, seed))
            return data if teacher is None else labelled_by(teacher, data, self._distilled.views, self._engine.device)

        return replace(subject, group=name, make=make, identity=[name, self._features_by(), subject.identity])

    def _choose(self, name: str, seed: int) -> Tensor:
        """Indices int64 (n,) of the chosen real images, class by class; most choices are the same for each seed."""
        task = self._distilled.task
        counts = self._distilled.labels.bincount(minlength=task.num_classes).tolist()
        coreset, guide = coreset_named(name, task), self._guide()
        picked = []
        with self._events.progress(f"choosing by {name}", task.num_classes) as bar:
            for label, count in enumerate(counts):
                members = self._real.indices_of(label)
                if len(members) < count:
                    raise DataError(
                        f"class {task.class_names[label]!r} has {len(members)} real training images, the distilled set "
                        f"{count}",
                        expected="at least as many real images, to compare at the same count",
                        fix=f"a lower --ipc, or leave {name} out of evaluate.baselines",
                    )
                if count:
                    rng = generator(seed, "evaluate", name, label)
                    picked.append(
                        members[coreset.select(coreset.measured(members, label, self._real, guide), count, rng)]
                    )
                bar.advance()
        return torch.cat(picked)

    def _guide(self) -> Any:
        """The teacher that images are chosen by; None, which stands for pixels, where it has no features."""
        return self._teacher if hasattr(self._teacher, "features") else None

    def _features_by(self) -> Any:
        """Whose features tell real images apart."""
        if not hasattr(self._teacher, "features"):
            return "pixels"
        return [sha256(path) for path in getattr(self._teacher, "paths", ())]


def chosen_by_teacher(name: str) -> bool:
    """Whether the coreset chooses by what a teacher says of each image, not by features, which may be pixels."""
    return not issubclass(method_named(name), ByFeatures)


def coreset_named(name: str, task: Any) -> ClassByClass[Any, Any]:
    """A coreset method, to choose with; its images per class are those that are asked for."""
    kind = method_named(name)
    made = kind(kind.Settings(), task, 1)
    assert isinstance(made, ClassByClass)
    return made


def _named(name: str, kinds: Sequence[Labels]) -> list[tuple[Labels, str]]:
    """The kinds of labels, each once, with the subject's name: of the first it is the name alone."""
    return [(kind, f"{name}, {kind} labels" if i else name) for i, kind in enumerate(dict.fromkeys(kinds))]
