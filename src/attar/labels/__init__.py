"""Stored labels: the teacher's logits on replayed views, addressed by (epoch, image), behind codecs.

codecs.py   how a label becomes bytes          plan.py     what is stored, in which files; what a budget leaves
pairing.py  which stored epoch when            shards.py   the header of a file
writing.py  makes the files                    store.py    reads labels
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attar.labels.error import QuantizationError
    from attar.labels.pairing import paired_epochs
    from attar.labels.plan import LabelPlan, choose_plan
    from attar.labels.store import LabelStore
    from attar.labels.writing import EpochLogits, write_labels

__all__ = [
    "EpochLogits",
    "LabelPlan",
    "LabelStore",
    "QuantizationError",
    "choose_plan",
    "paired_epochs",
    "write_labels",
]

_HOME = {
    "error": ("QuantizationError",),
    "pairing": ("paired_epochs",),
    "plan": ("LabelPlan", "choose_plan"),
    "store": ("LabelStore",),
    "writing": ("EpochLogits", "write_labels"),
}


def __getattr__(name: str) -> Any:
    # plans and headers are read where torch is not wanted, by `attar.artifacts.verify` for one
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"attar.labels.{module}"), name)
    raise AttributeError(f"module 'attar.labels' has no attribute {name!r}")
