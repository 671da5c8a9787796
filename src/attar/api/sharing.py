"""Open a distilled dataset, check it, draw its page; other people's formats, both ways; the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.api.arguments import takes
from attar.api.options import ExportOptions, ImportOptions, PushOptions, ReportOptions, VerifyOptions
from attar.errors import ConfigError, unknown
from attar.options import HasPath, PathLike, given, path_of
from attar.runtime.events import Events

if TYPE_CHECKING:
    from attar.artifacts.distilled import Distilled
    from attar.artifacts.verify import VerifyReport
    from attar.interop.folder import Export
    from attar.interop.hub import Push


def load(path: PathLike | HasPath) -> Distilled:
    """Open a distilled dataset, or the one in a run folder: images, labels, a torch Dataset, a DataLoader.

    What `distill` returned may be given in place of a path.
    """
    from attar.artifacts.distilled import load_distilled

    return load_distilled(Path(path_of(path)))


@takes(VerifyOptions)
def verify(asked: VerifyOptions) -> VerifyReport:
    """Check a distilled dataset: every byte, the schema of every file, and whether their values agree.

    Raises ArtifactError where there is no such folder; all else is told in what is returned.
    """
    from attar.artifacts.verify import verify as check

    return check(asked.distilled)


@takes(ReportOptions)
def write_report(asked: ReportOptions) -> Path:
    """Write the page of a run, of a study's folder, or of another set that was judged; return where it is."""
    from attar.artifacts.run import require_run
    from attar.report.bench import RESULT, write_bench_report
    from attar.report.outside import JUDGED, find_judged
    from attar.report.page import write_report as draw
    from attar.report.study import PAGE, write_study_report

    folder, out = find_judged(Path(asked.path)), page_folder(asked.out, PAGE)
    page = out / PAGE if out else None
    if (Path(asked.path) / RESULT).is_file():
        return write_bench_report(Path(asked.path), page)
    if (Path(asked.path) / "study.json").is_file():
        return write_study_report(Path(asked.path), page)
    return draw(folder if (folder / JUDGED).is_file() else require_run(folder), page)


@takes(ExportOptions)
def export(asked: ExportOptions) -> Export:
    """Write a distilled dataset in another format, with a loader that needs no attar.

    Returns what was written, and a line for each thing that the format cannot hold.
    """
    from attar.interop import EXPORTERS

    if asked.to not in EXPORTERS:
        raise unknown("format", asked.to, EXPORTERS)
    return EXPORTERS[asked.to][0](load(asked.distilled), Path(asked.out), overwrite=asked.overwrite)


@takes(ImportOptions)
def import_(asked: ImportOptions) -> Distilled:
    """Turn other people's distilled images into a distilled dataset. To judge them only, give them to `evaluate`.

    Raises ArtifactError or ConfigError where it cannot be read, or what its values are cannot be told.
    """
    from attar.interop.opening import import_foreign

    reading, name = given(asked).get("source", {}), str(asked.source) if asked.source is not None else None
    more: dict[str, Any] = {"given": reading, "overwrite": asked.overwrite, "events": Events(quiet=asked.quiet)}
    return import_foreign(Path(asked.path), Path(asked.out), asked.kind, name, asked.assigned, **more)


@takes(PushOptions)
def push(asked: PushOptions) -> Push:
    """Upload a distilled dataset to the Hugging Face hub as one commit, with your token.

    Raises ArtifactError where it is damaged, ConfigError where the name, the token or the hub says no, ResourceError
    where the hub cannot be reached.
    """
    from attar.interop.hub import push as upload

    return upload(Path(asked.distilled), asked.repository, private=asked.private, dry_run=asked.dry_run)


def page_folder(out: PathLike | None, page: str) -> Path | None:
    """The folder that a page goes to, by its name there; raises ConfigError for what looks like a page itself."""
    if out is not None and Path(out).suffix.lower() in (".html", ".htm"):
        raise ConfigError(
            f"--out names a folder, and {out} looks like a page",
            expected=f"a folder, into which {page} is written",
            fix=f"--out {Path(out).with_suffix('')}",
        )
    return Path(out) if out is not None else None


def is_distilled(data: PathLike) -> bool:
    """Whether a path is a distilled dataset or a run folder with one."""
    path = Path(path_of(data))
    return (path / "attar.json").is_file() or (path / "distilled" / "attar.json").is_file()
