"""The real images' statistics at the input of every BatchNorm of some networks: one pass over the data for all of them.

    squeeze/statistics-NAME.safetensors          mean-00, var-00: (c,) of the first layer, and so on
    squeeze/class-statistics-NAME.safetensors    the same of each class, (classes, c)
    squeeze/checkpoint-statistics-NAME.safetensors    only while they are measured: sums, and how far they reach

Sums are float64 over batches of a constant size in an order of their own, so that the files of a network do not depend
on which others are measured with it, nor on who measures. Arithmetic of the networks is float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from attar.augment.views import Views, ViewSettings
from attar.data.loading import RealSet, batches
from attar.errors import ArtifactError
from attar.items import Item
from attar.losses.class_statistics import Grouping, LayerStatistics, Sums
from attar.models.norms import batch_norms
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events

BATCH = 256
CHECKPOINT_EVERY_S = 60.0


class Measuring:
    """Sums of the inputs of a network's BatchNorms over images that it is shown.

    Args:
        model: on the device of the images; put into evaluation mode and channels_last, where BatchNorm is quicker.
        num_classes: of the labels.
    """

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        self.model, self.num_classes = model.eval().to(memory_format=torch.channels_last), num_classes
        self.layers: dict[int, Sums] = {}
        self.num_batches = 0
        """Batches that are in the sums."""

    @torch.no_grad()
    def add(self, images: Tensor, labels: Tensor) -> None:
        """Show it images (b, c, h, w) of these classes (b,), the lowest first, on its device."""
        listen, norms = partial(self._listener, Grouping.of(labels)), batch_norms(self.model)
        hooks = [norm.register_forward_pre_hook(listen(at)) for at, norm in enumerate(norms)]
        try:
            self.model(images.contiguous(memory_format=torch.channels_last))
        finally:
            for hook in hooks:
                hook.remove()
        self.num_batches += 1

    def statistics(self) -> tuple[LayerStatistics, ...]:
        """Those of all images so far, layer by layer in the order of `batch_norms`, on the CPU."""
        return tuple(self.layers[at].statistics() for at in sorted(self.layers))

    def state(self) -> dict[str, Tensor]:
        """The sums by name."""
        named = {f"counts-{at}": sums.counts for at, sums in self.layers.items()}
        return named | {f"sums-{at}": sums.sums for at, sums in self.layers.items()}

    def restore(self, state: Mapping[str, Tensor], num_batches: int, device: torch.device) -> None:
        """Take back what `state` gave."""
        for key in state:
            if key.startswith("sums-"):
                sums = Sums(self.num_classes, state[key].shape[2], device)
                sums.sums.copy_(state[key])
                sums.counts.copy_(state[key.replace("sums-", "counts-")])
                self.layers[int(key.removeprefix("sums-"))] = sums
        self.num_batches = num_batches

    def _listener(self, images: Grouping, at: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def listen(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if at not in self.layers:
                self.layers[at] = Sums(self.num_classes, args[0].shape[1], args[0].device)
            self.layers[at].add(args[0], images)

        return listen


def measure(
    data: RealSet,
    models: Mapping[str, nn.Module],
    num_classes: int,
    *,
    min_scale: float,
    seed: int,
    folder: Path,
    engine: Engine,
    events: Events,
) -> None:
    """Measure and store the statistics of all images under networks, by name, on the engine's device.

    A pass that was stopped goes on, for each network where its own checkpoint says.

    Args:
        data: the real images.
        models: the networks, by the names of their files without the ending.
        num_classes: of the labels.
        min_scale: 1 shows whole images; below, each through one random crop of this part of the area or more.
        seed: of the crops.
        folder: where the files go.
        engine: the device.
        events: progress, and an event for each network.
    """
    measuring = {
        name: _resumed(model, num_classes, _checkpoint(folder, name), engine) for name, model in models.items()
    }
    order = data.labels.argsort(stable=True).split(BATCH)  # by class, as sums take them
    first = min((one.num_batches for one in measuring.values()), default=0)
    saved_s = time.monotonic()
    with events.progress("squeeze: statistics of the real images", len(order), first) as bar:
        shown = batches(_reader(data, min_scale, seed, engine), order[first:], prefetch=1)
        for at, (_, images, labels) in enumerate(shown, first):
            images, labels = images.to(engine.device), labels.to(engine.device)
            for one in measuring.values():
                if one.num_batches == at:
                    one.add(images, labels)
            bar.advance()
            if time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                for name, one in measuring.items():
                    write_tensors(_checkpoint(folder, name), one.state(), {"num_batches": one.num_batches})
                saved_s = time.monotonic()
    for name, one in measuring.items():
        _write(folder, name, one.statistics())
        _checkpoint(folder, name).unlink(missing_ok=True)
        events.emit("squeeze", "statistics", **Item(name).fields(), num_images=len(data))


def statistics_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Files of a network's statistics: over all images, and of each class."""
    return folder / f"statistics-{name}.safetensors", folder / f"class-statistics-{name}.safetensors"


def read_statistics(
    folder: Path, name: str, model: nn.Module, device: torch.device, classes: bool = False
) -> tuple[LayerStatistics, ...]:
    """Statistics under a network, layer by layer; raises ArtifactError where they are missing or another network's."""
    whole, by_class = statistics_paths(folder, name)
    tensors = read_tensors(whole)[0]
    of_class = read_tensors(by_class)[0] if classes else {}
    norms = batch_norms(model)
    wanted = [norm.running_mean.shape for norm in norms if isinstance(norm.running_mean, Tensor)]
    if [tensors.get(f"mean-{at:02d}", torch.empty(0)).shape for at in range(len(norms))] != wanted:
        raise ArtifactError(
            f"{whole} does not hold the statistics of {name}", fix="delete it and run the command that makes it again"
        )
    return tuple(
        LayerStatistics(
            *(tensors[f"{kind}-{at:02d}"].to(device) for kind in ("mean", "var")),
            *(of_class[f"{kind}-{at:02d}"].to(device) for kind in ("mean", "var") if classes),
        )
        for at in range(len(norms))
    )


def _reader(data: RealSet, min_scale: float, seed: int, engine: Engine) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    if min_scale == 1:
        return lambda indices: (data.images(indices), data.targets(indices))
    shape = tuple(data.images(torch.tensor([0])).shape[1:])
    settings = ViewSettings(min_scale=min_scale, flip=False, mix="none")
    views = Views(settings, seed, len(data), (shape[0], shape[1], shape[2]))

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        return views.apply(data.images, torch.zeros_like(indices), indices, engine.device), data.targets(indices)

    return read


def _resumed(model: nn.Module, num_classes: int, checkpoint: Path, engine: Engine) -> Measuring:
    measuring = Measuring(model, num_classes)
    if checkpoint.exists():
        tensors, note = read_tensors(checkpoint)
        measuring.restore(tensors, int(note["num_batches"]), engine.device)
    return measuring


def _write(folder: Path, name: str, layers: tuple[LayerStatistics, ...]) -> None:
    whole, by_class = statistics_paths(folder, name)
    of_class: dict[str, Tensor] = {}
    of_all: dict[str, Tensor] = {}
    for at, layer in enumerate(layers):
        assert layer.class_mean is not None, "sums know their classes"
        assert layer.class_var is not None, "sums know their classes"
        of_class |= {f"mean-{at:02d}": layer.class_mean, f"var-{at:02d}": layer.class_var}
        of_all |= {f"mean-{at:02d}": layer.mean, f"var-{at:02d}": layer.var}
    write_tensors(by_class, of_class)
    write_tensors(whole, of_all)  # last: where it is, both are


def _checkpoint(folder: Path, name: str) -> Path:
    return folder / f"checkpoint-statistics-{name}.safetensors"
