"""A stop in the middle of a judgement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attar.training import trials


class StopError(Exception):
    """What ends a judgement here."""


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], list[str]]:
    """`stopped_at(n, judge)` stops `judge` as its n-th training begins and names all trainings, later ones too."""

    def stop(number: int, judge: Callable[[], Any]) -> list[str]:
        trained = list[str]()
        fit = trials.fit

        def counting(*args: Any, name: str, **options: Any) -> Any:
            trained.append(name)
            if len(trained) == number:
                raise StopError
            return fit(*args, name=name, **options)

        monkeypatch.setattr(trials, "fit", counting)
        with pytest.raises(StopError):
            judge()
        return trained

    return stop
