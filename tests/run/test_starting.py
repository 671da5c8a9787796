"""The start of a process is measured by one that starts."""

import pytest

from attar.run import starting


@pytest.mark.slow
def test_a_process_that_starts_takes_time_and_grows_at_its_end():
    found = starting.measured_start()
    assert 0.2 < found.seconds < 300
    assert found.ending_bytes >= 0


def test_what_cannot_be_started_is_counted_as_nothing(monkeypatch):
    monkeypatch.setattr(starting.sys, "executable", "/there/is/no/python")
    assert starting.measured_start() == starting.Start(0.0, 0)
