from pathlib import Path

import torch

from attar.runtime.checkpoint import read_tensors, write_tensors


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.rand(2, 3), "ü": torch.zeros(0)}
    note = {f"key {i}": ["Ä", i, None] for i in range(9)}
    written = set()
    for _ in range(20):
        write_tensors(tmp_path / "x.safetensors", tensors, note)
        written.add((tmp_path / "x.safetensors").read_bytes())
    back, found = read_tensors(tmp_path / "x.safetensors")
    assert len(written) == 1
    assert found == note
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
