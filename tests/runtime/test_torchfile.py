from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.errors import ArtifactError
from attar.runtime import torchfile
from attar.runtime.torchfile import StandIn, read_tensor, read_torch


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def varied() -> list[Any]:
    base = torch.arange(24.0).reshape(4, 6)
    return [
        base.T[1:3, ::2],
        base[2],
        torch.nn.Parameter(torch.rand(2)),
        torch.rand(3, requires_grad=True),
        torch.tensor(0.01),
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        *(
            torch.ones(2).to(dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8)
        ),
        {"a": (1, -2, 300, 70_000, 2**40, 0.5, "é", None, True, False, b"x"), "b": OrderedDict()},
        [base, base],
    ]


def test_values_are_those_that_were_saved(tmp_path: Path) -> None:
    values = varied()
    torch.save(values, tmp_path / "values.pt")
    assert same(values, read_torch(tmp_path / "values.pt", "values"))
    found = read_torch(tmp_path / "values.pt", "values")
    assert found[0].is_contiguous()
    assert not any(value.requires_grad for value in found[:5])


def save_stream(values: Any, path: Path) -> bytes:
    """Save as torch did before version 1.6, which is what DC's code asks for; return the bytes."""
    torch.save(values, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def test_files_from_before_torch_1_6_are_read_too(tmp_path: Path) -> None:
    path, values = tmp_path / "values.pt", [*varied(), [np.float64(0.1), np.int64(-3)]]
    save_stream(values, path)
    assert same(values, read_torch(path, "values"))
    save_stream(values[0], path)
    assert torch.equal(read_tensor(path), values[0])


def test_streams_that_are_cut_lie_or_call_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "values.pt"
    whole = save_stream(torch.arange(1000.0), path)
    base = torch.rand(1000)
    several = save_stream([base[start:] for start in range(10)], path)
    attack = save_stream(Attack(), path)
    for data in (whole[:-1], whole.replace(b"M\xe8\x03", b"M\xe9\x03"), several, attack):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="cannot be read as values, and nothing in it was run"):
            read_torch(path, "values")
    assert not Path("attacked").exists()


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_scalars_of_numpy_are_plain_numbers(tmp_path: Path, module: str) -> None:
    numbers = [np.int64(-3), np.float64(0.1), np.float32(0.5), np.uint8(255), np.bool_(True)]
    torch.save(numbers, tmp_path / "numbers.pt")
    repack(tmp_path / "numbers.pt", lambda data: renamed(data, module))
    assert read_torch(tmp_path / "numbers.pt", "values") == [-3, 0.1, 0.5, 255, True]


def renamed(data: bytes, module: str) -> bytes:
    old, new = b"numpy._core.multiarray", module.encode()
    return data.replace(bytes([len(old)]) + old, bytes([len(new)]) + new).replace(b"c" + old, b"c" + new)


def repack(path: Path, change: Any, *, name: str = "data.pkl", **options: Any) -> None:
    """Write the archive again with one member changed."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for member, data in members.items():
            archive.writestr(member, change(data) if member.endswith(f"/{name}") else data)


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


class Setting:
    def __init__(self) -> None:
        self.state = 1


@pytest.mark.parametrize("value", [Setting(), np.arange(3), np.complex64(1j)])
def test_what_is_no_plain_value_leaves_a_stand_in(tmp_path: Path, value: Any) -> None:
    torch.save({"odd": value, "kept": 3}, tmp_path / "file.pt")
    found = read_torch(tmp_path / "file.pt", "values")
    assert type(found["odd"]) is StandIn
    assert found["kept"] == 3


HOSTILE: dict[str, tuple[Any, str]] = {
    "call": (Attack(), "it calls"),
    "sparse": (torch.eye(2).to_sparse(), "sparse"),
    "meta": (torch.eye(2, device="meta"), "without numbers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_calls_or_has_no_numbers_is_refused(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value, message = HOSTILE[case]
    torch.save(value, "file.pt")
    with pytest.raises(ArtifactError, match=message):
        read_torch(Path("file.pt"), "values")
    assert not Path("attacked").exists()


ENDLESS = b"}" + b")" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"K\x01s"
"""A dictionary whose key is a tuple of two of a tuple of two...: its hash takes 2^60 steps."""
LARGE = b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x08\x85R"
"""Thirty gigabytes."""


@pytest.mark.parametrize("opcodes", [ENDLESS, LARGE])
def test_some_hundred_bytes_neither_hang_nor_fill_the_memory(
    tmp_path: Path, opcodes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchfile, "MOST_SECONDS", 1)
    path = tmp_path / "file.pt"
    torch.save(1, path)
    repack(path, lambda _: b"\x80\x02" + opcodes + b".")
    assert path.stat().st_size < 2000
    with pytest.raises(ArtifactError, match=r"takes more than 1 s |MemoryError"):
        read_torch(path, "values")
    torch.save(1, path)
    assert read_torch(path, "values") == 1


def binint(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little", signed=True)


def test_sizes_beyond_the_file_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pt"
    tensor = torch.arange(100_000.0)[1000:71_000]

    def replaced(old: int, new: int) -> None:
        torch.save(tensor, path)
        repack(path, lambda data: data.replace(binint(old), binint(new)))

    replaced(100_000, 100_000_000)  # numbers stored
    with pytest.raises(ArtifactError, match=r"record size|resiz"):
        read_tensor(path)
    replaced(70_000, 99_001)  # shape; the start is 1000
    with pytest.raises(ArtifactError, match=r"larger than the file|out of bounds|cannot be read"):
        read_tensor(path)
    replaced(70_000, -70_000)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_tensor(path)
    torch.save(torch.zeros(1).expand(100_000), path)
    with pytest.raises(ArtifactError, match="larger than the file"):
        read_tensor(path)
    base = torch.rand(1000)
    torch.save([base[start:] for start in range(10)], path)
    with pytest.raises(ArtifactError, match="larger than the file"):
        read_torch(path, "values")


def test_archives_that_unfold_or_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pt"
    torch.save(torch.zeros(1_000_000), path)
    repack(path, bytes, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(ArtifactError, match="compressed"):
        read_tensor(path)
    torch.save(torch.zeros(3), path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0], b"")
    with pytest.raises(ArtifactError, match="the same name"):
        read_tensor(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/nothing", b"")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_tensor(path)


def test_other_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with pytest.raises(ArtifactError, match="no such file"):
        read_torch(path, "values")
    for data in (pickle.dumps(Attack()), b"", b"\x80\x02"):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="cannot be read as a tensor"):
            read_tensor(path)
    torch.save([torch.zeros(3)], path)
    with pytest.raises(ArtifactError, match="holds a list"):
        read_tensor(path)


def test_damaged_numbers_are_found(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pt"
    torch.save(torch.arange(1000.0), path)
    data = bytearray(path.read_bytes())
    place = data.find(torch.arange(100.0, 200.0).numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="CRC"):
        read_tensor(path)


def test_an_interruption_leaves_no_answer_for_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(1, tmp_path / "sound.pt")
    torch.save(Attack(), tmp_path / "hostile.pt")
    read_torch(tmp_path / "sound.pt", "values")

    class Interrupted:
        def readline(self) -> str:
            raise KeyboardInterrupt

        def close(self) -> None:
            kept.close()

    reader = torchfile._reader(os.getpid())
    kept: Any = reader.stdout
    monkeypatch.setattr(reader, "communicate", reader.wait)
    monkeypatch.setattr(reader, "stdout", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        read_torch(tmp_path / "sound.pt", "values")
    assert torchfile._rehearsed(tmp_path / "hostile.pt", False)
    for pipe in (kept, reader.stdin):
        pipe.close()
