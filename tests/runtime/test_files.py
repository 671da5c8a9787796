import errno
import resource
from pathlib import Path

import pytest
import torch

from attar.errors import ArtifactError, ResourceError
from attar.runtime import checkpoint, files


def test_a_failed_write_leaves_the_old_bytes(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ResourceError, match="no space left"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_a_limit_on_the_size_of_files_is_told_as_a_full_disk_is(tmp_path):
    """By the system's own refusal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"larger than a file may be here(.|\n)*ulimit -f") as raised:
            files.write_bytes(tmp_path / "large", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.exit_code == 6
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(ResourceError, match="cannot write"):
        files.write_text(tmp_path / "out" / "value.txt", "x")


@pytest.mark.parametrize("path", [".", "..", "in/..", "/"])
def test_a_folder_without_a_name_of_its_own_is_not_replaced(path, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(ResourceError, match="the name of a folder"), files.new_folder(Path(path)):
        pass
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_json_is_told(tmp_path, text):
    (tmp_path / "value.json").write_bytes(text)
    with pytest.raises(ArtifactError, match="is not valid JSON"):
        files.read_json(tmp_path / "value.json")


def test_json_that_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        files.read_json(tmp_path)


def test_tensors_round_trip_with_metadata(tmp_path):
    path = tmp_path / "t.safetensors"
    tensors = {"b": torch.randn(2, 3), "a": torch.arange(4)}
    checkpoint.write_tensors(path, tensors, {"step": 3, "names": ["x"], "rate": None})
    found, note = checkpoint.read_tensors(path)
    assert note == {"step": 3, "names": ["x"], "rate": None}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    one, two = tmp_path / "1", tmp_path / "2"
    checkpoint.write_tensors(one, {"a": torch.ones(2), "b": torch.zeros(3)}, {"k": 1, "l": 2})
    checkpoint.write_tensors(two, {"b": torch.zeros(3), "a": torch.ones(2)}, {"l": 2, "k": 1})
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04pickle"])
def test_what_is_no_safetensors_is_refused(tmp_path, content):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        checkpoint.read_tensors(path)


def test_digest_ignores_the_order_of_keys():
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 1.5})
