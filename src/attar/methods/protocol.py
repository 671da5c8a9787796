"""How students are trained and judged on images that a teacher made or chose: soft labels for every epoch.

They are judged by the protocol `soft-labels`, with soft labels and with hard ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOFT_LABELS: Mapping[str, Mapping[str, Any]] = {
    "relabel": {"labels": "epochs"},
    "evaluate": {"protocol": "soft-labels"},
}
"""Defaults of the sections relabel and evaluate."""
