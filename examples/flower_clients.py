"""Federated digits in one round: each client distills its own images, and the server trains on all sets.

    pip install 'attar[flower]'
    python examples/flower_clients.py runs/clients

Three clients get unlike shares of the classes by Flower's DirichletPartitioner. What they send is a few images each;
the server judges them together like any other distilled set.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flwr_datasets.partitioner import DirichletPartitioner

import attar
from attar.flower import gather, partition

IPC = 2


def main(out: Path, *, method: str = "kmeans", **judging: object) -> float:
    """Give the mean accuracy in percent of students that the server trains on the clients' sets."""
    clients = partition(
        "digits", DirichletPartitioner(num_partitions=3, partition_by="label", alpha=0.5, seed=1), least=IPC
    )
    sets = []
    for number, client in enumerate(clients):
        made = attar.distill(
            client, ipc=IPC, method=method, until="relabel", out=out / f"client-{number}", quiet=True
        ).distilled
        classes = ", ".join(client["train"].classes)
        print(f"client {number}: {len(client['train'])} images of {classes}; sends {len(attar.load(made))}")
        sets.append(made)
    names = attar.open("digits", quiet=True).task.class_names
    judged = attar.evaluate(gather(sets, names), "digits", out=out / "server", quiet=True, **judging)
    mean = next(record.mean for record in judged.records if record.group == "distilled")
    print(f"server: {mean:.1f} % on the test split")
    return mean


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/clients"))
