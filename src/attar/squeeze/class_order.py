"""Does a network from elsewhere number the classes as the source does?

Wrong order is the silent ruin of a distillation: 8 % where 40 % were to be had. It shows in the confusion matrix:
the images of one class are nearly all given to one other class, and no two to the same. The order that explains
one half of the validation images best is tried on the other half, so that chance explains nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.errors import DataError
from attar.task import Task

_LEAST_RIGHT = 10
"""Validation images that another order must get right before it is believed."""
_LEAST_CLOSED = 0.8
"""Share of the classes taken for another whose own name goes to one of them: a permutation only trades names, while
an untrained network calls many classes by a few."""


def require_class_order(labels: Tensor, predicted: Tensor, task: Task) -> None:
    """Raise DataError where another order of the classes explains `predicted` (n,) far better than `labels` (n,)."""
    by_class = labels.argsort(stable=True)  # so that each class is in both halves
    here, there = by_class[::2], by_class[1::2]
    order = one_to_one(_confusion(labels[here], predicted[here], task.num_classes))
    there = there[(order != torch.arange(task.num_classes))[labels[there]]]
    labels_there, predicted_there = labels[there], predicted[there]
    now = int((predicted_there == labels_there).sum())
    then = int((predicted_there == order[labels_there]).sum())
    confusion = _confusion(labels, predicted, task.num_classes)
    pairs = [(i, j) for i, j in enumerate(order.tolist()) if confusion[i, j] > confusion[i, i]]
    clear = then >= max(_LEAST_RIGHT, 2 * now + 1, 3 * len(labels_there) / task.num_classes)
    if not clear or len({i for i, _ in pairs} & {j for _, j in pairs}) < _LEAST_CLOSED * len(pairs):
        return
    raise DataError(
        "the classes of the weights stand in another order than those of the source: "
        + ", ".join(f"images of class {i} ({task.class_names[i]!r}) are given to class {j}" for i, j in pairs[:4])
        + (f", and {len(pairs) - 4} more" if len(pairs) > 4 else ""),
        expected="class 0 of the weights to be class 0 of the source, and so on",
        fix="rename the source's class folders so that they sort as the weights were trained, or train on the source",
    )


def weak(accuracy: float, num_classes: int) -> bool:
    """Whether an accuracy in percent is below three times chance (with few classes: below half-way to 100)."""
    chance = 100 / num_classes
    return accuracy < min(3 * chance, (100 + chance) / 2)


def one_to_one(confusion: Tensor) -> Tensor:
    """Match each true class (row) to one predicted class (column), greedily by counts (c, c); int64 (c,).

    Rows that nothing speaks for keep their own number.
    """
    num = len(confusion)
    order, taken = torch.full((num,), -1), torch.zeros(num, dtype=torch.bool)
    counts = confusion.flatten().double() + 0.5 * torch.eye(num, dtype=torch.double).flatten()  # ties: as it is
    for place in counts.argsort(descending=True, stable=True)[: int((confusion > 0).sum()) + num].tolist():
        i, j = divmod(place, num)
        if confusion[i, j] and order[i] < 0 and not taken[j]:
            order[i], taken[j] = j, True
    return torch.where(order < 0, torch.arange(num), order)


def _confusion(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    return (labels * num_classes + predicted).bincount(minlength=num_classes**2).view(num_classes, num_classes)
