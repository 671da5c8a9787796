"""Does `alpha_bn: auto` spare a new teacher its tuning? ResNet-18 and ResNet-50, at auto and beside it.

A BatchNorm layer's distance grows with its channels, and their sum with the depth, so that a number that balances the
two terms of SRe2L's objective for one teacher drowns one of them with another. `auto` divides by the size of what the
teacher has learnt. For each teacher images are recovered from noise at several multiples of auto, and students are
trained on them with the teacher's soft labels, and with hard ones: tuning would pick the multiple with the best
student. Shown beside them: the statistics as a multiple of those that as many real images have under the same crops.

Teachers are trained on the bundled digits at 16 px; students are judged on the validation split.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from functools import partial

import torch
from table import Checks, Rows, arguments, finish, spread
from torch import Tensor

from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.data.loading import RealSet, TensorSet
from attar.data.sources import Source, SourceSettings, open_source
from attar.losses.statistics import Watched
from attar.methods import matching
from attar.methods.matching import AUTO_ALPHA
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.runtime.seeding import generator
from attar.training.loop import accuracy, fit
from attar.training.section import TrainSection

STUDENT = "convnet-d2-w32-batch"
FIRST_WEIGHT, LR_IMAGES, MIN_SCALE, ROLL_PX = 10.0, 0.1, 0.5, 2


class Knowledge:
    """A trained, frozen network."""

    def __init__(self, name: str, source: Source, epochs: int, engine: Engine) -> None:
        self.model = build(name, source.task)
        settings = TrainSection(
            epochs=epochs,
            batch_size=64,
            nesterov=True,
            learning_rate=0.05,
            warmup_epochs=1,
            schedule="cosine",
            augment="crop",
            augment_per="image",
        )
        fit(self.model, RealSet(source.train, source.task.normalization), settings, seed=0, engine=engine)
        self.model.requires_grad_(False)
        self.accuracy = accuracy(self.model, RealSet(source.validation, source.task.normalization), engine)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        return self.model(images).float()


def recovered(
    knowledge: Knowledge, source: Source, alpha: float, seed: int, options: argparse.Namespace, engine: Engine
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Images from noise, their classes, and the terms at the end: the mean of the last ten steps."""
    method = Sre2l(
        Sre2lSettings(
            alpha_bn=alpha,
            first_weight=FIRST_WEIGHT,
            lr_images=LR_IMAGES,
            flip=False,
            roll_px=ROLL_PX,
            crop_min_scale=MIN_SCALE,
        ),
        source.task,
        options.ipc,
    )
    picked = torch.arange(len(method.labels()))
    rngs = partial(generator, seed)
    real = RealSet(source.train, source.task.normalization)
    state = method.init(picked, real, knowledge, rngs)
    images = state.variables["images"]
    optimizer = torch.optim.Adam([images], betas=(0.5, 0.9))
    last: list[dict[str, float]] = []
    for step in range(options.iterations):
        with engine.autocast():
            gradients, metrics = method.gradient(state, picked, real, knowledge, generator(seed, step))
        optimizer.param_groups[0]["lr"] = LR_IMAGES * (1 + math.cos(math.pi * step / options.iterations)) / 2
        images.grad = gradients["images"]
        optimizer.step()
        method.project(state)
        last = [*last[-9:], {name: float(value) for name, value in metrics.items()}]
    terms = {name: statistics.fmean(one[name] for one in last) for name in last[0]}
    return method.finish(state, knowledge).images, state.labels, terms


@torch.no_grad()
def real_statistics(watched: Watched, source: Source, num: int) -> float:
    """Weighted statistics of `num` real images under the crops of recovery, the mean of five draws."""
    real = RealSet(source.train, source.task.normalization)
    settings = Sre2lSettings(flip=False, roll_px=ROLL_PX, crop_min_scale=MIN_SCALE)
    found = []
    for k in range(5):
        images = real.images(torch.randperm(len(real), generator=generator(k, "members"))[:num])
        views = matching.look(settings, source.task, images, generator(k, "look"), 0.0)
        found.append(float(watched(views)[1]))
    return statistics.fmean(found)


def student(
    images: Tensor, labels: Tensor, teacher: Knowledge | None, source: Source, seed: int, epochs: int, engine: Engine
) -> float:
    """Accuracy of a student trained with the teacher's labels on crops, or with the classes."""
    model = build(STUDENT, source.task, seed=seed)
    settings = TrainSection(
        epochs=epochs,
        batch_size=25,
        optimizer="adamw",
        learning_rate=4e-3,
        weight_decay=0.01,
        schedule="cosine",
        temperature=4.0,
        augment="none" if teacher else "crop",
        augment_per="image",
    )
    if teacher:
        views = Views(ViewSettings(flip=False, mix="none", min_scale=MIN_SCALE), seed, len(labels), source.task.shape)
        data: ReplayedSet | TensorSet = ReplayedSet(lambda i: images[i], labels, views, teacher.logits)
    else:
        data = TensorSet(images, labels)
    fit(model, data, settings, seed=seed, engine=engine)
    return accuracy(model, RealSet(source.validation, source.task.normalization), engine)


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    torch.set_num_threads(options.threads)
    engine = Engine(precision=options.precision)
    source = open_source("digits", SourceSettings(resolution=16))
    rows: Rows = []
    checks: Checks = {}
    autos: dict[str, float] = {}
    for name in options.teachers:
        teacher = Knowledge(name, source, options.epochs, engine)
        watched = Watched(teacher.model, FIRST_WEIGHT)
        auto, real = AUTO_ALPHA / watched.scale(), real_statistics(watched, source, 10 * options.ipc)
        autos[name] = auto
        scores: dict[tuple[float, str], list[float]] = defaultdict(list)
        for times in options.times:
            terms: dict[str, list[float]] = defaultdict(list)
            for seed in range(options.seeds):
                images, labels, found = recovered(teacher, source, times * auto, seed, options, engine)
                for term, value in found.items():
                    terms[term].append(value)
                for kind, labeller in (("soft", teacher), ("hard", None)):
                    one = student(images, labels, labeller, source, seed, options.student_epochs, engine)
                    scores[times, kind].append(one)
            mean = {term: statistics.fmean(values) for term, values in terms.items()}
            rows.append(
                {
                    "teacher": f"{name} ({teacher.accuracy:.0f} %)",
                    "alpha_bn": "auto" if times == 1 else f"{times:g} x auto",
                    "alpha": f"{times * auto:.3g}",
                    "classification": f"{mean['classification']:.2f}",
                    "statistics / real": f"{mean['statistics'] / real:.2f}",
                    "confidence": f"{mean['confidence']:.2f}",
                    "student, soft": spread(scores[times, "soft"]),
                    "student, hard": spread(scores[times, "hard"]),
                }
            )
            print(rows[-1], flush=True)
        for kind in ("soft", "hard"):
            best = max(statistics.fmean(scores[times, kind]) for times in options.times)
            lost = best - statistics.fmean(scores[1.0, kind])
            checks[f"{name}_{kind}_points_lost_by_not_tuning"] = {"value": lost, "target": 3.0}
    apart = max(autos.values()) / min(autos.values())
    checks["factor_between_the_teachers_weights"] = {"value": apart, "target": 1.0}
    finish(rows, checks, options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teachers", nargs="+", default=["resnet18-small", "resnet50-small"])
    parser.add_argument("--times", type=float, nargs="+", default=[0.01, 0.1, 1.0, 10.0], help="multiples of auto")
    parser.add_argument("--epochs", type=int, default=10, help="of the teachers")
    parser.add_argument("--student-epochs", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--ipc", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed")


if __name__ == "__main__":
    main()
