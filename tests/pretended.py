"""A pretended accelerator: tensors that say they lie on another device, and refuse to meet tensors that don't.

What a GPU refuses is refused here: operations on tensors of both devices (but for scalars and indices of the CPU), a
generator of the CPU for values made there, and numpy's view of them. Values are computed on the CPU, so that results
equal the CPU's to the bit. The device is torch's `meta`, whose own tensors hold no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
ACROSS = {"aten::copy_", "aten::_to_copy", "aten::to", "aten::set_.source_Tensor"}
"""Operations that take tensors of both devices."""
INDEXED = {"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
"""Those whose indices may lie on the CPU."""


class Far(torch.Tensor):
    """A tensor on the pretended device; `near` holds its values."""

    near: torch.Tensor

    wide = True

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        if near.dtype == torch.float64 and not Far.wide:
            raise TypeError("the device has no float64")
        made: Far = torch.Tensor._make_wrapper_subclass(
            cls, near.shape, near.stride(), near.storage_offset(), dtype=near.dtype, device=DEVICE
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.near!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy; use .cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.near.tolist()


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Below(TorchFunctionMode):
    """What happens below the reach of the other mode: Python's values become tensors, a tensor's data is replaced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == torch.Tensor.data.__set__ and isinstance(args[1], Far):  # type: ignore[attr-defined]
            args[0].near = args[1].near
        if func == torch.Tensor.new_tensor and isinstance(args[0], Far):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(args[0].device)
        if func not in (torch.tensor, torch.as_tensor) or kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = kwargs.pop("device")
        return func(*args, **kwargs).to(device)


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Within this, tensors made on or moved to the device that is given lie on the pretended accelerator."""
    with _Below(), _Factories():
        yield DEVICE


@contextmanager
def without_float64() -> Iterator[None]:
    """Within this, the pretended accelerator has no float64, as Apple's have none."""
    Far.wide = False
    try:
        yield
    finally:
        Far.wide = True


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    far = any(isinstance(leaf, Far) for leaf in leaves)
    name = func._schema.name + (f".{func._schema.overload_name}" if func._schema.overload_name else "")
    if far:
        _require_one_device(name, func._schema.name, args, leaves)
    named = [torch.device(leaf) for leaf in leaves if isinstance(leaf, torch.device)]
    there = named[0] == DEVICE if named else far
    if there and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{name}: Expected a generator of the device but found one of the CPU")
    made = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if not there:
        return made
    wrapped = tree_map(lambda value: Far(value) if isinstance(value, torch.Tensor) else value, made)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if far else wrapped


def _near(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.near if isinstance(value, Far) else value


def _require_one_device(name: str, base: str, args: Any, leaves: list[Any]) -> None:
    if base in ACROSS or name in ACROSS:
        return
    met = tree_leaves(args[0]) if (base in INDEXED or name in INDEXED) and isinstance(args[0], Far) else leaves
    strange = [one for one in met if isinstance(one, torch.Tensor) and not isinstance(one, Far) and one.ndim]
    if strange:
        found = f"{tuple(strange[0].shape)} on {strange[0].device}"
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, found one of {found}")
