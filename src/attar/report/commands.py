"""The command lines that make a run again; the calls, where real images were those of a Python program."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.report.alike import IN_MEMORY, as_measured, python_call
from attar.report.collect import ReportData, mapping
from attar.report.headline import accuracies
from attar.results.records import Record
from attar.results.verdict import pairs

FLOAT = "32-true"
"""The precision of a CPU, unless another is asked for."""


@dataclass(frozen=True)
class Command:
    """A command line and what it is for."""

    purpose: str
    line: str


def commands(data: ReportData) -> list[Command]:
    """Distill, where a run did; evaluate where there is something to evaluate, and draw the page."""
    unknown = data.outside and not data.description.get("command")
    made = [] if unknown else [Command("Distill", _distill_command(data))]
    if data.description:
        made.append(Command("Evaluate", evaluate_command(data)))
    return [*made, Command("Draw this page", shlex.join(["attar", "report", data.run]))]


def evaluate_command(data: ReportData) -> str:
    """Command line of the evaluation that the records came from, or of the default one."""
    run, measured = data.settings.get("run", {}), accuracies(data.records)
    asked = _asked(data, measured)
    if _source(data).startswith(IN_MEMORY):
        return _evaluate_call(data, asked)
    named = [str(Path(data.run) / "distilled"), "--source", str(run.get("source", "SOURCE"))]
    lies = data.settings.get("source", {}).get("data_dir")
    named += ["--data-dir", str(lies)] if lies else []
    words = ["attar", "evaluate", *(data.outside.arguments() if data.outside else named)]
    for name, value in asked.flags.items():
        words.append(f"--{name}")
        if value is not True:
            words.append(",".join(value) or "none" if isinstance(value, list) else str(value))
    return shlex.join([*words, *(word for text in asked.assigned for word in ("--set", text))])


@dataclass(frozen=True)
class _Asked:
    """What was asked for of an evaluation: options by their name, and assignments."""

    flags: Mapping[str, Any]
    assigned: tuple[str, ...]


def _asked(data: ReportData, measured: Sequence[Record]) -> _Asked:
    """What makes the records again: networks, seeds, baselines, and what is not as the set was made."""
    told = data.outside.settings if data.outside else ()
    if not measured:
        return _Asked({}, told)
    baselines = [group for group in dict.fromkeys(record.group for record in measured) if group != "distilled"]
    made = mapping(data.description.get("settings"))
    one = next((record for record in measured if record.group == "distilled"), measured[0])
    protocol, differing = as_measured(mapping(made.get("train")), mapping(made.get("evaluate")), one)
    precision, usual = one.protocol.get("precision"), "bf16-mixed" if data.judged_on.get("device") == "cuda" else FLOAT
    flags = {
        "models": list(dict.fromkeys(record.model for record in measured)),
        "seeds": one.n,
        "seed": one.seeds[0],
        "baselines": baselines,
        "protocol": protocol,
        "precision": None if precision == usual else precision,
        "scores": not all(record.augmented for record in measured),
    }
    both = not flags["scores"] and len({pair.labels for pair in pairs(measured)}) > 1
    labels = ["evaluate.labels=[stored,hard]"] if both else []
    return _Asked(
        {name: value for name, value in flags.items() if value or value == []},
        tuple(dict.fromkeys([*labels, *differing, *told])),
    )


def _source(data: ReportData) -> str:
    return str(data.outside.source if data.outside else data.settings.get("run", {}).get("source", ""))


def _evaluate_call(data: ReportData, asked: _Asked) -> str:
    out = {"out": data.outside.out} if data.outside and data.outside.out else {}
    path = data.outside.path if data.outside else data.run
    return python_call("evaluate", path, asked.assigned, **asked.flags, **out)


def _distill_command(data: ReportData) -> str:
    run = data.settings.get("run", {})
    if _source(data).startswith(IN_MEMORY):
        named = {name: run[name] for name in ("method", "ipc", "resolution", "seed") if run.get(name) is not None}
        return f"attar.distill((images, labels), {', '.join(f'{k}={v!r}' for k, v in named.items())}, out={data.run!r})"
    if command := data.description.get("command"):
        return shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    words = ["attar", "distill", str(run.get("source", "SOURCE"))]
    for name in ("method", "ipc", "resolution", "seed"):
        if run.get(name) is not None:
            words += [f"--{name}", str(run[name])]
    return shlex.join([*words, "--out", data.run])
