"""The training loop: any network, any training set, any strategy; resumable to the same bits.

Order of the images, augmentation and dropout are functions of (seed, "train", epoch, step), so that nothing
but weights, optimiser state and losses is kept in a checkpoint. The last epoch counts, never the best.

Several processes may share each batch: every one looks at its part, and all take the step of the mean gradient. See
`distributed.py` for what they tell each other, `Part` for who has what.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.augment.replayed import ReplayedSet
from attar.config import differences
from attar.data.loading import TrainingSet
from attar.errors import ArtifactError, DataError
from attar.items import Item
from attar.models.parts import in_parts
from attar.runtime.checkpoint import prefixed, read_tensors, unprefixed, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import sha256
from attar.runtime.memory import enough_memory
from attar.runtime.seeding import generator, scoped
from attar.runtime.team import Team
from attar.training.averaging import Average
from attar.training.distortion import Distortion
from attar.training.distributed import (
    Gradients,
    average_statistics,
    require_enough,
    synchronize_norms,
    unused_parameters,
)
from attar.training.feeding import Feed, require_logits, require_replayable, view_epochs
from attar.training.label_noise import wrong_labels
from attar.training.losses import Losses, diverged
from attar.training.optimizers import give_state, take_state
from attar.training.settings import TrainSettings, learning_rate, make_optimizer
from attar.training.strategies import Batch, Part, Teaches, identity, make_strategy

__all__ = ["FitResult", "TrainSettings", "TrainingSet", "accuracy", "check", "confusion", "fit"]

CHECKPOINT_EVERY_S = 20.0
MAX_EVENTS = 100
TESTED = 512
"""Images that a network is tested on at once."""


@dataclass(frozen=True)
class FitResult:
    """What a training leaves beside the network."""

    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    label_noise: Mapping[str, Any] | None = None
    """How many labels were wrong, of which kind, and a hash of which and how; None: none was."""


def fit(
    model: nn.Module,
    data: TrainingSet,
    settings: TrainSettings,
    *,
    seed: int,
    engine: Engine,
    events: Events | None = None,
    name: str = "train",
    item: Item | None = None,
    stage: str = "train",
    checkpoint: Path | None = None,
    after_epoch: Callable[[int], None] | None = None,
    teacher: Teaches | None = None,
    team: Team | None = None,
) -> FitResult:
    """Train `model` in place, on the engine's device, and leave it there in evaluation mode.

    Args:
        model: gives logits (b, classes) for normalised images (b, c, h, w).
        data: images and targets; hard or soft. A ReplayedSet brings its own augmentation, and that of the settings
            is not applied.
        settings: schedule, augmentation, strategy.
        seed: with epoch and step, the source of all randomness. Weights are the caller's.
        engine: device and precision.
        events: log of at most about 100 `epoch` events, and progress; None for neither.
        name: names the training in progress, events and errors.
        item: what its events are of, with a name of its own; None: a network of that name.
        stage: of the events: who trains.
        checkpoint: file written about every 20 s, after the last epoch, and resumed from where it exists.
        after_epoch: called with the number of finished epochs (1 first) before a checkpoint can hold them, while the
            network has the weights that it would be left with then; a resumed training may call it again for an
            epoch, with the same weights.
        teacher: who teaches, for the strategy kd.
        team: the processes that share every batch, each of which calls this with the same arguments; the first writes
            the checkpoint, which all read. None: this one trains alone.

    Raises ConfigError where strategy, network, data and number of processes do not go together, before any step;
    DivergedError where a loss or weight is not finite (the checkpoint stays at the last good state), ResourceError
    where memory does not suffice, ArtifactError where the checkpoint is another training's, AttarError where another
    process is gone.
    """
    item = item or Item(name)
    name = item.name
    if not len(data):
        raise DataError(f"there are no images to train {name} on", expected="at least one image")
    events = events or Events(quiet=True)
    fix = "lower batch_size and raise accumulate alike, or lower the model's width or depth, or the --resolution"
    with enough_memory(f"training {name} with batches of {settings.batch_for(len(data))}", fix):
        team = team or Team()
        training = _Training(model, data, settings, seed, engine, events, item, stage, checkpoint, teacher, team)
        try:
            training.run(after_epoch)
        finally:
            training.release()
    return FitResult(tuple(training.losses.means), training.noise.to_json() if training.noise else None)


def accuracy(
    model: nn.Module,
    data: TrainingSet,
    engine: Engine,
    batch_size: int = TESTED,
    *,
    events: Events | None = None,
    name: str = "test",
    team: Team | None = None,
) -> float:
    """Percentage (0..100) of the images whose highest logit is their class; leaves the model in eval mode.

    The processes of a team share the images, and all get the same number.
    """
    right = torch.zeros((), dtype=torch.int64, device=engine.device)

    def look(labels: Tensor, predicted: Tensor) -> None:
        right.add_((predicted == labels).sum())

    _look_through(model, data, engine, batch_size, look, events, name, team)
    return 100 * int((team or Team()).total(right)) / len(data)


def confusion(
    model: nn.Module,
    data: TrainingSet,
    num_classes: int,
    engine: Engine,
    batch_size: int = TESTED,
    *,
    events: Events | None = None,
    name: str = "test",
    team: Team | None = None,
) -> Tensor:
    """How many images of each class were taken for which: int64 (classes, classes), the true class first, on the CPU.

    Its trace over its sum is the accuracy. The network has `num_classes` logits and is left in eval mode; the processes
    of a team share the images, and all get the same counts.
    """
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=engine.device)

    def look(labels: Tensor, predicted: Tensor) -> None:
        cells = labels * num_classes + predicted
        counts.index_add_(0, cells, torch.ones_like(cells))

    _look_through(model, data, engine, batch_size, look, events, name, team)
    return (team or Team()).total(counts).cpu().view(num_classes, num_classes)


def _look_through(
    model: nn.Module,
    data: TrainingSet,
    engine: Engine,
    batch_size: int,
    look: Callable[[Tensor, Tensor], None],
    events: Events | None,
    name: str,
    team: Team | None,
) -> None:
    """Call `look` with the classes of each batch of this process, int64 (b,), and what the network takes them for."""
    if not len(data):
        raise DataError("there are no images to measure accuracy on", expected="at least one image")
    model.to(engine.device).eval()
    team = team or Team()
    parts = torch.split(torch.arange(len(data)), batch_size)[team.rank :: team.num]
    quiet = events is None or len(parts) < 8
    shown = Events(quiet=True) if quiet or events is None else events
    with (
        torch.inference_mode(),
        enough_memory(f"testing with batches of {batch_size}", "choose a smaller model or --resolution"),
        shown.progress(name, len(parts)) as bar,
    ):
        for indices, images, _ in Feed(data, engine, replay=False).batches(0, parts):
            with engine.autocast():
                laid = images.contiguous(memory_format=_memory_format("auto", model, engine))
                predicted = in_parts(model, laid).argmax(1)
            look(data.labels[indices].to(engine.device), predicted)
            bar.advance()


def check(
    model: nn.Module, data: TrainingSet, settings: TrainSettings, engine: Engine, teacher: Teaches | None = None
) -> None:
    """Raise ConfigError where `fit` would, before its first step: what does not go together."""
    training = _Training(
        model, data, settings, 0, engine, Events(quiet=True), Item("check"), "train", None, teacher, Team()
    )
    training.release()


def _hard(settings: TrainSettings) -> TrainSettings:
    """The settings of epochs on hard labels among those on soft ones."""
    return settings.model_copy(
        update={"label_smoothing": settings.hard_smoothing, "cutmix": settings.hard_cutmix, "mixup": 0.0}
    )


class _Training:
    def __init__(
        self,
        model: nn.Module,
        data: TrainingSet,
        settings: TrainSettings,
        seed: int,
        engine: Engine,
        events: Events,
        item: Item,
        stage: str,
        checkpoint: Path | None,
        teacher: Teaches | None,
        team: Team,
    ) -> None:
        self.data, self.settings, self.seed, self.engine, self.team = data, settings, seed, engine, team
        self.events, self.item, self.stage, self.checkpoint = events, item, stage, checkpoint
        self.noise = wrong_labels(data, settings, seed)
        self.distortion = Distortion(settings, seed, getattr(data, "normalization", None))
        self.layout = _memory_format(settings.memory_format, model, engine)
        self.model = model.to(engine.device).to(memory_format=self.layout)
        self.teacher = teacher
        self.strategy = make_strategy(settings, len(data))
        self.strategy.join(team)
        self.strategy.meet(self.noise.labels if self.noise else data.labels)
        require_enough(self.strategy, team)
        require_replayable(data, self.strategy, settings.strategy)
        require_logits(data, settings.soft_loss)
        self.unused = unused_parameters(self.model, self._example()) if team.num > 1 else []
        with scoped(seed, "train", "strategy"):
            self.strategy.prepare(self.model, self._example, teacher)
        self.restore_norms = synchronize_norms(self._trained(), settings, engine, team)
        self.optimizer = make_optimizer(self._trained(), settings)
        self.average = Average(self.model, settings.ema)
        self.scaler = torch.amp.GradScaler(engine.device.type, enabled=engine.precision == "16-mixed")
        self.feed = Feed(data, engine)
        self.hard = _hard(settings) if settings.hard_epochs and isinstance(data, ReplayedSet) else None
        if self.hard:
            self.hard_feed = Feed(data, engine, replay=False)
            self.hard_distortion = Distortion(self.hard, seed, getattr(data, "normalization", None))
        self.losses = Losses(item.name, settings, team)
        self.epoch = 0
        """Finished epochs."""

    def run(self, after_epoch: Callable[[int], None] | None) -> None:
        self._resume()
        self.gradients = self._gradients()
        if self.noise:
            self.events.emit(self.stage, "label_noise", **self.item.fields(), step=0, **self.noise.to_json())
        saved_s = time.monotonic()
        if self.epoch < self.settings.epochs:
            with self.events.progress(self.item.name, self.settings.epochs, self.epoch) as bar:
                self.losses.show_on(bar, self.epoch)
                while self.epoch < self.settings.epochs:
                    self._train_epoch()
                    self._report()
                    if after_epoch is not None:
                        self.losses.read()
                        with self.average.applied():
                            after_epoch(self.epoch)
                    if self.team.tell(time.monotonic() - saved_s >= CHECKPOINT_EVERY_S):
                        self._save()
                        saved_s = time.monotonic()
            self._require_finite_weights()
            self._save()
        self.average.apply()
        self.model.eval()

    def release(self) -> None:
        """Undo what training did to the network beside its weights."""
        self.restore_norms()
        self.strategy.release()

    def _gradients(self) -> Gradients:
        def loss(batch: Batch) -> Tensor:
            return self.strategy.loss(self.model, batch)

        return Gradients(self._trained(), loss, self.engine, self.team, self.unused)

    def _train_epoch(self) -> None:
        epoch = self.epoch
        if not self.model.training:
            self.model.train()
        order = self.strategy.batches(epoch, generator(self.seed, "train", "order", epoch))
        own = (self.team.rank,) if self.team.num > 1 else ()
        with scoped(self.seed, "train", "layers", epoch, *own), closing(self._batches(epoch, order)) as batches:
            for step, batch in enumerate(batches):
                self._look(epoch, step, order, batch)
        self.strategy.synchronize()
        average_statistics([self._trained().state_dict(), self.average.state()], self.team)
        self.epoch += 1
        self.losses.num_finished = self.epoch

    def _batches(self, epoch: int, order: list[Part]) -> Generator[Batch | None, None, None]:
        """This process's part of every batch; None where it has none of the images."""
        parts = [part.indices for part in order]
        hard = self._is_hard(epoch)
        self.strategy.settings = self.hard if hard and self.hard else self.settings
        feed = self.hard_feed if hard else self.feed
        shown = self.settings.soft_epoch(epoch) if self.hard and not hard else epoch
        views = () if hard else view_epochs(self.data, self.strategy, shown, parts)
        mine = [k for k, part in enumerate(parts) if len(part)]
        asked = [parts[k] for k in mine], [views[k] for k in mine] if views else ()
        with closing(feed.batches(shown, *asked)) as fed:
            for step, part in enumerate(order):
                yield self._batch(epoch, step, part, *next(fed)[1:]) if len(part.indices) else None

    def _batch(self, epoch: int, step: int, part: Part, images: Tensor, targets: Tensor) -> Batch:
        indices = part.indices
        num_of_all, rows = (part.num, part.rows) if self.team.num > 1 else (None, None)
        hard = self._is_hard(epoch)
        if isinstance(self.data, ReplayedSet) and not hard:
            images = images.contiguous(memory_format=self.layout)
            return Batch(epoch, step, indices, targets, lambda _: images, True, None, num_of_all, rows)
        if self.noise:
            targets = self.noise.labels[indices].to(targets.device)
        distortion = self.hard_distortion if hard else self.distortion
        mix = distortion.mix(self.strategy.groups(epoch, step, len(indices)), *images.shape[2:])

        @cache
        def view(which: int) -> Tensor:
            shown = distortion.view(images, epoch, step, which, mix, part)
            return shown.contiguous(memory_format=self.layout)

        return Batch(epoch, step, indices, targets, view, False, mix, num_of_all, rows)

    def _is_hard(self, epoch: int) -> bool:
        """Whether views and their labels are left out in this epoch, for the images and their classes."""
        return self.hard is not None and self.settings.is_hard(epoch)

    def _look(self, epoch: int, step: int, order: list[Part], batch: Batch | None) -> None:
        """Take a batch, and at the last of `accumulate` of them a step of the optimiser."""
        every, num_steps = self.settings.accumulate, len(order)
        if step % every == 0:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.settings, epoch + step / num_steps)
            self.optimizer.zero_grad(set_to_none=True)
        num_together = min(every, num_steps - step + step % every)
        is_last = (step + 1) % every == 0 or step + 1 == num_steps

        def scale(loss: Tensor) -> Tensor:
            return self.scaler.scale(loss / num_together if num_together > 1 else loss)

        loss = self.gradients.add(batch, order[step], scale, exchange=is_last)
        if is_last:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.average.update()
        self.losses.add(epoch, step, order[step].num, loss)
        if step == 0:
            self.strategy.synchronize()

    def _example(self) -> Tensor:
        """One image (1, c, h, w), on the device."""
        return self.data.images(torch.tensor([0])).to(self.engine.device)

    def _trained(self) -> nn.Module:
        """All that the optimiser moves."""
        extra = self.strategy.extra
        return self.model if extra is None else nn.ModuleList([self.model, extra.train()])

    def _report(self) -> None:
        every = math.ceil(self.settings.epochs / MAX_EVENTS)
        if self.epoch % every and self.epoch != self.settings.epochs:
            return
        self.losses.read()
        rate = self.optimizer.param_groups[0]["lr"]
        self.events.emit(
            self.stage,
            "epoch",
            **self.item.fields(),
            step=self.epoch,
            loss=self.losses.means[-1],
            learning_rate=rate,
        )

    def _require_finite_weights(self) -> None:
        if not bool(torch.stack([p.detach().isfinite().all() for p in self.model.parameters()]).all()):
            raise diverged(self.item.name, "a weight is no longer finite after the last step", self.settings)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self.losses.read()
        remembered = self._remembered()
        if not self.team.leads:
            return
        moments, numbers = take_state(self.optimizer)
        tensors = prefixed("model.", self.model.state_dict()) | remembered | prefixed("optimizer.", moments)
        tensors |= prefixed("average.", self.average.state())
        if self.strategy.extra is not None:
            tensors |= prefixed("extra.", self.strategy.extra.state_dict())
        note = {"made_by": self._made_by(), "epoch": self.epoch, "losses": self.losses.means}
        note |= {"scaler": self.scaler.state_dict(), "averaged_steps": self.average.num_steps}
        note |= {"optimizer": numbers} if numbers else {}
        write_tensors(self.checkpoint, tensors, note)

    def _remembered(self) -> dict[str, Tensor]:
        """What the strategies of all processes remember, by their names in the checkpoint."""
        found = prefixed("strategy.", self.strategy.common())
        for rank, memory in enumerate(self.team.collect(self.strategy.memory())):
            found |= prefixed(self._own_memory(rank), memory)
        return found

    def _own_memory(self, rank: int) -> str:
        """Prefix of what the strategy of one process remembers."""
        return f"strategy-{rank}." if self.team.num > 1 else "strategy."

    def _resume(self) -> None:
        if self.checkpoint is not None and self.checkpoint.exists():
            self._take_up(self.checkpoint)
        self.team.require_same(self.epoch, "the epoch to go on at")

    def _take_up(self, checkpoint: Path) -> None:
        tensors, note = read_tensors(checkpoint)
        require_made_by(checkpoint, note, self._made_by())
        try:
            self.model.load_state_dict(unprefixed(tensors, "model."))
        except RuntimeError as error:
            raise ArtifactError(
                f"{checkpoint} holds the weights of another network",
                fix="delete it, or start over with --fresh",
            ) from error
        if self.strategy.extra is not None:
            self.strategy.extra.load_state_dict(unprefixed(tensors, "extra."))
        give_state(self.optimizer, unprefixed(tensors, "optimizer."), note.get("optimizer", {}))
        self.strategy.restore(unprefixed(tensors, "strategy.") | unprefixed(tensors, self._own_memory(self.team.rank)))
        self.average.restore(unprefixed(tensors, "average."), int(note["averaged_steps"]))
        self.scaler.load_state_dict(note["scaler"])
        self.epoch = int(note["epoch"])
        self.losses.means = [float(loss) for loss in note["losses"]]

    def _made_by(self) -> dict[str, Any]:
        made_by = {"train": identity(self.settings), "seed": self.seed, "num_images": len(self.data)}
        taught_by = [sha256(path) for path in getattr(self.teacher, "paths", ())]
        made_by |= {"teacher": taught_by} if taught_by else {}
        return made_by | ({"processes": self.team.num} if self.team.num > 1 else {})


def require_made_by(checkpoint: Path, note: Mapping[str, Any], made_by: dict[str, Any]) -> None:
    """Raise ArtifactError where a checkpoint's note says that another training made it."""
    if changed := differences(note.get("made_by", {}), made_by):
        raise ArtifactError(
            f"{checkpoint} is the checkpoint of another training:\n" + "\n".join(f"  - {change}" for change in changed),
            expected="the settings, seeds, number of images and of processes that it was made with",
            fix="delete it, or start over with --fresh",
        )


def _memory_format(asked: str, model: nn.Module, engine: Engine) -> torch.memory_format:
    """What `train.memory_format` means for a network: on a processor the norm decides which layout is quicker."""
    if asked == "auto":
        batch_normed = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        asked = "channels_last" if engine.device.type == "cuda" or batch_normed else "contiguous"
    return torch.channels_last if asked == "channels_last" else torch.contiguous_format
