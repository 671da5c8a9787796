"""What a protocol means for one evaluation: its network for a task, and in what an accuracy departs from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.augment.views import ViewSettings
from attar.config import differences, dump, value_text
from attar.models.resnet import resnet18_for
from attar.protocols import protocol
from attar.results.records import Followed
from attar.task import Task
from attar.training.settings import TrainSettings

HOW = ("memory_format", "sync_batch_norm")
"""Settings of a training that move its last bits, or those of several processes, and are no departure."""


def network_of(name: str, task: Task) -> str | None:
    """The network that a protocol judges by, for a task; None where it leaves that open."""
    network = protocol(name).network
    return resnet18_for(task.height_px, task.width_px) if network == "resnet18" else network


def followed(
    name: str,
    training: TrainSettings,
    model: str,
    task: Task,
    judging: Mapping[str, Any],
    views: ViewSettings | None = None,
) -> Followed:
    """Which protocol an accuracy is by, and every setting that is not as it says.

    Args:
        name: of the protocol, or its file.
        training: of the distilled set, before its own learnt rate is put in.
        model: the network.
        task: classes and size of the images.
        judging: the fields of `evaluate` that a protocol may set and that no other field of a record tells.
        views: what soft labels are of; None: of nothing that a protocol speaks of.
    """
    found = protocol(name)
    wanted = dump(type(training).model_validate(dict(found.sections["train"])))
    changed = [one for one in differences(wanted, dump(training), "train.") if one.path.split(".")[1] not in HOW]
    said = {key: value for key, value in found.sections.get("evaluate", {}).items() if key in judging}
    changed += differences(said, {key: judging[key] for key in said}, "evaluate.")
    if views is not None:
        shown = {key: value for key, value in dump(views).items() if key in found.sections.get("relabel", {})}
        changed += differences({key: found.sections["relabel"][key] for key in shown}, shown, "relabel.")
    told = [f"{one.path}={value_text(one.now)}" for one in changed]
    if network_of(name, task) not in (None, model):
        told.append(f"network={model}")
    return Followed(found.name, found.version, tuple(told))
