"""Look at what was made, check it, share it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import command
from attar.cli.options import DataDir, Distilled, Json, Out, Resolution, RunPath
from attar.cli.texts import print_json, size


@command("Look and share")
def report(run: RunPath, out: Out = None, json_: Json = False) -> None:
    """Write one self-contained HTML page about RUN, about a study's folder, or about another set that was judged."""
    from attar import api

    path = api.write_report(run, out)
    print_json({"report": str(path)}) if json_ else typer.echo(f"report: {path}")


@command("Look and share")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two evaluated run folders or more.")],
    out: Annotated[Path | None, typer.Option(show_default="none", help="A page to write, such as page.html.")] = None,
    json_: Json = False,
) -> None:
    """Put RUNS side by side: accuracy, bytes and cost. What was not measured alike stands apart, with the reasons."""
    from attar import api
    from attar.cli.comparisons import comparison_json, print_comparison

    groups = api.compare(runs, out)
    if json_:
        print_json({"groups": comparison_json(groups), "page": str(out) if out else None})
        return
    print_comparison(groups)
    if out:
        typer.echo(f"page: {out}")


@command("Look and share", "export")
def export_(
    distilled: Distilled,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    to: Annotated[str, typer.Option(help="imagefolder, tensors or webdataset.")] = "imagefolder",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there.")] = False,
    json_: Json = False,
) -> None:
    """Write DISTILLED in another format, with a loader that needs no attar, and say what that format can't hold."""
    from attar import api

    done = api.export(distilled, out, to, overwrite=overwrite)
    if json_:
        print_json({"path": str(done.path), "lost": list(done.lost)})
        return
    typer.echo(f"{to}: {done.path} ({done.files} files, {size(done.bytes)})")
    for lost in done.lost:
        typer.echo(f"not in it: {lost}")


@command("Look and share", "import")
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
    from attar import api

    made = api.import_(
        path,
        out,
        from_,
        source=source,
        settings=set_ or [],
        data_dir=data_dir,
        resolution=resolution,
        overwrite=overwrite,
        quiet=False,
    )
    if json_:
        print_json({"path": str(made.path), "images": len(made), "bytes": made.sizes["total"]})
        return
    typer.echo(f"distilled dataset: {made.path} ({len(made)} images, {made.sizes['total']:,} bytes)")


@command("Look and share")
def push(
    distilled: Distilled,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Let only the owner see it, where it is made.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, and ask nothing of the hub.")] = False,
    json_: Json = False,
) -> None:
    """Upload DISTILLED to the Hugging Face hub, with your token of `hf auth login` or HF_TOKEN."""
    from attar import api

    done = api.push(distilled, repository, private=private, dry_run=dry_run)
    if json_:
        print_json({"repository": done.repository, "url": done.url, "files": done.files, "dry_run": done.dry_run})
        return
    for name, num_bytes in done.files.items() if dry_run else ():
        typer.echo(f"{size(num_bytes):>9}  {name}")
    total = size(sum(done.files.values()))
    typer.echo(f"{len(done.files)} files, {total} {'would go to' if dry_run else 'are at'} {done.url}")


@command("Look and share")
def verify(distilled: Distilled, json_: Json = False) -> None:
    """Check DISTILLED: sums, schema, ranges. Any flipped byte is found."""
    from attar import api

    found = api.verify(distilled)
    if json_:
        print_json({"problems": list(found.problems), "files": found.files, "bytes": found.bytes})
    elif not found.problems:
        typer.echo(f"{distilled}: {found.files} files, {found.bytes:,} bytes, all as written")
    else:
        for problem in found.problems:
            typer.echo(problem)
    if found.problems:
        raise typer.Exit(4)
