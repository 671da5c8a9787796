"""Teddy beside SRe2L and random real images: same data, images, iterations, student, labels' protocol and seeds.

    ATTAR_DATA=FOLDER python benchmarks/teddy.py --data cifar10 --work WORK --jobs 2 --json FILE
    ATTAR_DATA=FOLDER python benchmarks/teddy.py --data imagenette --work WORK --jobs 2 --ablate --json FILE

A seed is a squeeze, a recovery and a student of its own. sre2l learns from a network trained for --epochs; the pool of
the kind prior holds what a training of --pool-epochs was after some of them, that of the kind post the end of that
training and pruned copies. `random` are random real images labelled as those of the case are. Each case of a seed is a
run folder in --work; what is finished is not done again, and --jobs processes of one thread each share the rest.
`alignment` is the cosine of the gradients of real and synthetic images with hard labels, the mean over the members of
the prior pool: what matching statistics stands in for. Seconds are of the stages of a run, as manifests tell; a case
whose images are another's has none of its own for them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from table import Checks, Rows, arguments, finish, spread

Settings = dict[str, Any]
CROP_MIN_SCALE = 0.08
EPOCHS: Mapping[str, int] = {"digits": 40, "cifar10": 40, "imagenette": 40}
MEMBERS = 6
"""Members of either pool."""
BEGUN: Mapping[str, str | None] = {
    "post": "member-00-pruned-0000.safetensors",
    "young teacher": "teacher.safetensors",
    "prior of crops": None,
}
"""Knowledge that begins with the prior pool's last network, under this name, or with all of them."""
STAGES = ("squeeze", "recover", "relabel")


@dataclass(frozen=True)
class Data:
    """How a source is read and which network is its teacher and its student."""

    source: str
    settings: Settings


DATA = {
    "digits": Data(
        "digits",
        {
            "squeeze.model": "convnet-d2-w16-batch",
            "squeeze.augment": "crop",
            "method.flip": False,
            "method.roll_px": 1,
            "relabel.flip": False,
            "relabel.min_scale": 0.5,
            "train.augment": "crop",
        },
    ),
    "cifar10": Data("cifar10", {"squeeze.model": "convnet-d3-w32-batch", "source.train_per_class": 500}),
    "imagenette": Data("imagenette", {"squeeze.model": "convnet-d4-w16-batch", "source.resolution": 64}),
}


@dataclass(frozen=True)
class Case:
    """One row: a method over one kind of knowledge. `images_of` names a case whose images it labels otherwise."""

    name: str
    method: str
    squeezed: str
    settings: Settings = field(default_factory=dict)
    alpha_times: float = 1.0
    images_of: str | None = None


MAIN = [
    Case("sre2l", "sre2l", "teacher"),
    Case("teddy prior", "teddy", "prior"),
    Case("teddy post", "teddy", "post"),
]
REAL: Settings = {"method.start": "real", "method.lr_images": 0.05}
NOISE: Settings = {"method.start": "noise", "method.lr_images": 0.1}
ABLATIONS = [
    Case("labels of the strongest", "teddy", "prior", {"relabel.members": "strongest"}, images_of="teddy prior"),
    Case("labels of the weak half", "teddy", "prior", {"relabel.members": [0, 1, 2]}, images_of="teddy prior"),
    Case("labels of the strong half", "teddy", "prior", {"relabel.members": [3, 4, 5]}, images_of="teddy prior"),
    Case("post, labels of the strongest", "teddy", "post", {"relabel.members": "strongest"}, images_of="teddy post"),
    Case("1 member, the strongest", "teddy", "prior", {"method.members": [5]}),
    Case("1 member, in the middle", "teddy", "prior", {"method.members": [2]}),
    Case("the weak half", "teddy", "prior", {"method.members": [0, 1, 2]}),
    Case("the strong half", "teddy", "prior", {"method.members": [3, 4, 5]}),
    Case("alpha 0.1 x auto", "teddy", "prior", alpha_times=0.1),
    Case("alpha 10 x auto", "teddy", "prior", alpha_times=10.0),
    Case("weak to strong", "teddy", "prior", {"method.pick": "weak_to_strong"}),
    Case("statistics of all classes", "teddy", "prior", {"method.class_share": 0.0}),
    Case("statistics of crops", "teddy", "prior of crops"),
    Case("noise start", "teddy", "prior", NOISE),
    Case("noise start, statistics of all classes", "teddy", "prior", {**NOISE, "method.class_share": 0.0}),
    Case("a pool as old as sre2l's teacher", "teddy", "long prior"),
    Case("sre2l, real start", "sre2l", "teacher", REAL),
    Case("sre2l, real start, a teacher as young as the pool", "sre2l", "young teacher", REAL),
]


@dataclass(frozen=True)
class Job:
    """A piece of work for a process: squeeze (no case), or a case, of one seed."""

    options: argparse.Namespace
    seed: int
    squeezed: str
    case: Case | None = None

    @property
    def folder(self) -> Path:
        """All of this seed at this number of images, judged so."""
        options = self.options
        judged = f"{options.student_epochs}-{options.split}"
        return options.work / f"{options.data}-ipc{options.ipc}-{options.iterations}-{judged}" / f"seed{self.seed}"

    @property
    def squeeze_run(self) -> Path:
        return self.squeezed_folder / slug(self.squeezed)

    @property
    def squeezed_folder(self) -> Path:
        """Networks of this seed, for any number of images."""
        return self.options.work / f"{self.options.data}-squeezed" / f"seed{self.seed}"

    @property
    def prior_run(self) -> Path:
        return self.squeezed_folder / "prior"

    @property
    def result(self) -> Path:
        assert self.case is not None
        return self.folder / f"{slug(self.case.name)}.json"


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).replace("--", "-")


def squeeze_settings(squeezed: str, options: argparse.Namespace) -> Settings:
    epochs = options.epochs or EPOCHS[options.data]
    found: Settings = {"squeeze.epochs": epochs, "squeeze.batch_size": 128, "squeeze.learning_rate": 0.1}
    found |= {"squeeze.warmup_epochs": 1, "squeeze.augment_per": "image"}
    if squeezed not in ("teacher", "long prior"):
        found["squeeze.epochs"] = options.pool_epochs or epochs // 2
    if squeezed in ("teacher", "young teacher"):
        return found
    if squeezed == "post":
        return found | {"squeeze.pool": "post", "squeeze.ratios": [0.2, 0.35, 0.5, 0.65, 0.8][: MEMBERS - 1]}
    found["squeeze.num_members"] = MEMBERS
    return found | ({"squeeze.statistics_min_scale": CROP_MIN_SCALE} if squeezed == "prior of crops" else {})


def settings_of(job: Job) -> Settings:
    options = job.options
    assert job.case is not None
    found = {
        "method.crop_min_scale": CROP_MIN_SCALE,
        "recover.iterations": options.iterations,
        "recover.num_snapshots": 2,
        "train.epochs": options.student_epochs,
        "train.batch_size": 50,
        "train.learning_rate": 0.004,
        "train.temperature": 4,
        "evaluate.seeds": 1,
        "evaluate.baselines": ["random"] if job.case in MAIN else [],
        "evaluate.split": options.split,
        **DATA[options.data].settings,
        **squeeze_settings(job.squeezed, options),
        **job.case.settings,
    }
    return found | dict(assignment.split("=", 1) for assignment in options.set)


def work_on(job: Job) -> None:
    """Squeeze, or run a case, in this process and with one thread."""
    import torch

    torch.set_num_threads(1)
    if job.case is None:
        squeeze(job)
    else:
        run(job, job.case)


def squeeze(job: Job) -> None:
    """Make a teacher or a pool; what begins with the training of the prior pool takes it from there."""
    out, prior = job.squeeze_run / "squeeze", job.prior_run / "squeeze"
    if job.squeezed in BEGUN and not out.exists():
        out.mkdir(parents=True)
        members = sorted(prior.glob("member-*"))
        for member in members if BEGUN[job.squeezed] is None else members[-1:]:
            os.link(member, out / (BEGUN[job.squeezed] or member.name))
    method = "sre2l" if "teacher" in job.squeezed else "teddy"
    settings = settings_of(Job(job.options, job.seed, job.squeezed, Case("squeeze", method, job.squeezed)))
    own = {name: value for name, value in settings.items() if name.split(".")[0] in ("source", "squeeze")}
    distill(job, method, own, job.squeeze_run, until="squeeze")


def run(job: Job, case: Case) -> None:
    settings = settings_of(job)
    if job.result.exists() and json.loads(job.result.read_text())["settings"] == json.loads(json.dumps(settings)):
        return
    out = job.folder / "runs" / slug(case.name)
    borrow(job.squeeze_run / "squeeze", out / "squeeze")
    if case.images_of:
        borrow(job.folder / "runs" / slug(case.images_of) / "recover", out / "recover")
    with alpha_times(case.alpha_times):
        records = distill(job, case.method, settings, out, ipc=job.options.ipc).records
    seconds = {stage: json.loads((out / stage / "manifest.json").read_text())["wall_s"] for stage in STAGES}
    if job.squeezed in BEGUN:
        seconds["squeeze"] += training_s(job)
    note = {
        "settings": settings,
        "accuracies": {f"{record.group}, {record.labels}": record.mean for record in records},
        "alignment": gradient_alignment(job, out),
        "seconds": {**seconds, "recover": None} if case.images_of else seconds,
    }
    job.result.write_text(json.dumps(note, indent=2) + "\n")


def training_s(job: Job) -> float:
    """Seconds of the training that the pools of a seed come from: its epochs, by when they ended."""
    events = map(json.loads, (job.prior_run / "events.jsonl").read_text().splitlines())
    ends = [event["time_s"] for event in events if event["event"] == "epoch" and event["about"]["kind"] == "network"]
    return (ends[-1] - ends[0]) * len(ends) / (len(ends) - 1)


def distill(
    job: Job,
    method: str,
    settings: Settings,
    out: Path,
    *,
    ipc: int = 1,
    until: Literal["squeeze", "recover", "evaluate"] = "evaluate",
) -> Any:
    import attar

    data = DATA[job.options.data]
    source = data.source if data.source == "digits" else Path(os.environ["ATTAR_DATA"]) / data.source
    return attar.distill(
        source,
        method,
        ipc,
        recipe="none",
        out=out,
        seed=job.seed,
        settings=settings,
        precision=job.options.precision,
        workers=1,
        until=until,
    )


def borrow(made: Path, here: Path) -> None:
    """Give a stage's files second names: attar replaces files and never changes them."""
    if not here.exists():
        shutil.copytree(made, here, copy_function=os.link)


@contextmanager
def alpha_times(times: float) -> Iterator[None]:
    """Let `alpha_bn: auto` stand for a multiple of what it is."""
    from attar.methods import matching

    before = matching.AUTO_ALPHA
    matching.AUTO_ALPHA = before * times
    try:
        yield
    finally:
        matching.AUTO_ALPHA = before


def gradient_alignment(job: Job, out: Path) -> float:
    """Mean cosine, over the prior pool's members, of the gradients of the synthetic and of a thousand real images."""
    import torch

    import attar
    from attar.data.loading import RealSet
    from attar.data.sources import open_source
    from attar.run.settings import restore
    from attar.runtime.engine import Engine
    from attar.squeeze.teacher_files import open_network

    distilled = attar.load(out)
    settings = restore(attar.artifacts.run.RunFolder(out).settings())
    real = RealSet(open_source(settings.run.source, settings.source).train, distilled.task.normalization)
    some = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:1000]
    images, labels, device = real.images(some), real.labels[some], Engine().device
    found = []
    for path in sorted((job.prior_run / "squeeze").glob("member-*")):
        network = open_network(path, distilled.task).whole.to(device)
        sets = (images, labels), (distilled.images, distilled.labels)
        of_real, of_synthetic = (parameter_gradient(network, one.to(device), y.to(device)) for one, y in sets)
        found.append(float(torch.nn.functional.cosine_similarity(of_real, of_synthetic, dim=0)))
    return statistics.fmean(found)


def parameter_gradient(network: Any, images: Any, labels: Any) -> Any:
    """Gradient (p,) of the mean cross-entropy by all parameters of a network, in double precision."""
    import torch

    network.requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


def share(jobs: list[Job], options: argparse.Namespace) -> None:
    """Do all of them, in this process or in several; what is finished is skipped at once."""
    if options.jobs == 1:
        for job in jobs:
            work_on(job)
        return
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for job, _ in zip(jobs, pool.map(work_on, jobs), strict=True):
            print(f"seed {job.seed}: {job.case.name if job.case else job.squeezed}", flush=True)


def row(case: Case, options: argparse.Namespace) -> dict[str, str]:
    found = [json.loads(Job(options, seed, case.squeezed, case).result.read_text()) for seed in range(options.seeds)]
    shown = {"case": case.name}
    for who in ("distilled", "random"):
        for kind in ("soft", "hard"):
            values = [one["accuracies"].get(f"{who}, {kind}") for one in found]
            shown[f"{who}, {kind}"] = spread(values) if None not in values else ""
    shown["alignment"] = f"{statistics.fmean(one['alignment'] for one in found):.3f}"
    for stage in STAGES:
        spent = [one["seconds"][stage] for one in found]
        shown[f"{stage}, s"] = f"{statistics.fmean(spent):.0f}" if None not in spent else ""
    return shown


def checks(options: argparse.Namespace) -> Checks:
    """How far either pool is ahead of sre2l, in points, and its share of sre2l's time to squeeze and recover."""
    found: dict[str, list[Any]] = {
        case.name: [json.loads(Job(options, s, case.squeezed, case).result.read_text()) for s in range(options.seeds)]
        for case in MAIN
    }
    checked: Checks = {}
    for name in ("teddy prior", "teddy post"):
        for kind in ("soft", "hard"):
            ahead = [
                statistics.fmean(one["accuracies"][f"distilled, {kind}"] for one in found[who])
                for who in (name, "sre2l")
            ]
            checked[f"{slug(name)}_points_ahead_{kind}"] = {"value": ahead[0] - ahead[1], "target": 3.0}
        spent = [sum(one["seconds"][s] for one in found[who] for s in STAGES[:2]) for who in (name, "sre2l")]
        checked[f"{slug(name)}_time_over_sre2l"] = {"value": spent[0] / spent[1], "target": 1.0}
    return checked


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    options.work = options.work.resolve()
    cases = [*MAIN, *(ABLATIONS if options.ablate else ())]
    cases = [case for case in cases if not options.only or case.name in options.only or case in MAIN]
    seeds = range(options.seeds)
    for kinds in (("prior", "teacher", "long prior"), tuple(BEGUN)):
        wanted = [kind for kind in kinds if kind in {case.squeezed for case in cases}]
        share([Job(options, seed, kind) for seed in seeds for kind in wanted], options)
    for borrowing in (False, True):
        wanted_cases = [case for case in cases if bool(case.images_of) == borrowing]
        share([Job(options, seed, case.squeezed, case) for seed in seeds for case in wanted_cases], options)
    rows: Rows = [row(case, options) for case in cases]
    finish(rows, checks(options), options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", choices=list(DATA), default="cifar10")
    parser.add_argument("--work", type=Path, required=True, help="folder of all runs; the same one again goes on there")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--epochs", type=int, help="of the training of sre2l's teacher")
    parser.add_argument("--pool-epochs", type=int, help="of the pools' training; else half of that")
    parser.add_argument("--student-epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument(
        "--ablate", action="store_true", help="pool size and age, alpha, labels, picking, classes, start"
    )
    parser.add_argument("--only", nargs="+", default=[], help="names of ablations")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every case")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--precision", default="32-true")


if __name__ == "__main__":
    main()
