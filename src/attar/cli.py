"""The command line: a thin skin over `attar.api`. torch is imported inside the commands, not here."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attar.errors import AttarError, ResourceError, unknown
from attar.runtime.processes import launched
from attar.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.api import Distillation
    from attar.records import Record
    from attar.scores import Scores

INTERRUPTED = 130
EPILOG = (
    "Exit codes: 0 done, 1 an error of attar itself, 2 a setting or a name, 3 the images, 4 files of a run, "
    "5 numbers that are no longer finite, 6 memory, disk or permission, 130 interrupted (run again to go on). "
    "--debug shows the traceback of an error."
)

app = typer.Typer(
    help="Distil large image datasets into small synthetic ones, and train and judge models on them.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[
    str,
    typer.Argument(help="A name from `attar list datasets`, a folder, parquet shards, hf:owner/name."),
]
Distilled = Annotated[Path, typer.Argument(help="A distilled dataset, or a run folder that holds one.")]
RunPath = Annotated[Path, typer.Argument(help="A run folder.")]
Method = Annotated[str, typer.Option(help="A name from `attar list methods`; auto chooses and says why.")]
Ipc = Annotated[int | None, typer.Option(min=1, show_default="the recipe's, or 1", help="Images per class.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="auto, none, a name from `attar list recipes`, or a file.")]
Model = Annotated[
    str | None,
    typer.Option(show_default="the method's", help="The network that learns SOURCE; see `attar list models`."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        show_default="trained here",
        help="Its weights: `released`, the name of released ones such as IMAGENET1K_V1, or your own checkpoint.",
    ),
]
Out = Annotated[Path | None, typer.Option(show_default="one under runs/", help="Folder to write to.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, see `attar show NAME`. May be repeated."),
]
SetAgain = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Do this stage again with another setting. May be repeated."),
]
LabelBudget = Annotated[
    str | None,
    typer.Option(help="Size that the soft labels for all epochs may have together, such as 50MB (sre2l, rded)."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of cifar10, cifar100, tiny-imagenet or imagenet-1k, where one is named.")
]
Download = Annotated[bool | None, typer.Option("--download", help="Let torchvision fetch cifar10 or cifar100.")]
Resolution = Annotated[int | None, typer.Option(min=1, help="Bring images to this many pixels.")]
SkipCorrupt = Annotated[bool | None, typer.Option("--skip-corrupt", help="Leave out images that cannot be read.")]
Seed = Annotated[int | None, typer.Option(min=0, show_default="0", help="All randomness follows from it.")]
Device = Annotated[str | None, typer.Option(show_default="auto", help="auto, cpu, cuda or mps.")]
Precision = Annotated[str | None, typer.Option(show_default="32-true", help="32-true, bf16-mixed or 16-mixed.")]
Workers = Annotated[int | None, typer.Option(min=1, show_default="all", help="CPU threads of each process.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over: delete what an earlier run left there.")]
Redo = Annotated[
    Literal["recover", "relabel"] | None,
    typer.Option(help="Start over from this stage on, keeping what the stages before it made."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout; progress goes to stderr.")]


def run() -> None:
    """Entry point: errors for people, exit codes, no traceback unless --debug."""
    rank = launched().rank
    if rank:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (one of several processes speaks, for all of its life)
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except AttarError as error:
        if debug:
            raise
        _complain(error, f"process {rank}: " if rank else "")
        sys.exit(error.exit_code)
    except SystemExit as leaving:  # typer turns Ctrl-C into this
        if leaving.code == INTERRUPTED:
            typer.secho("interrupted; run the same command again to go on where it stopped", err=True)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            _complain(ResourceError(str(error), fix="free some disk, or mend the permissions, and run again"))
            sys.exit(ResourceError.exit_code)
        typer.secho(f"error of attar itself: {type(error).__name__}: {error}", fg="red", err=True)
        typer.echo("to fix: please report it with what the same command prints with --debug", err=True)
        sys.exit(1)


@app.command(rich_help_panel="Distil")
def distill(
    source: Source,
    method: Method = "auto",
    ipc: Ipc = None,
    recipe: RecipeName = "auto",
    model: Model = None,
    weights: Weights = None,
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    download: Download = None,
    resolution: Resolution = None,
    skip_corrupt: SkipCorrupt = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    label_budget: LabelBudget = None,
    fresh: Fresh = False,
    redo: Redo = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Distil SOURCE: squeeze, recover, relabel, evaluate, report. The same command again resumes."""
    flags = _without(locals(), "json_", "label_budget", "set_")
    budget = [f"relabel.label_budget={label_budget}"] if label_budget else []
    _distill("evaluate", **flags, set_=[*budget, *(set_ or [])], as_json=json_)


@app.command(rich_help_panel="One stage at a time")
def squeeze(
    source: Source,
    method: Method = "auto",
    ipc: Ipc = None,
    recipe: RecipeName = "auto",
    model: Model = None,
    weights: Weights = None,
    pool: Annotated[
        Literal["prior", "post"] | None,
        typer.Option(
            show_default="the recipe's, or prior",
            help="Of teddy: early epochs of the network's training (prior), or pruned copies of it (post).",
        ),
    ] = None,
    list_: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Make nothing: list the experts in --out, and whether SOURCE can use them; or in SOURCE, a run.",
        ),
    ] = False,
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    download: Download = None,
    resolution: Resolution = None,
    skip_corrupt: SkipCorrupt = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Begin a run folder: train the networks that hold the knowledge of SOURCE, or take them with --weights.

    Trajectories: raise num_experts and run again, and the experts that are there are kept.
    """
    if list_:
        _list_experts(source, out, set_ or [], data_dir, resolution, json_)
    else:
        _distill("squeeze", **_without(locals(), "json_", "list_"), as_json=json_)


@app.command(rich_help_panel="One stage at a time")
def recover(
    run: RunPath, set_: SetAgain = None, workers: Workers = None, quiet: Quiet = False, json_: Json = False
) -> None:
    """Go on with RUN: optimise the synthetic images."""
    _resume("recover", run, set_ or [], workers, quiet, json_)


@app.command(rich_help_panel="One stage at a time")
def relabel(
    run: RunPath,
    label_budget: LabelBudget = None,
    set_: SetAgain = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Go on with RUN: give the images their labels and write the distilled dataset."""
    budget = [f"relabel.label_budget={label_budget}"] if label_budget else []
    _resume("relabel", run, budget + (set_ or []), workers, quiet, json_)


@app.command(rich_help_panel="Train and judge")
def train(
    data: Annotated[str, typer.Argument(help="A source, a distilled dataset, or a run folder.")],
    model: Annotated[str, typer.Option(help="A name from `attar list models`.")] = "auto",
    strategy: Annotated[
        str, typer.Option(help="A name from `attar list strategies`, or several joined by '+', such as dlb+ddgsd.")
    ] = "ce",
    teacher: Annotated[
        Path | None, typer.Option(help="For the strategy kd: the model.safetensors of another training.")
    ] = None,
    label_noise: Annotated[
        float | None, typer.Option(min=0, show_default="0", help="Part of the training labels that are made wrong.")
    ] = None,
    noise_kind: Annotated[
        Literal["symmetric", "pairflip"] | None,
        typer.Option(show_default="symmetric", help="What they become: any other class, or the next one."),
    ] = None,
    logger: Annotated[
        list[str] | None, typer.Option(help="tensorboard or wandb, writing into --out. May be repeated.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Real images whose validation split judges the network.")] = None,
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    resolution: Resolution = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Train one network on DATA; settings are those of the section `train` (`attar show train`, `attar show dlb`)."""
    from attar import api

    _use(workers)
    result = api.train(
        data,
        model,
        strategy=strategy,
        teacher=teacher,
        label_noise=label_noise,
        noise_kind=noise_kind,
        loggers=logger or [],
        source=source,
        out=out,
        seed=seed or 0,
        settings=set_ or [],
        data_dir=data_dir,
        resolution=resolution,
        device=device or "auto",
        precision=precision or "32-true",
        quiet=quiet,
    )
    found = {
        "accuracy_percent": dict(result.accuracies),
        "loss": result.losses[-1],
        "epochs": len(result.losses),
        **({"label_noise": dict(result.label_noise)} if result.label_noise else {}),
    }
    if json_:
        _print_json({**found, "path": str(result.path) if result.path else None})
        return
    if noise := result.label_noise:
        typer.echo(f"wrong labels {noise['flipped']} of {noise['of']} ({noise['kind']}, digest {noise['digest']})")
    for split, percent in result.accuracies.items():
        typer.echo(f"{split:<12} {percent:5.1f} %")
    if result.path:
        typer.echo(f"network: {result.path / 'model.safetensors'}")


@app.command(rich_help_panel="Train and judge")
def study(
    file: Annotated[str, typer.Argument(help="A name from `attar list studies`, or a YAML file.")],
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that share the trainings, with one thread each or --workers.")
    ] = 1,
    plan_: Annotated[bool, typer.Option("--plan", help="Count the trainings, and train nothing.")] = False,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Compare training strategies: a grid of strategies, networks, variants, wrong labels and seeds, from FILE.

    The same command again goes on where it stopped; a grid that has grown trains only what is new.
    """
    from attar import api

    where = {"device": device or "auto", "precision": precision or "32-true", "quiet": quiet}
    asked: dict[str, Any] = {"out": out, "settings": set_ or [], "data_dir": data_dir, **where}
    if plan_:
        planned = api.plan_study(file, **asked)
        _print_json(vars(planned)) if json_ else typer.echo(f"{planned}\n{planned.held_equal}")
        return
    result = api.study(file, jobs=jobs, workers=workers, **asked)
    from attar.printing import print_study, study_json

    _print_json(study_json(result)) if json_ else print_study(result)


@app.command(rich_help_panel="Train and judge")
def evaluate(
    distilled: Distilled,
    source: Annotated[str, typer.Option(help="The real images that it was made from.")],
    models: Annotated[str | None, typer.Option(help="Networks, separated by commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each network on each set.")] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Of random,herding,kcenter,kmeans,full; separated by commas.")
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Run all that the scores of DD-Ranking are made of, and tell them.")
    ] = False,
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    resolution: Resolution = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Train networks on DISTILLED and on its baselines alike, and test them on the real test split.

    DISTILLED may be what another program left: folders of images, .pt tensors, shards (`attar show foreign`).
    """
    from attar import api

    _use(workers)
    result = api.evaluate(
        distilled,
        source,
        models=_split(models) or (),
        seeds=seeds,
        baselines=_split(baselines),
        scores=scores or None,
        out=out,
        seed=seed or 0,
        settings=set_ or [],
        data_dir=data_dir,
        resolution=resolution,
        device=device or "auto",
        precision=precision or "32-true",
        quiet=quiet,
    )
    if json_:
        found = {"records": [record.to_json() for record in result.records], "verdict": result.verdict}
        page = str(result.report) if result.report else None
        _print_json({**found, "scores": [one.to_json() for one in result.scores], "report": page})
        return
    _table(result.records, result.verdict)
    _scores(result.scores, told=scores)
    if result.report:
        typer.echo(f"report: {result.report}")


@app.command(rich_help_panel="Train and judge")
def continual(
    distilled: Distilled,
    source: Annotated[str, typer.Option(help="The real images that it was made from.")],
    model: Annotated[str, typer.Option(help="A name from `attar list models`.")] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="Steps in which the classes arrive.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Orders of the classes.")] = 1,
    baseline: Annotated[bool, typer.Option(help="Compare with random real images at the same count.")] = True,
    labels: Annotated[str, typer.Option(help="Of stored,hard; separated by commas.")] = "stored",
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    resolution: Resolution = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Let classes arrive step by step; train from scratch on the distilled images of all classes seen."""
    from attar import api

    _use(workers)
    records = api.continual(
        distilled,
        source,
        model=model,
        steps=steps,
        seeds=seeds,
        baseline=baseline,
        labels=_split(labels) or (),
        out=out,
        seed=seed or 0,
        settings=set_ or [],
        data_dir=data_dir,
        resolution=resolution,
        device=device or "auto",
        precision=precision or "32-true",
        quiet=quiet,
    )
    if json_:
        _print_json({"records": [record.to_json() for record in records]})
        return
    _steps(records)


@app.command(rich_help_panel="Look and share")
def report(run: RunPath, out: Out = None, json_: Json = False) -> None:
    """Write one self-contained HTML page about RUN, about a study's folder, or about another set that was judged."""
    from attar.artifacts.run import require_run
    from attar.report.outside import JUDGED, find_judged
    from attar.report.page import write_report

    found = find_judged(run)
    if (run / "study.json").is_file():
        from attar.report.study import write_study_report

        path = write_study_report(run, out)
    else:
        path = write_report(found if (found / JUDGED).is_file() else require_run(found), out)
    _print_json({"report": str(path)}) if json_ else typer.echo(f"report: {path}")


@app.command(rich_help_panel="Look and share")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two evaluated run folders or more.")],
    out: Annotated[Path | None, typer.Option(show_default="none", help="A page to write, such as page.html.")] = None,
    json_: Json = False,
) -> None:
    """Put RUNS side by side: accuracy, bytes and cost. What was not measured alike stands apart, with the reasons."""
    from attar import api
    from attar.printing import comparison_json, print_comparison

    groups = api.compare(runs, out)
    if json_:
        _print_json({"groups": comparison_json(groups), "page": str(out) if out else None})
        return
    print_comparison(groups)
    if out:
        typer.echo(f"page: {out}")


@app.command("export", rich_help_panel="Look and share")
def export_(
    distilled: Distilled,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    to: Annotated[str, typer.Option(help="imagefolder, tensors or webdataset.")] = "imagefolder",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there.")] = False,
    json_: Json = False,
) -> None:
    """Write DISTILLED in another format, with a loader that needs no attar, and say what that format can't hold."""
    from attar import interop
    from attar.artifacts.distilled import load_distilled

    if to not in interop.EXPORTERS:
        raise unknown("format", to, interop.EXPORTERS)
    done = interop.EXPORTERS[to][0](load_distilled(distilled), out, overwrite=overwrite)
    if json_:
        _print_json({"path": str(done.path), "lost": list(done.lost)})
        return
    typer.echo(f"{to}: {done.path}")
    for lost in done.lost:
        typer.echo(f"not in it: {lost}")


@app.command("import", rich_help_panel="Look and share")
def import_(
    path: Annotated[Path, typer.Argument(help="A folder of images, .pt tensors or shards; or one such file.")],
    out: Annotated[Path, typer.Option(help="Folder for the distilled dataset.")],
    from_: Annotated[str, typer.Option("--from", help="auto, imagefolder, tensors or webdataset.")] = "auto",
    source: Annotated[
        str | None, typer.Option(help="The real images it was made from: gives class names and normalisation.")
    ] = None,
    data_dir: DataDir = None,
    resolution: Resolution = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="What the files leave open, see `attar show foreign`."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset that is there.")] = False,
    json_: Json = False,
) -> None:
    """Turn other people's distilled images into a distilled dataset. To judge them only, give them to `evaluate`."""
    from attar.interop.opening import import_foreign

    given = {"data_dir": data_dir, "resolution": resolution}
    made = import_foreign(path, out, from_, source, set_ or [], given=given, overwrite=overwrite)
    if json_:
        _print_json({"path": str(made.path), "images": len(made), "bytes": made.sizes["total"]})
        return
    typer.echo(f"distilled dataset: {made.path} ({len(made)} images, {made.sizes['total']:,} bytes)")


@app.command(rich_help_panel="Look and share")
def push(
    distilled: Distilled,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Let only the owner see it, where it is made.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, and ask nothing of the hub.")] = False,
    json_: Json = False,
) -> None:
    """Upload DISTILLED to the Hugging Face hub, with your token of `hf auth login` or HF_TOKEN."""
    from attar.interop.hub import push as upload

    done = upload(distilled, repository, private=private, dry_run=dry_run)
    if json_:
        _print_json({"repository": done.repository, "url": done.url, "files": done.files, "dry_run": done.dry_run})
        return
    for name, num_bytes in done.files.items() if dry_run else ():
        typer.echo(f"{_size(num_bytes):>9}  {name}")
    total = _size(sum(done.files.values()))
    typer.echo(f"{len(done.files)} files, {total} {'would go to' if dry_run else 'are at'} {done.url}")


@app.command(rich_help_panel="Look and share")
def verify(distilled: Distilled, json_: Json = False) -> None:
    """Check DISTILLED: sums, schema, ranges. Any flipped byte is found."""
    from attar.artifacts.verify import verify as check

    found = check(distilled)
    if json_:
        _print_json({"problems": list(found.problems), "files": found.files, "bytes": found.bytes})
    elif not found.problems:
        typer.echo(f"{distilled}: {found.files} files, {found.bytes:,} bytes, all as written")
    else:
        for problem in found.problems:
            typer.echo(problem)
    if found.problems:
        raise typer.Exit(4)


@app.command(rich_help_panel="Find your way")
def plan(
    source: Source,
    method: Method = "auto",
    ipc: Ipc = None,
    recipe: RecipeName = "auto",
    model: Model = None,
    weights: Weights = None,
    set_: Set = None,
    data_dir: DataDir = None,
    download: Download = None,
    resolution: Resolution = None,
    skip_corrupt: SkipCorrupt = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Rehearse the run on this machine: hours, memory and disk before you spend them."""
    flags = _without(locals(), "json_", "set_")
    from attar import api

    found = api.plan(**flags, settings=set_ or [])
    if json_:
        stages = [{**vars(estimate), "total_s": estimate.total_s} for estimate in found.estimates]
        totals = {"total_s": found.total_s, "memory_bytes": found.memory_bytes, "disk_bytes": found.disk_bytes}
        _print_json({"stages": stages, **totals})
        return
    width = max(len(estimate.stage) for estimate in found.estimates)
    for estimate in found.estimates:
        each = f"{estimate.units:>9,} {estimate.unit} at {1000 * estimate.unit_s:,.1f} ms" if estimate.units else ""
        typer.echo(f"{estimate.stage:<{width}} {_duration(estimate.total_s):>9}  {each}".rstrip())
    typer.echo(f"{'in all':<{width}} {_duration(found.total_s):>9}")
    typer.echo(f"memory about {_size(found.memory_bytes)}, disk about {_size(found.disk_bytes)}")


@app.command("list", rich_help_panel="Find your way")
def list_(
    what: Annotated[
        Literal["methods", "recipes", "datasets", "models", "strategies", "studies"],
        typer.Argument(help="What to list."),
    ],
    match: Annotated[str, typer.Argument(help="Only names that hold this text.")] = "",
    json_: Json = False,
) -> None:
    """List methods, recipes, datasets, models, strategies or studies."""
    from attar import catalogue

    rows = [row for row in catalogue.names(what) if match in row[0]]
    if json_:
        _print_json([{"name": name, "summary": summary} for name, summary in rows])
        return
    if not rows:
        typer.echo(f"none of the {what} has {match!r} in its name", err=True)
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        typer.echo(f"{typer.style(name.ljust(width), bold=True)}  {summary}")


@app.command(rich_help_panel="Find your way")
def show(
    name: Annotated[str, typer.Argument(help="A method, a strategy, a recipe, or a section such as train.")],
    json_: Json = False,
) -> None:
    """Show every field of a method, a recipe or a section: type, default, meaning."""
    from attar import catalogue

    shown = catalogue.describe(name)
    if json_:
        _print_json(shown)
    else:
        _print_description(shown)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"attar {__version__}")
        raise typer.Exit


def _distill(until: Literal["squeeze", "evaluate"], as_json: bool, **flags: Any) -> None:
    from attar import api

    flags["settings"] = flags.pop("set_") or []
    _show(api.distill(until=until, **flags), until, as_json)


def _resume(
    until: Literal["recover", "relabel"],
    run: Path,
    changed: list[str],
    workers: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    _use(workers)
    from attar.artifacts.run import require_run

    folder = require_run(run)
    from attar import api

    redo: Literal["recover", "relabel"] | None = until if changed else None
    _show(api.resume(folder, until, settings=changed, redo=redo, quiet=quiet), until, as_json)


def _show(result: Distillation, until: str, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "run": str(result.path),
                "until": until,
                "distilled": str(result.distilled) if until in ("relabel", "evaluate") else None,
                "report": str(result.report) if result.report else None,
                "records": [record.to_json() for record in result.records],
                "verdict": result.verdict,
            }
        )
        return
    if result.records:
        _table(result.records, result.verdict)
    following = {"squeeze": "recover", "recover": "relabel"}.get(until)
    if following:
        typer.echo(f"{until} is complete; next: attar {following} {result.path}")
    else:
        typer.echo(f"distilled dataset: {result.distilled}")
    if result.report:
        typer.echo(f"report:            {result.report}")


def _list_experts(
    source: str, out: Path | None, changed: list[str], data_dir: Path | None, resolution: int | None, as_json: bool
) -> None:
    """Print the experts in `out` and whether they can be used for the source, or those in a run given as the source."""
    from attar import api

    asked: dict[str, Any] = {"settings": changed, "data_dir": data_dir, "resolution": resolution} if out else {}
    found = api.experts(out or Path(source), source if out else None, **asked)
    if as_json:
        _print_json([{**vars(expert), "path": str(expert.path)} for expert in found])
        return
    width = max(len(expert.model) for expert in found)
    typer.echo(f"expert  {'network':<{width}}  epochs    loss      size{f'  for {source}' if out else ''}")
    for expert in found:
        loss = "" if expert.loss is None else f"{expert.loss:.4f}"
        use = f"  {expert.problem or 'yes'}" if out else ""
        cells = f"{expert.expert:>6}  {expert.model:<{width}}  {expert.epochs:>6}  {loss:>6}  {_size(expert.bytes):>8}"
        typer.echo(f"{cells}{use}")
    typer.echo(f"{len(found)} expert{'s' * (len(found) > 1)}, {_size(sum(expert.bytes for expert in found))}")


def _table(records: Sequence[Record], verdict: str) -> None:
    """A row for each record, with its labels and its network where these differ, and the verdict below."""
    from rich.console import Console
    from rich.table import Table

    from attar.verdict import without_labels

    columns: dict[str, list[str]] = {
        "trained on": [record.subject for record in records],
        "labels": [str(record.protocol.get("labels", "")) for record in records],
        "network": [record.model for record in records],
        "images": [f"{record.num_images:,}" for record in records],
        "bytes": [f"{record.size_bytes:,}" for record in records],
        records[0].metric.replace("_", " "): [f"{record.score}  (n={record.n})" for record in records],
    }
    if len(set(columns["labels"])) > 1:
        columns["trained on"] = [without_labels(record.subject) for record in records]
    for name in ("labels", "network"):
        if len(set(columns[name])) == 1:
            del columns[name]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        left = name in ("trained on", "labels", "network")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name != "network")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(verdict, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _steps(records: Sequence[Record]) -> None:
    """A row for each step, a column for each subject, and the mean over the steps below."""
    from statistics import fmean

    from rich.console import Console
    from rich.table import Table

    subjects = list(dict.fromkeys(record.subject for record in records))
    found = {(record.protocol["step"], record.subject): record for record in records}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "classes", *subjects):
        table.add_column(name, justify="right")
    for step in dict.fromkeys(record.protocol["step"] for record in records):
        of_step = [found[step, subject] for subject in subjects]
        table.add_row(str(step), str(of_step[0].protocol["classes_seen"]), *(record.score for record in of_step))
    means = [fmean(record.mean for record in records if record.subject == subject) for subject in subjects]
    table.add_row("mean", "", *(f"{mean:.1f} %" for mean in means), style="bold")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    typer.echo(f"{records[0].model}, n={records[0].n}, accuracy on the classes seen after the last epoch")


def _scores(found: Sequence[Scores], *, told: bool) -> None:
    """A line for each network with its scores, where they were asked for or nothing is missing."""
    from attar.scores import NAMES, score_text

    for one in found:
        if told or not one.missing:
            parts = [f"{NAMES[name]} {score_text(name, record)}" for name, record in one.found.items()]
            parts += [f"{NAMES[name]} missing" for name in one.missing]
            typer.echo(f"DD-Ranking, {one.model}: {', '.join(parts)}")
            if one.missing:
                typer.echo(f"not trained on: {'; '.join(one.lacking)}")


def _print_description(shown: dict[str, Any]) -> None:
    from attar.config import value_text

    typer.secho(shown["name"], bold=True, nl=False)
    typer.echo(f"  {shown['summary']}")
    for key, value in shown["notes"].items():
        if value and key != "about":
            text = ", ".join(f"{k}={value_text(v)}" for k, v in value.items()) if isinstance(value, dict) else value
            typer.echo(f"{key}: {text}")
    if objective := shown.get("objective"):
        typer.echo(f"\n{objective.rstrip()}")
    for section, fields in shown["sections"].items():
        if not fields:
            continue
        typer.echo("")
        typer.secho(f"{section}:", bold=True)
        for field in fields:
            kind = f"    ({field['type']})" if field["type"] else ""
            typer.echo(f"  {section}.{field['name']} = {value_text(field['default'])}{kind}")
            if field["meaning"]:
                typer.echo(f"      {field['meaning']}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(num_bytes: float) -> str:
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.1f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB"


def _complain(error: AttarError, who: str = "") -> None:
    typer.secho(f"{who}error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(error.found, err=True)
    if error.expected:
        typer.echo(f"expected: {error.expected}", err=True)
    if error.fix:
        typer.echo(f"to fix: {error.fix}", err=True)


def _use(workers: int | None) -> None:
    if workers:
        import torch

        torch.set_num_threads(workers)


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text is not None else None


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
