"""A package that adds a method, a network and a strategy is known everywhere once it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "outside_method"
QUICK = ("--set", "method.network=convnet-d1-w4", "--set", "method.num_real=8", "--set", "recover.iterations=3")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the package, attar of this tree, and what both need from this environment.

    An editable attar that is installed here may be another tree, which somebody changes meanwhile.
    """
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    paths = {"base": str(home), "platbase": str(home)}
    here = Path(sysconfig.get_path("purelib", vars=paths))
    beside = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (here / "beside.pth").write_text(f"{EXAMPLE.parents[1] / 'src'}\n{beside}\n")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    subprocess.run([python, "-m", "pip", "install", *offline, str(EXAMPLE)], check=True, cwd=home)
    return python


def attar(python: Path, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [python, "-m", "attar", *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the environment's layout is that of Unix")
def test_a_package_brings_a_method_a_network_and_a_strategy(fresh: Path, tmp_path: Path) -> None:
    for kind, name in (("methods", "means"), ("models", "depthwise"), ("strategies", "confidence")):
        assert "(attar-outside-method 0.1)" in attar(fresh, "list", kind, name, cwd=tmp_path)
    shown = json.loads(attar(fresh, "show", "means", "--json", cwd=tmp_path))
    assert [field["name"] for field in shown["sections"]["method"]] == ["network", "num_real", "lr_images", "augment"]
    assert {field["name"]: field["default"] for field in shown["sections"]["recover"]}["iterations"] == "1000"
    assert "train.confidence.beta" in attar(fresh, "show", "confidence", cwd=tmp_path)
    assert "parameters" in attar(fresh, "show", "depthwise", cwd=tmp_path)
    run = ("digits", "--method", "means", "--ipc", "1", *QUICK)
    planned = json.loads(attar(fresh, "plan", *run, "--json", cwd=tmp_path))
    assert {"recover", "relabel"} <= {stage["stage"] for stage in planned["stages"]}
    judged = ("--set", "evaluate.seeds=1", "--set", "train.epochs=2", "--set", "evaluate.models=[depthwise]")
    attar(fresh, "distill", *run, *judged, "--set", "evaluate.full_epochs=1", "--out", "run", cwd=tmp_path)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Zhao and Bilen" in page or ">means<" in page
    assert "depthwise" in page
    student = ("--strategy", "confidence", "--set", "confidence.beta=0.2", "--set", "epochs=1", "--model", "depthwise")
    assert "validation" in attar(fresh, "train", "run", "--source", "digits", *student, cwd=tmp_path)
    battery = [fresh, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    done = subprocess.run(battery, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
