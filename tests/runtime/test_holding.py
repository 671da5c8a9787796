"""One attar at a time in a folder, no way out of it through a link, and nothing left of killed processes."""

import os
import subprocess
import sys

import pytest

from attar.errors import ArtifactError
from attar.runtime import files
from attar.runtime.events import Events
from attar.runtime.holding import held


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(tmp_path, gone):
    left = [tmp_path / f".report.html.{gone}.tmp", tmp_path / f"squeeze/.teacher.safetensors.{gone}.tmp"]
    left.append(tmp_path / f"recover/states/.step-1.safetensors.{gone}.tmp")
    kept = [tmp_path / f"mine/.x.{gone}.tmp", tmp_path / "notes.tmp", tmp_path / f".y.{os.getppid()}.tmp"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    outside = tmp_path / "outside"
    outside.write_bytes(b"whole")
    (tmp_path / f".link.{gone}.tmp").symlink_to(outside)
    with held(tmp_path, ("squeeze", "recover", "relabel")):
        assert not [path for path in left if path.exists()]
        assert all(path.exists() for path in kept), "another's, or of a process that is there"
    assert outside.read_bytes() == b"whole"


def test_one_at_a_time(tmp_path):
    with held(tmp_path), pytest.raises(ArtifactError, match="another attar is at work"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


@pytest.mark.parametrize("name", ["squeeze", "recover/states"])
def test_a_stage_that_is_a_link_elsewhere_is_refused(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "run" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match="is a link to another folder"), held(tmp_path / "run", name.split("/")[:1]):
        pass
    (tmp_path / "link").symlink_to(elsewhere)
    with held(tmp_path / "link"):
        pass  # where the run itself lies is the user's own choice


def test_nothing_is_written_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (".lock", "events.jsonl", f".report.html.{os.getpid()}.tmp", "report.html", ".new.new.tmp"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(ArtifactError, match=r"\.lock is a link"), held(tmp_path):
        pass
    with pytest.raises(ArtifactError, match=r"events\.jsonl is a link"):
        Events(tmp_path / "events.jsonl", quiet=True)
    (tmp_path / "later.jsonl").symlink_to(tmp_path / "not-there")
    with pytest.raises(ArtifactError, match=r"later\.jsonl is a link"):
        Events(tmp_path / "later.jsonl", quiet=True).emit("train", "epoch")
    assert not (tmp_path / "not-there").exists()
    files.write_text(tmp_path / "report.html", "page")
    assert (tmp_path / "report.html").read_text() == "page"
    assert not (tmp_path / "report.html").is_symlink()
    with files.new_folder(tmp_path / "new") as building:
        (building / "a").write_text("x")
    assert (tmp_path / "new/a").read_text() == "x"
    assert victim.read_text() == "mine"


def test_two_do_not_write_one_new_folder(tmp_path):
    with files.new_folder(tmp_path / "made") as building:
        (building / "a").write_text("x")
        with pytest.raises(ArtifactError, match="another attar is at work"), files.new_folder(tmp_path / "made"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]
