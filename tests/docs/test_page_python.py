"""Blocks of Python on the pages, and the notebook, run: the blocks at toy size."""

import json
import re
from pathlib import Path

import pytest

from attar import api

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "notebooks" / "first-set.ipynb"
TOY = {
    "recover.iterations": 2,
    "recover.num_snapshots": 2,
    "squeeze.num_experts": 1,
    "train.epochs": 1,
    "evaluate.full_epochs": 1,
    "evaluate.seeds": 1,
    "source.train_per_class": 10,
}
PAGES = {
    "start.md": "attar.load",
    "reference/errors.md": "ConfigError",
}
"""Pages with blocks that stand alone, and what is in them. Those of formats.md are run by tests/test_formats.py, the
README's by tests/recipes; formats-of-others.md has lines of three libraries, run by tests/interop."""
ELSEWHERE = ("formats.md", "formats-of-others.md")


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_every_page_with_python_on_it_is_run_by_some_test():
    with_python = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if blocks(page)}
    history = {page for page in with_python if page.startswith(("decisions/", "notebooks/"))}
    made = {"reference/python.md"}  # for each build, so that it may not be there
    assert with_python - history - made == {*PAGES, *ELSEWHERE} - made


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """In a folder with a small run, `distill` and `evaluate` do little."""
    real, judged = api.distill, api.evaluate
    monkeypatch.chdir(tmp_path)
    real("digits", "random", out="runs/demo", until="relabel")
    monkeypatch.setattr(api, "distill", lambda *args, settings=(), **given: real(*args, **given, settings=TOY))
    monkeypatch.setattr(api, "evaluate", lambda *args, seeds, **given: judged(*args, **given, seeds=1))


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page):
    text = "\n".join(blocks(DOCS / page))
    assert PAGES[page] in text
    exec(compile(text, page, "exec"), {})


@pytest.mark.slow
def test_the_notebook_runs_top_to_bottom(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    assert "distilled images beat random ones" in " ".join(said.split())
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    percent = [float(number) for number in re.findall(r": (\d+\.\d) % of 360 test digits", said)]
    assert percent[0] > percent[1] + 10, "a network of one's own does better on distilled than on random digits"


def test_the_notebook_is_small_and_was_run_in_order():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert NOTEBOOK.stat().st_size < 100_000
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
