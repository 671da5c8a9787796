"""Open a distilled dataset, check it, draw its page; other people's formats, both ways; the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.api.arguments import PathLike, Settings, assignments, given
from attar.errors import unknown
from attar.runtime.events import Events

if TYPE_CHECKING:
    from attar.artifacts.distilled import Distilled
    from attar.artifacts.verify import VerifyReport
    from attar.interop.folder import Export
    from attar.interop.hub import Push


def load(path: PathLike) -> Distilled:
    """Open a distilled dataset, or the one in a run folder: images, labels, a torch Dataset, a DataLoader."""
    from attar.artifacts.distilled import load_distilled

    return load_distilled(Path(path))


def verify(distilled: PathLike) -> VerifyReport:
    """Check a distilled dataset: every byte, the schema of every file, and whether their values agree.

    Args:
        distilled: its folder, or a run folder that holds one.

    Raises ArtifactError where there is no such folder; all else is told in what is returned.
    """
    from attar.artifacts.verify import verify as check

    return check(distilled)


def write_report(path: PathLike, out: PathLike | None = None) -> Path:
    """Write the page of a run, of a study's folder, or of another set that was judged; return where it is.

    Args:
        path: the folder; for a set that is in no run, its own or the one it was judged in.
        out: the page; None takes `report.html` in the folder.
    """
    from attar.artifacts.run import require_run
    from attar.report.outside import JUDGED, find_judged
    from attar.report.page import write_report as draw
    from attar.report.study import write_study_report

    folder, page = find_judged(Path(path)), Path(out) if out else None
    if (Path(path) / "study.json").is_file():
        return write_study_report(Path(path), page)
    return draw(folder if (folder / JUDGED).is_file() else require_run(folder), page)


def export(distilled: PathLike, out: PathLike, to: str = "imagefolder", *, overwrite: bool = False) -> Export:
    """Write a distilled dataset in another format, with a loader that needs no attar.

    Args:
        distilled: its folder, or a run folder that holds one.
        out: folder to write to; must be new or empty, unless `overwrite`.
        to: imagefolder, tensors or webdataset.
        overwrite: replace an export that is there.

    Returns what was written, and a line for each thing that the format cannot hold.
    """
    from attar.interop import EXPORTERS

    if to not in EXPORTERS:
        raise unknown("format", to, EXPORTERS)
    return EXPORTERS[to][0](load(distilled), Path(out), overwrite=overwrite)


def import_(
    path: PathLike,
    out: PathLike,
    kind: str = "auto",
    *,
    source: PathLike | None = None,
    settings: Settings = (),
    data_dir: PathLike | None = None,
    resolution: int | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> Distilled:
    """Turn other people's distilled images into a distilled dataset. To judge them only, give them to `evaluate`.

    Args:
        path: a folder of images, .pt tensors or shards; or one such file. See `attar.interop.foreign`.
        out: where the distilled dataset goes; must be new or empty, unless `overwrite`.
        kind: its format: auto, imagefolder, tensors or webdataset.
        source: the real images that it was made from: they give class names, and normalisation where need be.
        settings: of the section `foreign`, which says what the files leave open, and of `source`.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        resolution: bring real images to this many pixels.
        overwrite: replace a distilled dataset at `out`.
        quiet: do not say what its values were taken to be.

    Raises ArtifactError or ConfigError where it cannot be read, or what its values are cannot be told.
    """
    from attar.interop.opening import import_foreign

    reading = given(data_dir=data_dir, resolution=resolution)
    name = str(source) if source is not None else None
    more: dict[str, Any] = {"given": reading, "overwrite": overwrite, "events": Events(quiet=quiet)}
    return import_foreign(Path(path), Path(out), kind, name, assignments(settings), **more)


def push(distilled: PathLike, repository: str, *, private: bool = False, dry_run: bool = False) -> Push:
    """Upload a distilled dataset to the Hugging Face hub as one commit, with your token.

    Args:
        distilled: its folder, or a run folder that holds one.
        repository: OWNER/NAME; made where there is none.
        private: only the owner sees a repository that is made.
        dry_run: say what would go, and ask nothing of the hub.

    Raises ArtifactError where it is damaged, ConfigError where the name, the token or the hub says no, ResourceError
    where the hub cannot be reached.
    """
    from attar.interop.hub import push as upload

    return upload(Path(distilled), repository, private=private, dry_run=dry_run)


def is_distilled(data: PathLike) -> bool:
    """Whether a path is a distilled dataset or a run folder with one."""
    path = Path(data)
    return (path / "attar.json").is_file() or (path / "distilled" / "attar.json").is_file()
