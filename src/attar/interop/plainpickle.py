"""A pickle of torch's tensors and plain values, read as data: no name in it is imported and nothing in it is called.

It is taken apart by the standard library's disassembler. Of its opcodes those are understood that make lists,
dictionaries, numbers, texts and tensors, and of the names in it those of `_MAKERS`, which only say what the numbers
beside them are.

`torch.load(weights_only=True)` would do for most files, but not for those of published code that hold numpy's scalars
(labels of SRe2L, sets of DC), unless numpy's own unpickling is let in.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

MOST_DIMENSIONS = 8
MOST_ENCODED = 64

_T = TypeVar("_T")


class Numbers(Protocol):
    """Where the numbers of tensors lie."""

    def storage(self, key: str, num_bytes: int, /) -> bytes | None:
        """Those of a key, which must be so many bytes; None makes tensors without numbers, on the device `meta`.

        Raises ValueError where there are not so many.
        """


def unpickle(pickled: bytes | BinaryIO, numbers: Numbers) -> Any:
    """The values of a pickle; a stream is left after its end.

    Raises ValueError, or nearly anything for a damaged one.
    """
    return _Machine(numbers).run(pickled)


@dataclass(frozen=True)
class _Name:
    """A name in the file: it says what the values beside it are, and is looked up nowhere but in `_MAKERS`."""

    text: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    num: int


@dataclass
class _Kind:
    """A numpy dtype, by its code such as i8."""

    code: str
    order: str = "<"


class _Machine:
    """Runs the few opcodes that build plain values."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickled: bytes | BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "STOP":
                return _finished(self._stack)
            self._step(opcode.name, argument)
        raise ValueError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marks.append(len(self._stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self._stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                self._stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self._stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                self._stack.append(argument)
            case "GLOBAL":
                self._stack.append(_Name(str(argument).replace(" ", ".")))
            case "STACK_GLOBAL":
                module, attribute = self._pop(2)
                self._stack.append(_Name(f"{module}.{attribute}"))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "TUPLE":
                self._stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._pop(int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if name == "APPEND" else self._marked()
                _expect(self._stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._marked()
                keys = map(_key, items[::2])
                _expect(self._stack[-1], dict).update(zip(keys, items[1::2], strict=True))
            case "BINPERSID":
                self._stack.append(_storage(*_expect(self._stack.pop(), tuple)))
            case "REDUCE":
                made, values = self._pop(2)
                self._stack.append(self._made(_expect(made, _Name), _expect(values, tuple)))
            case "BUILD":
                self._build(self._stack.pop())
            case _:
                raise ValueError(f"it does more than hold values (opcode {name})")

    def _pop(self, num: int) -> list[Any]:
        items = self._stack[len(self._stack) - num :]
        if len(items) < num:
            raise ValueError("it takes values that are not there")
        del self._stack[len(self._stack) - num :]
        return items

    def _marked(self) -> list[Any]:
        return self._pop(len(self._stack) - self._marks.pop())

    def _made(self, name: _Name, values: tuple[Any, ...]) -> Any:
        if name.text == "torch._utils._rebuild_tensor_v2":
            return self._tensor(*values[:4])
        maker = _MAKERS.get(name.text)
        if maker is None:
            raise ValueError(f"it holds a {name.text}, which is neither a number nor a tensor")
        return maker(*values)

    def _build(self, state: Any) -> None:
        """Byte order of a numpy dtype; an OrderedDict's or parameter's attributes are left out."""
        if isinstance(self._stack[-1], _Kind):
            self._stack[-1].order = str(state[1])
        elif not isinstance(self._stack[-1], dict | Tensor):
            raise ValueError("it sets attributes of what it holds")

    def _tensor(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """A contiguous tensor of the numbers in a storage; nothing is read before sizes are known to agree."""
        _expect(storage, _Storage)
        numbers = [_expect(number, int) for number in (offset, *size, *stride)]
        if len(size) != len(stride) or len(size) > MOST_DIMENSIONS or min(numbers) < 0:
            raise ValueError(f"a tensor of shape {size} and strides {stride}")
        last = offset + sum((many - 1) * step for many, step in zip(size, stride, strict=True))
        num = math.prod(size)
        if num > storage.num or (num and last >= storage.num):
            raise ValueError(f"a tensor of shape {size} is larger than the {storage.num} numbers stored")
        data = self._numbers.storage(storage.key, storage.num * storage.dtype.itemsize)
        if data is None:
            return torch.empty(size, dtype=storage.dtype, device="meta")
        if not num:
            return torch.empty(size, dtype=storage.dtype)
        stored = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        flat = stored.ne(0) if storage.dtype == torch.bool else stored.view(storage.dtype)
        return flat.as_strided(size, stride, offset).contiguous()


def _finished(stack: list[Any]) -> Any:
    value = stack.pop()
    if isinstance(value, _Name | _Storage | _Kind):
        raise ValueError("it holds no values")
    return value


def _storage(*said: Any) -> _Storage:
    tag, kind, key, _, num, *view = said
    if view not in ([], [None]):
        raise ValueError("it holds a part of other numbers")
    if tag != "storage" or not isinstance(kind, _Name) or kind.text not in _STORAGES:
        raise ValueError("it holds numbers of an unknown kind")
    return _Storage(_STORAGES[kind.text], _expect(key, str), _expect(num, int))


def _scalar(kind: _Kind, data: bytes) -> float:
    """A numpy scalar as a plain number."""
    dtype = _SCALARS.get(_expect(kind, _Kind).code)
    if dtype is None or kind.order not in "<=|":
        raise ValueError(f"a numpy number of kind {kind.order}{kind.code}")
    value: float = np.frombuffer(_expect(data, bytes), dtype, 1)[0].item()
    return value


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1" or len(_expect(text, str)) > MOST_ENCODED:
        raise ValueError("bytes in an unknown encoding, or more than of a number")
    return text.encode("latin1")


def _key(value: Any) -> Any:
    """A key of a dictionary. No tuple: the hash of one that is nested a million times overflows the C stack."""
    if not isinstance(value, str | int | float | bytes | None):
        raise ValueError(f"a {type(value).__name__.lstrip('_')} as a key")
    return value


def _expect(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__.lstrip('_')} is due")
    return value


_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_SCALARS = {code: np.dtype(f"<{code}") for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1")}
_SCALARS["b1"] = np.dtype("u1")
_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_parameter": lambda tensor, *_: _expect(tensor, Tensor),
    "collections.OrderedDict": lambda: {},
    "torch.Size": lambda size: _expect(size, tuple),
    "numpy.dtype": lambda code, *_: _Kind(_expect(code, str)),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
}
"""Names that are understood, with what makes a plain value of the values beside them."""
