"""Look at what was made, check it, share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from attar.cli.app import command_of
from attar.cli.texts import echo, print_json
from attar.report.formats import binary_size

PANEL = "Look and share"


@command_of("ReportOptions", panel=PANEL)
def report(given: dict[str, Any], as_json: bool) -> None:
    """Write one self-contained HTML page about RUN, about a study's folder, or about another set that was judged."""
    from attar import api

    path = api.write_report(**given)
    print_json({"report": str(path)}) if as_json else echo(f"report: {path}")


@command_of("CompareOptions", panel=PANEL)
def compare(given: dict[str, Any], as_json: bool) -> None:
    """Put RUNS side by side: accuracy, bytes and cost. What was not measured alike stands apart, with the reasons."""
    from attar import api
    from attar.cli.comparisons import comparison_json, print_comparison
    from attar.report.compare import PAGE

    groups, out = api.compare(**given), given.get("out")
    page = str(Path(out) / PAGE) if out else None
    if as_json:
        print_json({"groups": comparison_json(groups), "page": page})
        return
    print_comparison(groups)
    if page:
        echo(f"page: {page}")


@command_of("ExportOptions", panel=PANEL, name="export")
def export_(given: dict[str, Any], as_json: bool) -> None:
    """Write DISTILLED in another format, with a loader that needs no attar, and say what that format can't hold."""
    from attar import api

    done = api.export(**given)
    if as_json:
        print_json({"path": str(done.path), "lost": list(done.lost)})
        return
    echo(f"{given.get('to', 'imagefolder')}: {done.path} ({done.files} files, {binary_size(done.bytes)})")
    for lost in done.lost:
        echo(f"not in it: {lost}")


@command_of("ImportOptions", panel=PANEL, name="import")
def import_(given: dict[str, Any], as_json: bool) -> None:
    """Turn other people's distilled images into a distilled dataset. To judge them only, give them to `evaluate`."""
    from attar import api

    made = api.import_(**given)
    if as_json:
        print_json({"path": str(made.path), "images": len(made), "bytes": made.sizes["total"]})
        return
    echo(f"distilled dataset: {made.path} ({len(made)} images, {made.sizes['total']:,} bytes)")


@command_of("PushOptions", panel=PANEL)
def push(given: dict[str, Any], as_json: bool) -> None:
    """Upload DISTILLED to the Hugging Face hub, with your token of `hf auth login` or HF_TOKEN."""
    from attar import api

    done = api.push(**given)
    if as_json:
        print_json({"repository": done.repository, "url": done.url, "files": done.files, "dry_run": done.dry_run})
        return
    for name, num_bytes in done.files.items() if done.dry_run else ():
        echo(f"{binary_size(num_bytes):>9}  {name}")
    total = binary_size(sum(done.files.values()))
    echo(f"{len(done.files)} files, {total} {'would go to' if done.dry_run else 'are at'} {done.url}")


@command_of("VerifyOptions", panel=PANEL)
def verify(given: dict[str, Any], as_json: bool) -> None:
    """Check DISTILLED: sums, schema, ranges. Any flipped byte is found."""
    from attar import api

    found = api.verify(**given)
    if as_json:
        print_json({"problems": list(found.problems), "files": found.files, "bytes": found.bytes})
    elif not found.problems:
        echo(f"{given['distilled']}: {found.files} files, {found.bytes:,} bytes, all as written")
    else:
        for problem in found.problems:
            echo(problem)
    if found.problems:
        raise typer.Exit(4)
