"""A run folder: what made it, which stages are complete, and the refusal of strangers.

    config.yaml        the resolved settings
    squeeze/ recover/  one folder a stage, each with manifest.json
    events.jsonl       what happened
    distilled/         the result

A stage's key is the hash of its settings and of its parents' keys. A folder that holds another key is
refused with what differs; the same key resumes, or is skipped where it is complete.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from attar.config import Change, differences
from attar.errors import ArtifactError
from attar.marks import Rules
from attar.runtime.events import Events, logs_of_shards, read_events
from attar.runtime.files import digest, read_json, sha256, write_json, write_text
from attar.runtime.holding import LOCK, held
from attar.runtime.reading import read_yaml
from attar.text import yaml_text

CONFIG = "config.yaml"
_EVENTS = "events.jsonl"
MANIFEST = "manifest.json"
STAGES = ("squeeze", "recover", "relabel", "distilled", "evaluation")
_TRIALS = ("trials", "trainings")
"""Folders of finished trainings of a bench and of a study."""
WORKED_IN = (*STAGES, *_TRIALS)
"""Folders of a run that are written into."""
_PRODUCTS = ("evaluation.json", "by_class.json", "real.safetensors", "continual.json", "report.html")


_LARGE_BYTES = 2_000_000_000
"""Files of a stage that are larger than this together take seconds to compare with their sums."""
_REDO = {
    "squeeze": "delete it and run `attar distill` again with --redo recover: it is made again, and what stands on it",
    "recover": "run `attar distill` again with --redo recover: the images are made again",
    "relabel": "run `attar distill` again with --redo relabel: the labels are made again",
}


class RunFolder:
    """One run on disk; `rules` say which settings may change while it is there."""

    def __init__(self, path: Path, rules: Rules | None = None) -> None:
        self.path, self.rules = path, rules or Rules()

    @property
    def events_path(self) -> Path:
        """The event log."""
        return self.path / _EVENTS

    @property
    def distilled(self) -> Path:
        """The distilled dataset."""
        return self.path / "distilled"

    def require_free(self) -> None:
        """Raise ArtifactError where the folder is no run and holds files that are not of attar; writes nothing."""
        if not (self.path / CONFIG).exists() and (foreign := _foreign(self.path)):
            raise ArtifactError(
                f"{self.path} is not empty and not a run of attar: it holds {', '.join(foreign[:5])}",
                fix="choose another --out",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process and remove what killed ones left half-written; see `holding.held`."""
        with held(self.path, WORKED_IN):
            yield

    def open(
        self, settings: Mapping[str, Any], *, fresh: bool = False, redo: str | None = None, alone: bool = False
    ) -> None:
        """Claim the folder for these settings; `fresh` starts over, `redo` from the stage of that name on.

        Who is `alone` in it, no shard of several, starts over as well where nothing has been made there yet.
        Raises ArtifactError where it was made with others (each difference named) that what is kept depends on, or
        holds files that attar did not make.
        """
        config = self.path / CONFIG
        if config.exists():
            if not fresh and alone and self._is_bare():
                fresh = bool(self.changes(settings))
            if not fresh:
                self._require_same(settings, redo)
            if fresh or redo:
                self._clear(STAGES[0] if fresh or redo is None else redo)
        else:
            self.require_free()
        write_text(config, yaml_text(settings))

    def _require_same(self, settings: Mapping[str, Any], redo: str | None) -> None:
        """Raise ArtifactError unless these made the folder, but for numbers that grow and what is done again."""
        before = self.settings()
        grown = self.rules.grown(before, settings)
        changed = self.changes(settings)
        if changed := [change for change in changed if redo is None or self._decided_before(change, redo)]:
            raise ArtifactError(
                f"{self.path} was made with other settings:\n" + "\n".join(f"  - {c}" for c in changed),
                expected="the same settings, to go on with it",
                fix="choose another --out, or start over with --fresh (--redo recover keeps what squeeze made)",
            )
        after = [name for name in STAGES[1:] if (self.path / name).exists()]
        if grown != before and after and redo != STAGES[1]:
            raise ArtifactError(
                f"{self.path / after[0]} was made with what squeeze holds now, and it is to hold more:\n"
                + "\n".join(f"  - {c}" for c in differences(before, grown)),
                expected="a run folder that has gone no further than squeeze, or leave to begin again from there",
                fix="add --redo recover to `attar distill`, or choose another --out",
            )

    def changes(self, settings: Mapping[str, Any]) -> list[Change]:
        """How these settings differ from those that made the folder, but for numbers that grow."""
        grown = self.rules.grown(self.settings(), settings)
        return differences(self.rules.comparable(grown), self.rules.comparable(settings))

    def _is_bare(self) -> bool:
        """Whether an earlier run ended before it made anything."""
        made = (path for name in WORKED_IN for path in (self.path / name).rglob("*") if path.name != MANIFEST)
        return not (any(made) or logs_of_shards(self.path))

    def _decided_before(self, change: Change, redo: str) -> bool:
        """Whether a setting decides a stage that comes before the one done again."""
        stage = self.rules.stage(change.path)
        return stage is not None and STAGES.index(stage) < STAGES.index(redo)

    def settings(self) -> dict[str, Any]:
        """The resolved settings that made this folder."""
        path = require_run(self.path) / CONFIG
        loaded = read_yaml(path, "start over with --fresh")
        if odd := [name for name, section in loaded.items() if not isinstance(section, dict)]:
            raise ArtifactError(
                f"{path} is damaged: {odd[0]} is no section",
                expected="settings by section",
                fix="start over with --fresh",
            )
        return loaded

    def stage(self, name: str, settings: Mapping[str, Any], parents: Iterable[Stage] = ()) -> Stage:
        """The stage of this name under these settings; raises ArtifactError where it was made with others."""
        return Stage(self.path / name, name, settings, tuple(parents), self.rules)

    def _clear(self, first: str) -> None:
        """Delete what attar made here from the stage `first` on, and nothing else."""
        kept = STAGES[: STAGES.index(first)]
        for name in STAGES[len(kept) :]:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in _PRODUCTS:
            (self.path / name).unlink(missing_ok=True)
        lines = [json.dumps(event) for event in read_events(self.events_path) if event.get("stage") in kept]
        write_text(self.events_path, "".join(line + "\n" for line in lines))
        for log in logs_of_shards(self.path):
            log.unlink()


class Stage:
    """One stage's folder and manifest."""

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: Mapping[str, Any],
        parents: tuple[Stage, ...] = (),
        rules: Rules | None = None,
    ) -> None:
        self.folder, self.name, self.settings, self._rules = folder, name, dict(settings), rules or Rules()
        self.parents: dict[str, str] = {parent.name: parent.key for parent in parents}
        self.key: str = digest({"stage": name, "settings": self.settings, "parents": self.parents})
        self._manifest = folder / MANIFEST
        self._note: dict[str, Any] = {}
        self._started_s = 0.0
        self._refuse_strangers()

    @property
    def complete(self) -> bool:
        """Whether the stage has ended and its files are all there, with the sizes they had; see `require_intact`."""
        if not self._manifest.exists():
            return False
        manifest = self.manifest()
        return bool(manifest.get("complete") and manifest.get("key") == self.key) and all(
            (self.folder / name).is_file() and (self.folder / name).stat().st_size == note["bytes"]
            for name, note in manifest["files"].items()
        )

    def manifest(self) -> dict[str, Any]:
        """What the manifest says; raises ArtifactError where it is missing or damaged."""
        return _manifest(self._manifest)

    @contextmanager
    def making(
        self, files: list[str], turn: Callable[[], AbstractContextManager[None]] = nullcontext, **notes: Any
    ) -> Iterator[None]:
        """Run the body that makes the stage; at its end the manifest says `complete`, and sums of `files`.

        The caller may fill `files` inside the body, or call `finish` there. `notes` (seed, hardware, versions) go into
        the manifest. `turn` keeps other processes that make the stage from the manifest; what one of them has completed
        stays as it is.
        """
        self._started_s = time.monotonic()
        self._note = {
            "stage": self.name,
            "key": self.key,
            "settings": self.settings,
            "parents": self.parents,
            **notes,
        }
        with turn():
            self._write({}, complete=False)
        try:
            yield
        except BaseException:
            with turn():
                self._write({}, complete=False)
            raise
        with turn():
            self.finish(files)

    def finish(self, files: Iterable[str]) -> None:
        """Write into the manifest, inside `making`, that the stage is complete, and the sums of its files."""
        if not self.complete:
            sums = {
                name: {"bytes": (self.folder / name).stat().st_size, "sha256": sha256(self.folder / name)}
                for name in sorted(files)
            }
            self._write(sums, complete=True)

    def _write(self, sums: Mapping[str, Any], *, complete: bool) -> None:
        """Write the manifest, unless it says that the stage is complete; time is added to what was spent before."""
        if self.complete:
            return
        spent_s = self.manifest()["wall_s"] if self._manifest.exists() else 0.0
        now_s = time.monotonic()
        wall_s = round(spent_s + now_s - self._started_s, 2)
        self._started_s = now_s
        write_json(self._manifest, {**self._note, "complete": complete, "wall_s": wall_s, "files": dict(sums)})

    def _refuse_strangers(self) -> None:
        if not self._manifest.exists():
            return
        before = self.manifest()
        if before.get("key") == self.key:
            return
        settings = before["settings"]
        changed = differences(grown := self._rules.grown(settings, self.settings), self.settings)
        if grown != settings and not changed and before["parents"] == self.parents:
            return
        told = [str(change) for change in changed] or [
            f"made from another {name} ({old} before, {self.parents.get(name)} now)"
            for name, old in before["parents"].items()
            if old != self.parents.get(name)
        ]
        raise ArtifactError(
            f"{self.folder} was made with other settings:\n" + "\n".join(f"  - {line}" for line in told),
            expected="the same settings, to go on with it",
            fix="choose another --out, or start over with --fresh",
        )


def require_intact(folder: Path, events: Events | None = None) -> None:
    """Compare the files of a finished stage with the sums in its manifest; says so where they are large.

    Raises ArtifactError that names a file which holds other bytes than were written. A file that is missing or of
    another size is not looked at: its stage is not complete.
    """
    path = folder / MANIFEST
    manifest = _manifest(path)
    if not manifest.get("complete"):
        return
    files = {name: note for name, note in manifest["files"].items() if (folder / name).is_file()}
    total = sum(note["bytes"] for note in files.values())
    if events is not None and total > _LARGE_BYTES:
        events.say(f"comparing {len(files):,} files of {folder.name} with their sums: {total / 1e9:.1f} GB")
    for name, note in files.items():
        if (folder / name).stat().st_size == note["bytes"] and sha256(folder / name) != note["sha256"]:
            raise ArtifactError(
                f"{folder / name} is damaged: its bytes are not those that {path} lists",
                expected="the bytes that the stage wrote",
                fix=_REDO.get(folder.name, "make it again"),
            )


def _manifest(path: Path) -> dict[str, Any]:
    """What a manifest says; raises ArtifactError where it is missing or damaged."""
    found = read_json(path)
    if problem := _damage(found):
        raise ArtifactError(
            f"{path} is damaged: {problem}",
            expected="the manifest of a stage",
            fix=f"delete it, and {path.parent.name} is made again; or start over with --fresh",
        )
    kept: dict[str, Any] = {"settings": {}, "parents": {}, "files": {}, "wall_s": 0.0, **found}
    return kept


def require_run(path: Path) -> Path:
    """The path, if it is a run folder; else an ArtifactError."""
    if not (path / CONFIG).is_file():
        raise ArtifactError(
            f"{path} is not a run folder: it has no {CONFIG}",
            fix="give the folder that `attar distill` or `attar squeeze` wrote, such as runs/digits-tesla-ipc1",
        )
    return path


def versions() -> dict[str, str]:
    """Versions of attar and of the libraries that shape a result."""
    from importlib.metadata import version

    from attar.version import __version__

    names = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "safetensors", "pyarrow")
    return {"attar": __version__, **{name: version(name) for name in names}}


def _damage(manifest: Any) -> str:
    """What is wrong with the parts of a manifest that are relied on, in words; empty where nothing is."""
    if not isinstance(manifest, dict):
        return "not a mapping"
    for name in ("settings", "parents", "files"):
        if not isinstance(manifest.get(name, {}), dict):
            return f"{name} is no mapping"
    for name, note in manifest.get("files", {}).items():
        sound = isinstance(note, dict) and isinstance(note.get("bytes"), int) and isinstance(note.get("sha256"), str)
        if not sound or not _inside(name):
            return f"what it says of the file {name!r}"
    wall_s = manifest.get("wall_s", 0.0)
    return "" if isinstance(wall_s, int | float) and wall_s >= 0 else f"wall_s is {str(wall_s)[:50]!r}"


def _inside(name: str) -> bool:
    """Whether a stage's file is named within the stage's folder, or within the distilled dataset beside it."""
    parts = Path(name.removeprefix("../distilled/")).parts
    return bool(parts) and "\0" not in name and ".." not in parts and not Path(name).is_absolute() and parts[0] != "/"


def _foreign(path: Path) -> list[str]:
    known = {*STAGES, *_PRODUCTS, CONFIG, _EVENTS, LOCK}
    if not path.is_dir():
        return []
    logs = {log.name for log in logs_of_shards(path)}
    return sorted(
        entry.name
        for entry in path.iterdir()
        if entry.name not in known | logs and not entry.name.endswith(".tmp") and not entry.name.startswith(f"{LOCK}-")
    )
