"""Shards of a run, one after another: to the bytes of one without shards, whoever is stopped or missing."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.api import Distillation
from attar.artifacts.run import RunFolder
from attar.artifacts.whitening import WHITENING
from attar.errors import ArtifactError, ConfigError
from attar.run import pipeline
from attar.run.settings import restore
from attar.runtime.engine import Engine
from attar.runtime.events import Event, Events
from attar.runtime.shards import Shard

DIGITS: dict[str, Any] = {"source": "digits", "recipe": "none", "thorough": True, "quiet": True}
SHARED = {"run.workers": 1, "source.train_per_class": 6, "recover.num_snapshots": 2, "source.strip": 0}
MATCH = {
    "squeeze.model": "convnet-d1-w4",
    "squeeze.num_experts": 3,
    "squeeze.epochs": 2,
    "method.num_steps": 2,
    "method.expert_epochs": 1,
    "recover.iterations": 2,
}
INVERT = {
    "squeeze.model": "convnet-d1-w4-batch",
    "squeeze.epochs": 1,
    "recover.iterations": 4,
    "recover.chunk_size": 7,
    "relabel.labels": "epochs",
    "relabel.codec": "q4",
    "train.epochs": 2,
    "evaluate.full_epochs": 1,
    "evaluate.seeds": 2,
    "evaluate.labels": ["stored"],
}
POOL = {**INVERT, "squeeze.epochs": 3, "squeeze.num_members": 3}


def distill(method: str, settings: dict[str, Any], out: Path, **more: Any) -> Distillation:
    return attar.distill(**DIGITS | more, method=method, ipc=2, settings=SHARED | settings, out=out)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Files of a run that say what was made; manifests and logs say when."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if not path.name.startswith((".lock", "events", "report", "config"))
    }


def in_rounds(work: Callable[[str], Distillation], num: int) -> list[list[int]]:
    """How many files each shard missed, in rounds of all of them until the last misses none."""
    rounds: list[list[int]] = []
    while not rounds or any(rounds[-1][-1:]):
        rounds.append([len(work(f"{k}/{num}").missing) for k in range(1, num + 1)])
        assert len(rounds) < 6, "shards come no further"
    return rounds


def test_shards_make_experts_and_whoever_comes_first_matches_them(tmp_path: Path) -> None:
    distill("tesla", MATCH, tmp_path / "whole", until="recover")
    first = distill("tesla", MATCH, tmp_path / "run", until="recover", shard="2/2")
    assert [path.name for path in first.missing] == ["expert-0000.safetensors", "expert-0002.safetensors"]
    assert not (tmp_path / "run" / "squeeze" / "expert-0000.safetensors").exists()
    assert not distill("tesla", MATCH, tmp_path / "run", until="recover", shard="1/2").missing
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")


def test_what_a_shard_may_not_do_is_refused(tmp_path: Path) -> None:
    for more in ({"fresh": True}, {"redo": "recover"}):
        with pytest.raises(ConfigError, match="with --shard would delete"):
            distill("random", {}, tmp_path / "run", shard="1/2", **more)
    with pytest.raises(ConfigError, match="--shard-wait without --shard"):
        distill("random", {}, tmp_path / "run", shard_wait="1m")
    with pytest.raises(ConfigError, match="'3/2' is no shard"):
        distill("random", {}, tmp_path / "run", shard="3/2")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"thesis\.tex"):
        distill("random", {}, tmp_path, shard="1/2")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_shard_that_is_one_of_several_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started"):
        distill("random", {}, tmp_path / "run", shard="1/2")


def test_a_whitening_is_measured_by_the_shard_that_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distill("random", {"source.zca": True}, tmp_path / "made", until="squeeze")
    folder = RunFolder(tmp_path / "run")
    settings = restore(RunFolder(tmp_path / "made").settings())
    source = pipeline.open_source("digits", settings.source)
    measured, measure = list[str](), pipeline.measure_whitening
    monkeypatch.setattr(
        pipeline, "measure_whitening", lambda *of: measured.append(threading.current_thread().name) or measure(*of)
    )

    def whiten(rank: int) -> None:
        engine = Engine("cpu", processes=Shard(rank, 2, folder=folder.path))
        pipeline._whitened(source, settings, folder, engine, Events(quiet=True))

    folder.path.mkdir()
    second = threading.Thread(target=whiten, args=(1,), name="second")
    with (first := Shard(0, 2, folder=folder.path)).turn():
        second.start()  # and waits for its turn
        engine = Engine("cpu", processes=first)
        pipeline._whitened(source, settings, folder, engine, Events(quiet=True))
        before = (folder.path / "squeeze" / WHITENING).stat().st_mtime_ns
    second.join()
    assert measured == ["MainThread"]
    assert (folder.path / "squeeze" / WHITENING).stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize(("method", "settings"), [("sre2l", INVERT), ("teddy", POOL)])
def test_shards_end_with_the_bytes_of_one_run(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = distill(method, settings, tmp_path / "whole")
    rounds = in_rounds(lambda shard: distill(method, settings, tmp_path / "run", shard=shard), 3)
    assert rounds[0][0] > 0, "nobody can be ready before all have worked"
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")
    after = distill(method, settings, tmp_path / "run")
    assert after.records == whole.records
    assert not list((tmp_path / "run").glob(".lock-*"))


@pytest.mark.slow
def test_a_shard_that_was_stopped_goes_on_and_one_that_never_came_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill("sre2l", INVERT, tmp_path / "whole", until="relabel")
    monkeypatch.setattr("attar.stages.recover.CHECKPOINT_EVERY_S", 0.0)
    begun = list[int | None]()

    def stop(event: Event) -> None:
        if (event.stage, event.name) == ("recover", "step"):
            begun.append(event.step)
            if len(begun) == 3:
                raise KeyboardInterrupt

    options: dict[str, Any] = {"until": "relabel"}
    with pytest.raises(KeyboardInterrupt):
        distill("sre2l", INVERT, tmp_path / "run", shard="1/3", callbacks=stop, **options)
    assert (tmp_path / "run" / "recover" / "checkpoint-00000.safetensors").exists()
    distill("sre2l", INVERT, tmp_path / "run", shard="1/3", callbacks=stop, **options)
    assert begun == [1, 2, 3, 3, 4], "it goes on at its checkpoint"
    distill("sre2l", INVERT, tmp_path / "run", shard="2/3", **options)
    assert not distill("sre2l", INVERT, tmp_path / "run", **options).missing
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_folder_is_gone_on_with_by_shards(tmp_path: Path) -> None:
    distill("sre2l", INVERT, tmp_path / "whole", until="recover")
    distill("sre2l", INVERT, tmp_path / "run", until="squeeze")
    rounds = in_rounds(lambda shard: attar.resume(tmp_path / "run", "recover", shard=shard), 2)
    assert rounds == [[1, 0]]
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")
    with pytest.raises(ConfigError, match="another setting with --shard"):
        attar.resume(tmp_path / "run", "recover", shard="1/2", settings={"recover.iterations": 5})
