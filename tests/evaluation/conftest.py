"""A stop in the middle of a judgement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attar.evaluation import trials
from attar.items import Item


class StopError(Exception):
    """What ends a judgement here."""


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], list[str]]:
    """`stopped_at(n, judge)` stops `judge` as its n-th training begins and names all trainings, later ones too."""

    def stop(number: int, judge: Callable[[], Any]) -> list[str]:
        trained = list[str]()
        fit = trials.fit

        def counting(*args: Any, item: Item, **options: Any) -> Any:
            trained.append(item.name)
            if len(trained) == number:
                raise StopError
            return fit(*args, item=item, **options)

        monkeypatch.setattr(trials, "fit", counting)
        with pytest.raises(StopError):
            judge()
        return trained

    return stop
