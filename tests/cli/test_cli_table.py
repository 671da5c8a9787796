"""The table that commands print: as many columns as say something, readable at 100 characters."""

from __future__ import annotations

import pytest

from attar.cli.tables import print_records
from attar.results.records import Labels, Record, Split
from attar.results.verdict import Words


def record(group: str, labels: Labels, model: str = "net", split: Split = "test") -> Record:
    of = {"subject": f"{group}, in words", "group": group, "labels": labels, "split": split}
    return Record.of("accuracy", model=model, values=[50, 52], seeds=[0, 1], num_images=1300, size_bytes=10**6, **of)


def printed(capsys: pytest.CaptureFixture[str], *records: Record) -> list[str]:
    print_records(records, Words(("It was measured.",), ("[so]",)))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_labels_have_a_column_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    head, ours, theirs, *said = printed(capsys, record("distilled", "soft"), record("random", "hard"))
    assert head.split() == ["trained", "on", "labels", "images", "bytes", "test", "accuracy"]
    assert ours.split()[:2] == ["distilled", "soft"]
    assert theirs.split() == ["random", "hard", "1,300", "1,000,000", "51.0", "±", "1.4", "%", "(n=2)"]
    assert said == ["It was measured.", "- [so]"]


def test_what_is_the_same_everywhere_has_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    records = (record(subject, "hard", split="validation") for subject in ("distilled", "random"))
    head, ours, *_ = printed(capsys, *records)
    assert head.split() == ["trained", "on", "images", "bytes", "validation", "accuracy"]
    assert ours.split()[:4] == ["distilled,", "in", "words", "1,300"]


def test_networks_fit_into_100_characters(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a-network-of-a-name-that-is-not-short-1", "a-network-of-a-name-that-is-not-short-2")
    records = [one for name in names for one in (record("distilled", "soft", name), record("full", "hard", name))]
    lines = printed(capsys, *records)
    assert all(len(line) <= 100 for line in lines)
    assert sum(name in line for line in lines for name in names) == 4
