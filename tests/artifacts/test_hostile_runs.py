"""Run and study folders that were damaged, or made by somebody who means ill: each command works or is told why not.

Each file of a small real run is damaged byte by byte and value by value. Whatever stands in it, a command ends well or
in one error for people, at bounded cost, and leaves no file half-written.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar import api
from attar.artifacts.checksums import read_sums
from attar.artifacts.run import RunFolder
from attar.cli.comparisons import print_comparison
from attar.errors import ArtifactError, AttarError
from attar.runtime.events import Events, read_events
from damage import damaged

TOY = {
    "source.train_per_class": 6,
    "squeeze.model": "convnet-d1-w4",
    "squeeze.num_experts": 2,
    "squeeze.epochs": 4,
    "method.expert_epochs": 1,
    "method.num_steps": 2,
    "method.max_start_epoch": 2,
    "recover.iterations": 3,
    "recover.num_snapshots": 3,
    "train.epochs": 2,
    "evaluate.full_epochs": 1,
}
JUDGING = {"train.epochs": 2, "full_epochs": 1}
STUDY = {
    "data": {"source": "digits", "train_per_class": 6},
    "models": ["convnet-d1-w4-batch"],
    "strategies": ["ce", "dlb"],
    "seeds": 2,
    "train": {"epochs": 2, "batch_size": 16, "augment": "none"},
    "judge": {"split": "validation"},
}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'[/red]{{ 7 * 7 }}"
TAGS = ("script", "style", "img", "a", "iframe", "object", "embed", "form", "link", "base", "meta")
VALUES: tuple[Any, ...] = (
    *("x", "", EVIL, "\0", "../../x", None, True, -1, 0, 0.5, 10**60, -(10**40), 1e300, -1e-320),
    *([], {}, [[]], {"": 0}, [None] * 50_000, ["x", 1], {"x": [1]}),
)
RAW = ("NaN", "Infinity", "-Infinity", "1e400", "9" * 10_000, "9" * 4_000, '"\\ud800"', "[" * 990 + "]" * 990)
"""JSON that Python would not write."""
TEXTS = (
    *(b"", b"null", b"[]", b"{}", b'"x"', b"0", b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b"[" * 200_000, b"{" * 50_000),
    *(b"[" * 400 + b"]" * 400, b'{"records": 3}', b"9" * 10_000, "\u2028\n{}".encode("utf-16")),
)
SHORTER = (b"", b"null", b"[]", b'{"records": 3}', b"\xff\xfe\x00", b"[" * 200_000)
"""Enough to see that a reader goes through `read_json`, and that it doubts what it is given."""
JSON_FILES = (
    *("evaluation.json", "continual.json", "by_class.json", "squeeze/manifest.json", "recover/manifest.json"),
    *("distilled/attar.json", "relabel/manifest.json"),
)
MOST_SECONDS, MOST_BYTES = 60, 500_000_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run, one more to compare with, what was judged outside of a run, and a study."""
    folder = tmp_path_factory.mktemp("made")
    api.distill("digits", "tesla", 1, recipe="none", out=folder / "run", settings=TOY, until="relabel", quiet=True)
    api.distill(
        "digits", "random", 1, out=folder / "other", settings={"source.train_per_class": 6}, until="relabel", quiet=True
    )
    shutil.copytree(folder / "other/distilled", folder / "outside")
    for name in ("run", "other", "outside"):
        judge(folder / name)
    arrive(folder / "run")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    api.study(folder / "study.yaml", out=folder / "study", quiet=True)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "here", copy_function=shutil.copyfile))


def judge(run: Path) -> Any:
    return api.evaluate(
        run, "digits", models=["convnet-d1-w4"], seeds=2, baselines=["random"], settings=JUDGING, quiet=True
    )


def arrive(run: Path) -> Any:
    return api.continual(run, "digits", model="convnet-d1-w4", steps=2, settings={"train.epochs": 1}, quiet=True)


LOOKING: dict[str, Callable[[Path], Any]] = {
    "report": lambda here: api.write_report(here / "run"),
    "outside": lambda here: api.write_report(here / "outside"),
    "compare": lambda here: api.compare([here / "run", here / "other", here / "outside"], here / "page"),
    "experts": lambda here: api.experts(here / "run", None),
    "study": lambda here: api.write_report(here / "study"),
}
WORKING: dict[str, Callable[[Path], Any]] = {
    "recover": lambda here: api.resume(here / "run", "recover", quiet=True),
    "relabel": lambda here: api.resume(here / "run", "relabel", quiet=True),
    "again": lambda here: api.resume(here / "run", "recover", settings=["iterations=2"], redo="recover", quiet=True),
    "evaluate": lambda here: judge(here / "run"),
    "continual": lambda here: arrive(here / "run"),
}


def told(what: str, here: Path, command: Callable[[Path], Any]) -> bool:
    """Whether a command ends in an error for people; any other fails the test, as a file half-written does."""
    found: AttarError | None = None
    try:
        with cheap(what):
            command(here)
    except AttarError as error:
        found = error
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error
    assert not list(here.rglob("*.tmp")), what
    assert found is None or found.fix or found.expected, f"{what}: {found}"
    assert len(str(found)) < 5_000, f"{what}: an error of {len(str(found))} characters"
    return found is not None


def try_all(
    here: Path, name: str, forms: Iterator[tuple[str, bytes]], commands: dict[str, Callable[[Path], Any]]
) -> int:
    """How often one of the commands told that the file of this name was damaged."""
    file, num = here / name, 0
    whole = file.read_bytes()
    for what, data in forms:
        file.write_bytes(data)
        num += sum(told(f"{command}, {name}, {what}", here, run) for command, run in commands.items())
        file.write_bytes(whole)
    return num


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every part of a JSON value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def changed(whole: bytes, num: int, seed: str, texts: tuple[bytes, ...] = TEXTS) -> Iterator[tuple[str, bytes]]:
    """A JSON file with `num` parts, chosen by chance, replaced by something else or left out; then `texts`."""
    value, rng = json.loads(whole), random.Random(seed)
    every = [path for path in places(value) if path]
    for _ in range(num):
        path, new = rng.choice(every), rng.choice((*VALUES, *RAW, "leave out"))
        yield f"{'.'.join(map(str, path))} = {str(new)[:30]}", _with(value, path, new)
    yield from ((str(text[:20]), text) for text in texts)


def _with(value: Any, path: tuple[Any, ...], new: Any) -> bytes:
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    if new == "leave out":
        del holder[path[-1]]
        return json.dumps(copy).encode()
    holder[path[-1]] = "@here@" if new in RAW else new
    return json.dumps(copy).replace('"@here@"', str(new)).encode()


@contextmanager
def cheap(what: str) -> Iterator[None]:
    """Hold the block to a bounded time, and to memory that the process did not have before."""

    def late(*_: Any) -> None:
        raise AssertionError(f"{what}: still at it after {MOST_SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    usual = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)
    if 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) > MOST_BYTES:
        raise MemoryError(what)


WIDE = pytest.mark.slow


@pytest.mark.parametrize("num", [6, pytest.param(50, marks=WIDE)])
@pytest.mark.parametrize("name", JSON_FILES)
def test_values_that_make_no_sense_in_a_run_are_told(here: Path, name: str, num: int) -> None:
    both = num > 6 or name in ("evaluation.json", "distilled/attar.json")
    looking = ("report", "compare") if both else ("report",)  # which shows all files
    forms = changed((here / "run" / name).read_bytes(), num, name, TEXTS if num > 6 else SHORTER)
    assert try_all(here, f"run/{name}", forms, {key: LOOKING[key] for key in looking})


@pytest.mark.parametrize("num", [8, pytest.param(50, marks=WIDE)])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("study/study.json", "study"),
        ("outside-evaluation/judged.json", "outside"),
        ("outside-evaluation/evaluation.json", "compare"),
    ],
)
def test_values_that_make_no_sense_beside_runs_are_told(here: Path, name: str, command: str, num: int) -> None:
    forms = changed((here / name).read_bytes(), num, name, TEXTS if num > 8 else SHORTER)
    assert try_all(here, name, forms, {command: LOOKING[command]})


@pytest.mark.slow
@pytest.mark.parametrize("command", WORKING)
@pytest.mark.parametrize("name", [*JSON_FILES, "config.yaml", "events.jsonl"])
def test_work_on_a_damaged_run_goes_on_or_is_told(made: Path, tmp_path: Path, name: str, command: str) -> None:
    whole = (made / "run" / name).read_bytes()
    forms = [*damaged(whole, 3), *(changed(whole, 30, name) if name.endswith(".json") else ())]
    for number, (what, data) in enumerate(random.Random(command).sample(forms, 12)):
        here = Path(shutil.copytree(made, tmp_path / f"{number}"))
        (here / "run" / name).write_bytes(data)
        told(f"{command}, {name}, {what}", here, WORKING[command])
        shutil.rmtree(here)


@pytest.mark.parametrize("name", ["config.yaml", "squeeze/manifest.json", "distilled/attar.json"])
@pytest.mark.parametrize("command", WORKING)
def test_work_on_a_run_without_sense_is_told(here: Path, name: str, command: str) -> None:
    if (name, command) in {("config.yaml", "evaluate"), ("config.yaml", "continual")} or "squeeze" in name:
        command = "recover"  # judging needs neither
    if name == "distilled/attar.json" and command in ("recover", "relabel", "again"):
        command = "evaluate"
    (here / "run" / name).write_text('{"run": [')
    assert told(f"{command}, {name}", here, WORKING[command])


@pytest.mark.parametrize("num", [1, pytest.param(60, marks=WIDE)])
@pytest.mark.parametrize("name", ["recover/snapshots", "squeeze", "outside", "distilled/data"])
def test_damaged_tensors_and_pictures_are_told(here: Path, name: str, num: int) -> None:
    """Snapshots of the synthesis, experts, pictures of what was judged, shards of images."""
    if name == "outside":
        file, command = here / "outside-evaluation/pictures.safetensors", "outside"
    else:
        file = next(
            path for path in sorted((here / "run" / name).iterdir()) if path.suffix in (".safetensors", ".parquet")
        )
        command = "experts" if name == "squeeze" else "report"
    forms = damaged(file.read_bytes(), num)
    assert try_all(here, str(file.relative_to(here)), forms, {command: LOOKING[command]})


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "run: &r {source: *r}",
        "run: &r {source: digits, more: *r}",
        "run: !!python/object/apply:os.system ['touch owned']",
        "run: !!python/name:os.system",
        "run: !!timestamp x",
        "run: !!int ''",
        "run: !!bool x",
        "run: !!float x",
        "run: !!binary '*'",
        "run: 2026-02-31",
        "run: 2026-02-03",
        "run: !!set {a, b}",
        "run: {1: 2}",
        "run: {[a]: 2}",
        "? {a: b}\n: c",
        "run: " + "[" * 20_000,
        "run: " + "9" * 10_000,
        "run: .nan",
        'run: "\\ud800"',
        "run: digits",
        "- run",
        "",
        "x",
        "a: 1\n" * 300_000,
        "\t",
        "run: \x01",
        "--- 1\n--- 2",
        "run: {method: [], source: digits}",
        "run: {method: tesla, source: {a: b}, ipc: many}",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_config_that_makes_no_sense_is_told(here: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    (here / "run/config.yaml").write_text(text)
    assert told(f"recover, {text[:30]}", here, WORKING["recover"])
    told(f"report, {text[:30]}", here, LOOKING["report"])
    assert not (here / "owned").exists()


@pytest.mark.parametrize("num", [3, pytest.param(60, marks=WIDE)])
def test_a_damaged_config_is_read_or_told(here: Path, num: int) -> None:
    commands = {"report": LOOKING["report"], "settings": lambda here: RunFolder(here / "run").settings()}
    assert try_all(here, "run/config.yaml", damaged((here / "run/config.yaml").read_bytes(), num), commands)


LINES = (
    *("null", "3", "[]", "{}", '{"stage": [], "event": {}}', '{"stage": "recover", "event": "step", "step": []}'),
    *('{"stage": "recover", "event": "step", "item": {"a": 1}, "step": 1}', '{"event": "why", "message": ["x"]}'),
    *(f'{{"stage": "recover", "event": "step", "step": {step}, "loss": 1}}' for step in ("1e400", "NaN", "1e300")),
    *(f'{{"stage": "recover", "event": "step", "step": {step}, "loss": 1}}' for step in ("-1", "1e17", "9" * 4000)),
    *(f'{{"stage": "recover", "event": "step", "step": 1, "loss": {loss}}}' for loss in ("1e308", "-1e308", "1e-323")),
    *(
        f'{{"stage": "recover", "event": "step", "item": "x", "about": {about}, "step": 1, "statistics": 1}}'
        for about in (
            "3",
            "[]",
            '{"number": "x"}',
            '{"kind": "chunk"}',
            '{"kind": "chunk", "number": 1e300}',
            '{"x": [[]]}',
        )
    ),
    '{"stage": "x", "event": "epoch", "step": 1, "\\ud800": 1}',
    '{"stage": "x", "event": "epoch", "step": 1, "deep": ' + "[" * 900 + "]" * 900 + "}",
    "[" * 100_000,
    "x" * 3_000_000,
    "9" * 10_000,
    '{"stage": "x',
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:70])
def test_lines_that_are_no_events_spoil_no_report(here: Path, line: str) -> None:
    with (here / "run/events.jsonl").open("a") as file:
        file.write(f"{line}\n{line}")
    assert not told(f"report, {line[:40]}", here, LOOKING["report"])


@pytest.mark.parametrize("num", [1, pytest.param(60, marks=WIDE)])
def test_a_damaged_log_spoils_no_report(here: Path, num: int) -> None:
    assert not try_all(
        here, "run/events.jsonl", damaged((here / "run/events.jsonl").read_bytes(), num), {"report": LOOKING["report"]}
    )


def test_a_last_line_that_was_cut_off_is_lost_alone(here: Path) -> None:
    path = here / "run/events.jsonl"
    whole = read_events(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert read_events(path) == whole[:-1]
    Events(path, quiet=True).emit("recover", "step", step=10**6, loss=1.0)
    assert [event.get("step") for event in read_events(path)][-1] == 10**6
    assert read_events(path)[:-1] == whole[:-1]
    assert not told("recover again", here, WORKING["again"])


def test_a_long_line_is_not_held_in_memory_and_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:
        file.write(b'{"stage": "a", "event": "first"}\n')
        file.seek(200_000_000, os.SEEK_CUR)
        file.write(b'\n{"stage": "a", "event": "last"}\n')
    assert [event["event"] for event in read_events(path)] == ["first", "last"]
    os.truncate(path, 1 << 40)
    with pytest.raises(ArtifactError, match="bytes"):
        read_events(path)


def in_place(path: Path, kind: str) -> None:
    """Something else where a file is expected."""
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)


KINDS = ("folder", "pipe", "loop", "zero", "terabyte")


PLACES = (
    *((f"run/{name}", "report") for name in ("config.yaml", "events.jsonl", "evaluation.json", "real.safetensors")),
    ("run/evaluation.json", "compare"),
    ("outside-evaluation/judged.json", "compare"),
    ("outside-evaluation/pictures.safetensors", "outside"),
    ("run/squeeze/expert-0000.safetensors", "experts"),
    ("study/study.json", "study"),
)
"""Each is read in a way of its own, and with each kind; other files of the run go by the way of evaluation.json."""


@pytest.mark.parametrize(
    ("name", "command", "kind"),
    [
        *((name, command, kind) for name, command in PLACES for kind in KINDS),
        *((f"run/{name}", "report", kind) for name, kind in zip(JSON_FILES[1:6], KINDS, strict=True)),
    ],
)
def test_what_is_no_plain_file_is_not_waited_for(here: Path, name: str, command: str, kind: str) -> None:
    in_place(here / name, kind)
    told(f"{command}, {name}, {kind}", here, LOOKING[command])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.yaml", "events.jsonl", ".lock", "squeeze/manifest.json"])
def test_work_waits_for_no_pipe(here: Path, name: str, kind: str) -> None:
    (here / "run" / name).touch()
    in_place(here / "run" / name, kind)
    told(f"recover, {name}, {kind}", here, WORKING["recover"])


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "zero", "terabyte"])
def test_sums_that_are_no_plain_file_are_told(here: Path, kind: str) -> None:
    in_place(here / "run/distilled/SHA256SUMS", kind)
    with cheap(kind), pytest.raises(ArtifactError):
        read_sums(here / "run/distilled")


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_that_is_no_plain_file_is_told(here: Path, kind: str) -> None:
    in_place(sorted((here / "run/recover/snapshots").glob("*.safetensors"))[0], kind)
    assert told(kind, here, LOOKING["report"])


class Tags(HTMLParser):
    """How often each tag stands in a page, and every attribute that is a handler or leads elsewhere."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.num: dict[str, int] = dict.fromkeys(TAGS, 0)
        self.odd: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.num:
            self.num[tag] += 1
        self.odd += [name for name, _ in attrs if name.startswith("on")]
        self.odd += [
            str(value)
            for name, value in attrs
            if name in ("src", "href")
            and not str(value).startswith("data:")
            and not re.fullmatch(r"#[\w-]+", str(value))
        ]


def poisoned(value: Any, key: str = "") -> Any:
    """The same JSON with markup in every text that names nothing which is looked up."""
    if isinstance(value, dict):
        fixed = ("metric", "group", "split", "labels", "over", "stored", "codec", "kind", "sizes")
        return {name: part if name in fixed else poisoned(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [poisoned(part, key) for part in value]
    return value + EVIL if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("report", "run/report.html"),
        ("study", "study/report.html"),
        ("compare", "page/comparison.html"),
        ("outside", "outside-evaluation/report.html"),
    ],
)
def test_markup_in_any_text_is_text_on_the_page(
    here: Path, command: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    LOOKING[command](here)
    before = Tags(here / page)
    for path in [*here.rglob("*.json"), *here.rglob("events.jsonl")]:
        lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
        path.write_text("\n".join(json.dumps(poisoned(json.loads(line))) for line in lines))
    with (here / "run/events.jsonl").open("a") as file:
        for item in ("a", EVIL):
            for step in (1, 2):
                event = {"stage": EVIL, "event": "step", "item": item, "step": step, EVIL: step, "loss": step}
                file.write("\n" + json.dumps(event))
        file.write("\n" + json.dumps({"stage": "distill", "event": "why", "message": EVIL}))
    for path in here.rglob("config.yaml"):
        path.write_text(yaml.safe_dump({**poisoned(yaml.safe_load(path.read_text())), EVIL: {EVIL: EVIL}}))
    LOOKING[command](here)
    if command == "compare":
        print_comparison(LOOKING[command](here))
        assert "[/red]" in capsys.readouterr().out.replace("\n", "")
    after = Tags(here / page)
    assert EVIL.partition("<img")[0] not in (here / page).read_text()
    assert "&lt;img" in (here / page).read_text()
    links, links_before = after.num.pop("a"), before.num.pop("a")
    assert after.num == before.num
    assert links <= links_before, "sections that hang on a name which is no longer known are not there"
    assert not after.odd
