from __future__ import annotations

import dataclasses
import io
import string
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attar.artifacts.card import class_names, preview, render, update_card
from attar.artifacts.checksums import NAME as SUMS
from attar.artifacts.description import Description, describe, read_description
from attar.artifacts.distilled import write_distilled
from attar.artifacts.verify import verify
from attar.errors import ArtifactError
from attar.methods.base import Distillate
from attar.results.records import Record
from attar.results.verdict import Words
from attar.task import Normalization, Task

RECORDS = [
    Record.of(
        "accuracy",
        subject,
        "convnet-d3-w128",
        values,
        seeds=range(len(values)),
        num_images=10,
        size_bytes=size,
        group=subject,
        split="test",
    )
    for subject, values, size in [("distilled", [93.0, 94.0, 92.0], 2640), ("full", [99.0], 1_234_567)]
]


def header(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    return loaded


def test_numbers_and_verdict_are_written_and_the_sums_still_hold(
    tmp_path: Path, task: Task, floats: Distillate, provenance: dict[str, Any]
) -> None:
    write_distilled(tmp_path / "d", floats, task, provenance)
    assert "Not measured yet" in (tmp_path / "d/README.md").read_text()
    sums = (tmp_path / "d" / SUMS).read_text().splitlines()
    update_card(tmp_path / "d", RECORDS, Words(("It beats random real images.",)))
    text = (tmp_path / "d/README.md").read_text()
    assert "| **distilled** | convnet-d3-w128 | **93.0 ± 1.0** | 3 | 10 | 2.64 kB |" in text
    assert "| full | convnet-d3-w128 | 99.0 | 1 | 10 | 1.23 MB |" in text
    assert "**It beats random real images.**" in text
    assert verify(tmp_path / "d").ok
    changed = set(sums) ^ set((tmp_path / "d" / SUMS).read_text().splitlines())
    assert {line.split("  ")[1] for line in changed} == {"README.md"}
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path / "d", check=True, capture_output=True)


def test_a_verdict_of_several_lines_keeps_its_lines(
    tmp_path: Path, task: Task, floats: Distillate, provenance: dict[str, Any]
) -> None:
    write_distilled(tmp_path / "d", floats, task, provenance)
    update_card(tmp_path / "d", RECORDS, Words(("It wins on 1 of 2.",), ("a: it wins", "b*: it does not")))
    text = (tmp_path / "d/README.md").read_text()
    assert "**It wins on 1 of 2.**\n\n- a: it wins\n- b\\*: it does not\n\n| trained on |" in text


def test_the_card_tells_what_from_what_how_and_under_which_licence(
    tmp_path: Path, task: Task, floats: Distillate, provenance: dict[str, Any]
) -> None:
    write_distilled(tmp_path / "d", floats, task, provenance)
    text = (tmp_path / "d/README.md").read_text()
    head = header(text)
    assert head["license"] == "cc-by-4.0"
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["image-classification"]
    for part in (
        "# petals in 14 images",
        "5,000 training images of petals",
        "8-bit previews",
        "0.0123457",
        "attar distill petals --method tesla --ipc 2 --seed 0 --recipe settings.yaml",
        "iterations: 300",
        "CC BY 4.0",
        "5×6 px (RGB)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        (None, {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        ("ask: the *museum*", {"license": "other", "license_name": "ask: the *museum*"}),
    ],
)
def test_a_licence_is_one_that_the_hub_knows_or_other(
    tmp_path: Path, task: Task, exact: Distillate, licence: str | None, expected: dict[str, str]
) -> None:
    write_distilled(tmp_path / "d", exact, task, {"source": {"name": "s", "licence": licence}})
    text = (tmp_path / "d/README.md").read_text()
    head = header(text)
    assert {name: head[name] for name in head if name.startswith("license")} == expected
    assert ("was not given" in text) == (licence is None)


def described(names: list[str], **provenance: Any) -> Description:
    return describe(
        provenance,
        num_images=1,
        task=Task(tuple(names), 1, 2, 2, Normalization((0.5,), (0.5,))).to_json(),
        pixels="uint8",
        image_range=None,
        soft_labels=None,
        labels={"kind": "hard"},
        learning_rate=None,
        sizes={"images": 1, "labels": 1, "teacher": 0, "total": 2},
        files={"images": ["data/train-00000-of-00001.parquet"]},
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5, unique=True), st.text(max_size=30))
def test_any_text_survives_the_header_and_breaks_no_line(names: list[str], any_text: str) -> None:
    text = render(
        described(names, method=any_text, settings={"a": {any_text: any_text}}),
        RECORDS,
        Words((any_text,), (any_text,)),
    )
    assert class_names(text) == tuple(names)
    lines = text.split("\n---\n\n")[-1].split("\n")
    assert sum(line.startswith("# ") for line in lines) == 1
    assert sum(line.startswith("|") and line.count("|") - line.count("\\|") == 7 for line in lines) == 4


def test_markdown_in_texts_of_users_is_shown_and_not_followed(tmp_path: Path, task: Task, exact: Distillate) -> None:
    command = "attar distill x --set a='```\nrm'"
    write_distilled(tmp_path / "d", exact, task, {"command": command, "method": "![x](http://y) <img src=z> `c`"})
    text = (tmp_path / "d/README.md").read_text("utf-8")
    assert r"\!\[x\](http://y) \<img src=z\> \`c\`" in text
    assert f"````sh\n{command}\n````" in text


def test_many_classes_are_cut_short(tmp_path: Path) -> None:
    names = tuple(f"class {letter}{i}" for letter in string.ascii_lowercase for i in range(10))
    big = Task(names, 1, 2, 2, Normalization((0.5,), (0.5,)))
    write_distilled(tmp_path / "d", Distillate(torch.zeros(1, 1, 2, 2), torch.tensor([0])), big)
    assert "class b9 and 240 more." in (tmp_path / "d/README.md").read_text()


def test_a_damaged_dataset_is_not_given_a_new_card(tmp_path: Path, task: Task, exact: Distillate) -> None:
    write_distilled(tmp_path / "d", exact, task)
    file = tmp_path / "d/attar.json"
    file.write_text(file.read_text().replace("007", "008"))
    with pytest.raises(ArtifactError, match=r"attar\.json is damaged"):
        update_card(tmp_path / "d", RECORDS, "")
    (tmp_path / "d" / SUMS).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        update_card(tmp_path / "d", RECORDS, "")


def test_the_card_is_a_function_of_what_it_is_given(tmp_path: Path, task: Task, exact: Distillate) -> None:
    write_distilled(tmp_path / "d", exact, task)
    description = read_description(tmp_path / "d")
    assert render(description, RECORDS, Words(("so",))) == render(description, RECORDS, Words(("so",)))
    losses = [dataclasses.replace(RECORDS[0], metric="loss", mean=0.123456, std=0.01)]
    assert "| test loss | n |" in render(description, losses)
    assert "0.1235 ± 0.01" in render(description, losses)


@pytest.mark.parametrize(
    ("num_classes", "per_class", "shape", "columns", "rows"),
    [(10, 1, (1, 8, 8), 10, 1), (3, 1, (3, 32, 32), 3, 1), (101, 1, (3, 8, 8), 10, 10), (4, 3, (1, 28, 28), 4, 3)],
)
def test_the_picture_is_a_grid_of_whole_pixels(
    num_classes: int, per_class: int, shape: tuple[int, int, int], columns: int, rows: int
) -> None:
    labels = np.arange(num_classes).repeat(per_class)
    pixels = np.full((len(labels), *shape), 200, np.uint8)
    with Image.open(io.BytesIO(preview(dict(enumerate(pixels)), labels))) as sheet:
        side = -(-64 // shape[1]) * shape[1]
        assert sheet.size == (columns * (side + 4) - 4, rows * (side + 4) - 4)
        assert set(sheet.get_flattened_data()) <= {(200, 200, 200, 255), (0, 0, 0, 0)}


def test_large_images_are_shrunk_in_the_picture() -> None:
    with Image.open(io.BytesIO(preview({0: np.zeros((3, 256, 512), np.uint8)}, np.zeros(1, np.int64)))) as sheet:
        assert sheet.size == (128, 64)
