from __future__ import annotations

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
from attar.interop.torchfile import read_tensor, read_values


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


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_are_those_that_were_saved(tmp_path: Path, protocol: int) -> None:
    values = varied()
    torch.save(values, tmp_path / "values.pt", pickle_protocol=protocol)
    assert same(values, read_values(tmp_path / "values.pt"))
    assert read_values(tmp_path / "values.pt")[0].is_contiguous()


def save_stream(values: Any, path: Path) -> bytes:
    """Save as torch did before version 1.6, which is what DC's code asks for; return the bytes."""
    torch.save(values, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def test_files_from_before_torch_1_6_are_read_too(tmp_path: Path) -> None:
    path, values = tmp_path / "values.pt", [*varied(), [np.float64(0.1), np.int64(-3)]]
    save_stream(values, path)
    assert same(values, read_values(path))
    save_stream(values[0], path)
    assert torch.equal(read_tensor(path), values[0])


def test_streams_that_are_cut_lie_or_call_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "values.pt"
    whole = save_stream(torch.arange(1000.0), path)
    for data in (whole[:-1], whole + b"\0"):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="said to end at byte"):
            read_values(path)
    path.write_bytes(whole.replace(b"M\xe8\x03", b"M\xe9\x03"))
    with pytest.raises(ArtifactError, match="said to end at byte"):
        read_values(path)
    path.write_bytes(whole.replace(b"little_endian\x88", b"little_endian\x89").replace(b"q\x02\x88", b"q\x02\x89"))
    with pytest.raises(ArtifactError, match="big-endian"):
        read_values(path)
    base = torch.rand(1000)
    save_stream([base[:999], base[1:], base, base.view(10, 100)], path)
    with pytest.raises(ArtifactError, match="larger than the file"):
        read_values(path)
    save_stream(Attack(), path)
    with pytest.raises(ArtifactError, match="neither a number nor a tensor"):
        read_values(path)
    assert not Path("attacked").exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_scalars_of_numpy_are_plain_numbers(tmp_path: Path, module: str, protocol: int) -> None:
    numbers = [np.int64(-3), np.float64(0.1), np.float32(0.5), np.uint8(255), np.bool_(True)]
    torch.save(numbers, tmp_path / "numbers.pt", pickle_protocol=protocol)
    repack(tmp_path / "numbers.pt", lambda data: renamed(data, module))
    assert read_values(tmp_path / "numbers.pt") == [-3, 0.1, 0.5, 255, True]


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


HOSTILE: dict[str, tuple[Any, str]] = {
    "call": (Attack(), "neither a number nor a tensor|more than hold values"),
    "object": (Setting(), "neither a number nor a tensor|more than hold values"),
    "array": (np.arange(3), "neither a number nor a tensor"),
    "function": (torch.load, "no values"),
    "set": ({1}, "neither a number nor a tensor"),
    "sparse": (torch.eye(2).to_sparse(), "neither a number nor a tensor"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_more_than_values_is_refused(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value, message = HOSTILE[case]
    torch.save(value, "file.pt")
    with pytest.raises(ArtifactError, match=message):
        read_values(Path("file.pt"))
    assert not Path("attacked").exists()


def binint(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little", signed=True)


def test_sizes_beyond_the_file_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pt"
    tensor = torch.arange(100_000.0)[1000:71_000]

    def replaced(old: int, new: int) -> None:
        torch.save(tensor, path)
        repack(path, lambda data: data.replace(binint(old), binint(new)))

    replaced(100_000, 100_000_000)  # numbers stored
    with pytest.raises(ArtifactError, match="said to have 400000000 bytes, and have 400000"):
        read_tensor(path)
    replaced(70_000, 99_001)  # shape; the start is 1000
    with pytest.raises(ArtifactError, match="larger than the 100000 numbers"):
        read_tensor(path)
    replaced(70_000, -70_000)
    with pytest.raises(ArtifactError, match="a tensor of shape"):
        read_tensor(path)
    torch.save(torch.zeros(1).expand(100_000), path)
    with pytest.raises(ArtifactError, match="larger than the 1 numbers"):
        read_tensor(path)
    base = torch.rand(1000)
    torch.save([base[:999], base[1:], base, base.view(10, 100)], path)
    with pytest.raises(ArtifactError, match="larger than the file"):
        read_values(path)


def test_archives_that_unfold_or_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pt"
    torch.save(torch.zeros(1_000_000), path)
    repack(path, bytes, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(ArtifactError, match="compressed"):
        read_tensor(path)
    torch.save(torch.zeros(3), path)
    repack(path, lambda data: b"big", name="byteorder")
    with pytest.raises(ArtifactError, match="big-endian"):
        read_tensor(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0], b"")
    with pytest.raises(ArtifactError, match="the same name"):
        read_tensor(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/nothing", b"")
    with pytest.raises(ArtifactError, match=r"no data\.pkl"):
        read_tensor(path)


def test_other_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with pytest.raises(ArtifactError, match="no such file"):
        read_values(path)
    for data in (pickle.dumps(Attack()), b"", b"\x80\x02"):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"as no file of torch\.save"):
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
