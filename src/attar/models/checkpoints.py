"""A checkpoint's file: the tensors of its state dict, and nothing else of what is in it.

    .safetensors                tensors, and notes about them
    what torch.save wrote       a state dict, at the top or within {"state_dict": ...}, {"net": ...} and the like

Nothing is unpickled. `torch.load(weights_only=True)` reads the tensors; what training programs save beside them (an
`argparse.Namespace`, a numpy scalar, a scheduler) becomes a stand-in that holds nothing and does nothing, whatever its
name is: no name in the file is looked up.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from attar.errors import ArtifactError

MOST_WRAPPERS = 4
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""What training programs call the state dict in a checkpoint; another name is taken where one alone has tensors."""
HARMFUL = (
    *("builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "importlib", "runpy", "shutil", "socket"),
    *("pickle", "ctypes", "pty", "code", "commands", "webbrowser"),
)
"""Modules that nothing in a checkpoint comes from: a file that names one is refused, though nothing would be run."""
USUAL = (
    "argparse.Namespace",
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
"""Names that a file from before torch 1.6, in which names cannot be listed beforehand, may hold beside tensors."""


class StandIn:
    """Takes the place of an object that is no tensor: it takes everything, and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Make it of whatever the object is made of."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Leave out the object's attributes."""


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
    try:
        loaded, notes = _safetensors(path) if path.suffix == ".safetensors" else (read_tensors_alone(path), {})
        state = _unwrapped(loaded)
        odd = [name for name, value in state.items() if not is_plain(value)]
    except Exception as error:  # a broken or hostile file may raise anything
        raise ArtifactError(
            f"{path} cannot be read as weights alone, and nothing in it was run: {_reason(error)}",
            expected="a safetensors file, or a state dict of tensors written by torch.save",
            fix="load it where you trust it, then torch.save(model.state_dict(), 'weights.pt') and give that file",
        ) from error
    if odd:
        raise ArtifactError(
            f"{path}: {_first(odd)} {'holds' if len(odd) == 1 else 'hold'} values that are not finite numbers",
            expected="plain tensors of finite numbers",
            fix="fetch it again; a network that diverged in training is of no use",
        )
    if not state:
        raise ArtifactError(
            f"{path} holds no state dict",
            expected=f"tensors by name, at the top or under {', '.join(WRAPPERS)}",
            fix="torch.save(model.state_dict(), 'weights.pt') and give that file",
        )
    return state, notes


def read_tensors_alone(path: Path, *, mapped: bool = False) -> Any:
    """What torch.save wrote, with a StandIn for all that is neither a tensor nor a plain value.

    `mapped` leaves the tensors' numbers on disk until they are used, where the file is of torch 1.6 or later. Raises
    nearly anything for a file that is damaged or would run something.
    """
    zipped = zipfile.is_zipfile(path)
    names = get_unsafe_globals_in_checkpoint(path) if zipped else list(USUAL)
    if harmful := [name for name in names if name.partition(".")[0] in HARMFUL]:
        raise ValueError(f"it calls {', '.join(harmful[:3])}")
    with safe_globals([(StandIn, name) for name in names]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipped)


def is_plain(value: Tensor) -> bool:
    """Whether it holds finite numbers, as they are: no sparse, quantised or missing ones."""
    plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    return plain and not value.is_complex() and bool(value.isfinite().all())


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _unwrapped(loaded: Any, most: int = MOST_WRAPPERS) -> dict[str, Tensor]:
    """Tensors by name within a value, which may hold itself: no deeper than `most`."""
    if not isinstance(loaded, Mapping) or not most:
        return {}
    for key in WRAPPERS:
        if state := _unwrapped(loaded.get(key), most - 1):
            return state
    if state := _tensors(loaded):
        return state
    states = [state for value in loaded.values() if isinstance(value, Mapping) and (state := _tensors(value))]
    return states[0] if len(states) == 1 else {}


def _tensors(loaded: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
