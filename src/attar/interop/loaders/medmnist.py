"""The images beside this file as a PyTorch Dataset. Needs torch and numpy."""

import json
from pathlib import Path

import numpy as np
import torch


class DistilledImages(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Normalised images float32 (channels, height, width) and their classes."""

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        task = json.loads((folder / "attar-export.json").read_text("utf-8"))["task"]
        self.class_names, scale = task["class_names"], task["normalization"]
        arrays = np.load(next(folder.glob("*.npz")), allow_pickle=False)
        pixels = arrays["train_images"]
        self.pixels = torch.from_numpy(pixels[..., None] if pixels.ndim == 3 else pixels).permute(0, 3, 1, 2)
        self.labels = arrays["train_labels"][:, 0].tolist()
        self.mean, self.std = (torch.tensor(scale[name]).view(-1, 1, 1) for name in ("mean", "std"))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return (self.pixels[index].float() / 255 - self.mean) / self.std, self.labels[index]
