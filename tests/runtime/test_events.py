import json
import re
import time
from io import StringIO

from rich.console import Console
from rich.progress import Progress

from attar.runtime.events import Events, _TimeColumn, read_events


def test_the_last_event_of_a_step_counts(tmp_path):
    log = Events(tmp_path / "events.jsonl", quiet=True)
    log.emit("recover", "step", step=1, loss=0.5)
    log.emit("recover", "step", step=2, loss=0.4)
    log.emit("recover", "step", step=1, loss=0.6)
    assert [(e["step"], e["loss"]) for e in read_events(log.path)] == [(1, 0.6), (2, 0.4)]


def test_a_half_written_line_is_skipped_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"stage": "a", "event": "b", "step": 1}) + '\n{"stage": "a", "ev')
    Events(path, quiet=True).emit("a", "b", step=2)
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_progress_off_a_terminal_is_plain_lines_on_stderr(capsys):
    with Events().progress("work", total=3) as bar:
        for _ in range(3):
            bar.advance(loss=0.25)
    out, err = capsys.readouterr()
    assert out == ""
    assert "work 0/3" in err
    assert "work 3/3" in err
    assert "loss 0.25" in err


def test_the_time_left_is_that_of_who_knows_it_better_and_shown_once(capsys):
    with Events().progress("work", total=9) as bar:
        bar.advance(left_s=300.4, loss=0.25)
        bar.finish()
    assert re.search(r"work 1/9 \S+ 300 s left loss 0.25$", capsys.readouterr().err, re.MULTILINE)


def test_on_a_terminal_the_time_left_runs_down(monkeypatch):
    column, now_s = _TimeColumn(compact=True), 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    with Progress(column, console=Console(file=StringIO())) as bars:
        bars.add_task("work", total=3, ends_s=4000.0)
        task = bars.tasks[0]
        assert column.render(task).plain == "1:05:00"
        now_s = 3910.0
        assert column.render(task).plain == "01:30"
        now_s = 4100.0
        assert column.render(task).plain == "00:00"


def test_quiet_says_nothing(capsys):
    log = Events(quiet=True)
    with log.progress("work", total=1) as bar:
        bar.advance()
    log.say("hello")
    assert capsys.readouterr() == ("", "")
