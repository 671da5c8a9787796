"""The rooms of docs/architecture.md, held by machine."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import attar

ROOT = Path(__file__).parents[1]
PACKAGE = Path(attar.__file__).parent


@pytest.fixture(scope="module")
def nodes():
    """Imports, calls and comparisons of every module, with where they stand."""
    kinds = ast.Import | ast.ImportFrom | ast.Call | ast.Compare
    return [
        (path, node)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, kinds)
    ]


def test_rooms_import_downwards_only():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_file_is_unpickled(nodes):
    """torch.load appears only where weights_only is stated, pickle only where a process hands work to its own child."""
    own_child = PACKAGE / "runtime" / "together.py"
    for path, node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert path == own_child or not {"pickle", "dill", "joblib", "shelve"} & set(names), path
        if isinstance(node, ast.Call) and _called(node) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


def test_no_method_is_named_outside_its_room(nodes):
    """There is no `if method == ...`: what differs by method is the method's own."""
    from attar.methods import methods

    names = set(methods()) - {"random"}
    allowed = {"settings.py", "pipeline.py"}  # what `auto` chooses
    for path, node in nodes:
        if path.parent.name == "methods" or path.name in allowed or not isinstance(node, ast.Compare):
            continue
        literals = [part.value for part in [node.left, *node.comparators] if isinstance(part, ast.Constant)]
        assert not set(map(str, literals)) & names, (path, ast.unparse(node))


def test_global_random_states_are_left_alone(nodes):
    forbidden = ("torch.manual_seed", "np.random.", "random.seed", "random.random")
    for path, node in nodes:
        if path.name != "seeding.py" and isinstance(node, ast.Call):
            assert not _called(node).startswith(forbidden), (path, ast.unparse(node))


def _called(node):
    """The dotted name that a call is of; empty where it is of something else."""
    names, at = [], node.func
    while isinstance(at, ast.Attribute):
        names, at = [at.attr, *names], at.value
    return ".".join([at.id, *names]) if isinstance(at, ast.Name) else ""
