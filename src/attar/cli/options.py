"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[
    str,
    typer.Argument(help="A name from `attar list datasets`, a folder, parquet shards, wds:PATTERN, hf:owner/name."),
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
