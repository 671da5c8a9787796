"""The command line that judges one set as another was judged, so that both may be compared. Needs no torch."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attar.results.records import Record

IN_MEMORY = "memory-"
"""Names of sources that a program handed over, as `attar.data.named.memory` makes them, begin so."""
_WHOLE = ("optimizer_options",)
"""Settings of a training that are a mapping themselves, and no group of settings."""


@dataclass(frozen=True)
class Judging:
    """How a set can be judged again.

    Attributes:
        path: the set, as `attar evaluate` takes it.
        source: the real images, by the name that they were opened by; empty where that is not known.
        data_dir: where those lie that go by a name.
        train: settings of the training that come with the set, or the defaults.
        evaluate: those of the section `evaluate` that come with the set.
        kept: assignments that say what another program's images are.
    """

    path: str
    source: str
    data_dir: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    kept: Sequence[str] = ()


def judged_alike(again: Judging, recorded: Record, like: Record, models: Sequence[str], out: Path) -> str:
    """The command that judges a set as `like` was measured, into a folder of its own.

    Args:
        again: the set that is to be judged again.
        recorded: an accuracy of it as it was judged.
        like: an accuracy of the set whose conditions are wanted.
        models: the networks to train.
        out: where the records go.

    Of images that a Python program handed over it is the call; empty where the source isn't known.
    """
    if not again.source:
        return ""
    assigned = [*again.kept, *_training(again.train, recorded, like), *_judging(again.evaluate, recorded, like)]
    precision = like.protocol.get("precision")
    more: dict[str, Any] = {}
    if like.followed and _follows_another(recorded, like):
        more["protocol"] = like.followed.name
        changed = [text for text in like.followed.changed if text.startswith(("train.", "evaluate."))]
        assigned = [*changed, *(text for text in assigned if text not in changed)]
    if again.source.startswith(IN_MEMORY):
        return python_call("evaluate", again.path, assigned, models=list(models), seeds=like.n, **more, out=str(out))
    words = ["attar", "evaluate", again.path, "--source", again.source]
    words += ["--data-dir", again.data_dir] if again.data_dir else []
    words += ["--models", ",".join(models), "--seeds", str(like.n)]
    words += ["--protocol", more["protocol"]] if more else []
    words += ["--precision", str(precision)] if precision != recorded.protocol.get("precision") and precision else []
    words += [word for text in assigned for word in ("--set", text)]
    return shlex.join([*words, "--out", str(out)])


def as_measured(train: Mapping[str, Any], evaluate: Mapping[str, Any], record: Record) -> tuple[str | None, list[str]]:
    """The protocol and the assignments by which a set made with these settings is judged as `record` was."""
    judged = list(_judging(evaluate, record, record))
    if record.followed and record.followed.name != evaluate.get("protocol"):
        changed = [text for text in record.followed.changed if text.startswith(("train.", "evaluate."))]
        return record.followed.name, list(dict.fromkeys([*changed, *judged]))
    known = {key: value for key, value in record.protocol.items() if key in train}  # one of before had fewer
    return None, [*_training(train, record, replace(record, protocol=known)), *judged]


def python_call(name: str, path: str, assigned: Sequence[str] = (), **more: Any) -> str:
    """A call of a function of attar on a set or run whose real images, `images, labels`, are those of a program."""
    given = [f"{key}={value!r}" for key, value in more.items()]
    settings = [f"settings={list(assigned)!r}"] if assigned else []
    return f"attar.{name}({', '.join([repr(path), '(images, labels)', *given, *settings])})"


def out_of(path: Path, like: Path) -> Path:
    """The folder beside `path` for what is judged as `like` was."""
    return path.with_name(f"{path.name}-as-{re.sub(r'[^A-Za-z0-9._-]+', '-', like.name)}")


def _follows_another(recorded: Record, like: Record) -> bool:
    """Whether two accuracies are by different protocols."""
    titles = [one.followed.title if one.followed else None for one in (recorded, like)]
    return titles[0] != titles[1]


def _training(made: Mapping[str, Any], recorded: Record, like: Record) -> Iterator[str]:
    wanted = {key: value for key, value in like.protocol.items() if key != "precision"}
    yield from (f"train.{key}={_text(value)}" for key, value in _differing(wanted, made, recorded.protocol))
    if wanted.get("learning_rate") != recorded.protocol.get("learning_rate"):
        yield "evaluate.use_learned_rate=false"


def _judging(made: Mapping[str, Any], recorded: Record, like: Record) -> Iterator[str]:
    for key, value, had in (("split", like.split, "test"), ("test_resize_px", like.resize_px, None)):
        if value != made.get(key, had):
            yield f"evaluate.{key}={_text(value)}"


def _differing(wanted: Mapping[str, Any], *others: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings that another mapping has otherwise or not at all, those of a group by `group.name`."""
    for key, value in wanted.items():
        found = [other.get(key) for other in others]
        if isinstance(value, Mapping) and key not in _WHOLE:
            groups = [one if isinstance(one, Mapping) else {} for one in found]
            yield from ((f"{key}.{name}", inner) for name, inner in _differing(value, *groups))
        elif any(_text(one) != _text(value) for one in found):
            yield key, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
