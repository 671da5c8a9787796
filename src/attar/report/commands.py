"""The command lines that make a run again; the calls, where real images were those of a Python program."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.report.alike import IN_MEMORY, python_call
from attar.report.collect import ReportData
from attar.report.headline import accuracies
from attar.results.verdict import pairs


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
    run = data.settings.get("run", {})
    if _source(data).startswith(IN_MEMORY):
        return _evaluate_call(data)
    named = [str(Path(data.run) / "distilled"), "--source", str(run.get("source", "SOURCE"))]
    words = ["attar", "evaluate", *(data.outside.arguments() if data.outside else named)]
    measured = accuracies(data.records)
    if measured:
        baselines = dict.fromkeys(record.group for record in measured if record.group != "distilled")
        words += ["--models", ",".join(dict.fromkeys(r.model for r in measured))]
        words += ["--seeds", str(measured[0].n)]
        words += ["--baselines", ",".join(baselines)] if baselines else []
        if not all(record.augmented for record in measured):
            words.append("--scores")
        elif len({pair.labels for pair in pairs(measured)}) > 1:
            words += ["--set", "evaluate.labels=[stored,hard]"]
    told = [text for text in (data.outside.settings if data.outside else ()) if text not in words]
    return shlex.join([*words, *(word for text in told for word in ("--set", text))])


def _source(data: ReportData) -> str:
    return str(data.outside.source if data.outside else data.settings.get("run", {}).get("source", ""))


def _evaluate_call(data: ReportData) -> str:
    measured = accuracies(data.records)
    more: dict[str, Any] = {}
    if measured:
        more["models"] = list(dict.fromkeys(record.model for record in measured))
        more["seeds"] = measured[0].n
        more["baselines"] = [group for group in dict.fromkeys(r.group for r in measured) if group != "distilled"]
    if data.outside:
        more |= {"out": data.outside.out} if data.outside.out else {}
        return python_call("evaluate", data.outside.path, data.outside.settings, **more)
    return python_call("evaluate", data.run, **more)


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
