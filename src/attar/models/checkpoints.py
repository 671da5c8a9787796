"""A checkpoint's file: the tensors of its state dict, and nothing else of what is in it.

    .safetensors                tensors, and notes about them
    what torch.save wrote       a state dict, at the top or within {"state_dict": ...}, {"net": ...} and the like

Nothing is unpickled: see `runtime.torchfile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from attar.errors import ArtifactError
from attar.runtime.torchfile import read_torch

_MOST_WRAPPERS = 4
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""What training programs call the state dict in a checkpoint; another name is taken where one alone has tensors."""


def read_state(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors of a checkpoint by name, on the CPU, and the notes of a safetensors file.

    Raises ArtifactError where the file is missing, cannot be read without running something, holds no state dict, or
    values that are not finite.
    """
    if not path.is_file():
        raise ArtifactError(
            f"there is no file {path}",
            expected="a checkpoint, or `released`, or a name of released weights",
            fix="correct squeeze.weights",
        )
    if path.suffix == ".safetensors":
        state, notes = _safetensors(path)
    else:
        state, notes = _unwrapped(read_torch(path, "weights")), {}
    odd = [name for name, value in state.items() if value.is_complex() or not value.isfinite().all()]
    if odd:
        raise ArtifactError(
            f"{path}: {_first(odd)} {'holds' if len(odd) == 1 else 'hold'} values that are not finite numbers",
            expected="plain tensors of finite numbers",
            fix="fetch it again; a network that diverged in training is of no use",
        )
    if not state:
        raise ArtifactError(
            f"{path} holds no state dict",
            expected=f"tensors by name, at the top or under {', '.join(_WRAPPERS)}",
            fix="torch.save(model.state_dict(), 'weights.pt') and give that file",
        )
    return state, notes


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # a broken or hostile file may raise anything
        raise ArtifactError(f"{path} cannot be read as weights: {error}", fix="fetch it again") from error


def _unwrapped(loaded: Any, most: int = _MOST_WRAPPERS) -> dict[str, Tensor]:
    """Tensors by name within a value, which may hold itself: no deeper than `most`."""
    if not isinstance(loaded, Mapping) or not most:
        return {}
    for key in _WRAPPERS:
        if state := _unwrapped(loaded.get(key), most - 1):
            return state
    if state := _tensors(loaded):
        return state
    states = [state for value in loaded.values() if isinstance(value, Mapping) and (state := _tensors(value))]
    return states[0] if len(states) == 1 else {}


def _tensors(loaded: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
