"""Print a hash of what every method distills and every strategy trains, to see whether a change moved a bit.

    python tools/bytes.py > before.txt
    python tools/bytes.py | diff before.txt -     after the change

Bundled digits, one thread, a few steps each. Hashes are of a machine's own kernels: compare runs of one machine.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

import attar

TEACHER = {"squeeze.model": "convnet-d2-w8-batch", "squeeze.epochs": 2}
EXPERTS = {
    "squeeze.model": "convnet-d2-w8",
    "squeeze.epochs": 3,
    "squeeze.num_experts": 2,
    "method.num_steps": 4,
    "method.batch_size": 5,
}
SHORT = {
    "recover.iterations": 6,
    "recover.num_snapshots": 2,
    "train.epochs": 3,
    "evaluate.models": ["convnet-d2-w8"],
    "evaluate.seeds": 1,
    "evaluate.full_epochs": 1,
    "run.workers": 1,
    "run.precision": "32-true",
}
AT_ONCE = {"recover.iterations": 0}
CASES: tuple[tuple[str, dict[str, object]], ...] = (
    ("sre2l", {**TEACHER, "relabel.labels": "epochs"}),
    ("sre2l", {**TEACHER, "relabel.labels": "online", "method.start": "patches"}),
    ("rded", {**TEACHER, **AT_ONCE, "relabel.labels": "teacher"}),
    ("teddy", {**TEACHER, "squeeze.num_members": 2}),
    ("teddy", {**TEACHER, "squeeze.pool": "post", "squeeze.ratios": [0.3], "method.class_share": 0.5}),
    ("tesla", EXPERTS),
    ("tesla", {**EXPERTS, "method.labels": "expert", "method.gradient": "published"}),
    ("mtt", {**EXPERTS, "method.labels": "learnt"}),
    ("random", AT_ONCE),
    ("herding", {**TEACHER, **AT_ONCE}),
    ("kcenter", {**AT_ONCE, "method.features": "pixels"}),
    ("kmeans", {**AT_ONCE, "method.features": "pixels"}),
)
STRATEGIES = ("ce", "label-smoothing", "dlb", "ddgsd", "dlb+ddgsd", "ps-kd", "tf-kd", "byot")


def main() -> None:
    """Run every case and print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (method, settings) in enumerate(CASES):
            out = Path(folder) / str(number)
            made = attar.distill("digits", method, 2, recipe="none", out=out, settings={**SHORT, **settings})
            measured = [record.values for record in made.records]
            print(f"{method:16}{of_files(out / 'distilled')} {' '.join(f'{value[0]:.4f}' for value in measured)}")
    for strategy in STRATEGIES:
        settings = {"epochs": 2, "learning_rate": 0.05, "augment": "crop"}
        trained = attar.train("digits", "resnet20-cifar", strategy=strategy, settings=settings)
        print(f"{strategy:16}{of_tensors(trained.model.state_dict().values())}")


def of_files(folder: Path) -> str:
    """Hash of the sums of images and labels: of what a training reads, not of settings and words."""
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    data = [line for line in lines if not line.endswith((".json", ".md", ".png"))]
    return hashlib.sha256("\n".join(sorted(data)).encode()).hexdigest()[:16]


def of_tensors(tensors: Iterable[Tensor]) -> str:
    """Hash of the bytes of tensors, one after the other."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
