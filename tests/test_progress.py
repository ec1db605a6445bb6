import io

import pytest
from rich.console import Console
from suites import TINY, write_suite

from benchmarks import progress
from benchmarks.executors import Event
from benchmarks.spec import load_suite, plan


@pytest.fixture
def runs(tmp_path):
    return plan(load_suite(write_suite(tmp_path)), regimes=["stale"], repeats=[0])


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the watcher believes have passed."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(renderable):
    console = Console(width=120, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def watcher_of(runs, live=False):
    file = io.StringIO()
    return progress.Watcher(runs, Console(width=200, file=file), live), file


def cells(watcher):
    """Algorithm to done, running, failed and last return."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown(watcher).splitlines() if "│" in line]
    return {line[0]: line[1:] for line in lines}


def test_the_view_counts_by_algorithm(runs, clock):
    ppo, gipo, ppo2, gipo2 = runs
    watcher, file = watcher_of(runs, live=True)
    assert cells(watcher) == {"ppo": ["0/2", "0", "0", ""], "gipo(1.0,0.5)": ["0/2", "0", "0", ""]}
    watcher(Event(ppo, "started"))
    watcher(Event(gipo, "started"))
    watcher(Event(gipo, "progress", steps=64))
    assert cells(watcher) == {"ppo": ["0/2", "1", "0", ""], "gipo(1.0,0.5)": ["0/2", "1", "0", ""]}
    watcher(Event(ppo, "finished", score=12.34))
    watcher(Event(gipo, "retrying", message="it broke"))
    assert cells(watcher) == {"ppo": ["1/2", "0", "0", "12.3"], "gipo(1.0,0.5)": ["0/2", "0", "0", ""]}
    watcher(Event(gipo, "started"))
    watcher(Event(gipo, "failed", message="it broke"))
    watcher(Event(ppo2, "exists", message="another command made it"))
    watcher(Event(gipo2, "unsaved", message="no space"))
    assert cells(watcher) == {"ppo": ["2/2", "0", "0", "12.3"], "gipo(1.0,0.5)": ["0/2", "0", "1", ""]}
    assert "4 of 4 runs ended, 0 running, no time left" not in shown(watcher), "some was made, so the time is known"
    assert "4 of 4 runs ended, 0 running, about 0 s left" in shown(watcher)
    assert watcher.failed == [gipo] and watcher.unsaved == [gipo2]
    assert "left" not in file.getvalue(), "the view tells the remaining time"


def test_plain_lines_tell_what_ended_and_how_long_the_rest_takes(runs, clock):
    first, second, third, _ = runs
    watcher, file = watcher_of(runs)
    assert "unknown time left" in shown(watcher)
    watcher(Event(first, "started"))
    clock[0] = 60.0
    watcher(Event(first, "finished", score=7.0))
    watcher(Event(second, "failed", message="Traceback\n  it broke"))
    watcher(Event(third, "warning", message="look out"))
    watcher(Event(third, "waiting", message="waiting for 2 runs"))
    clock[0] = 120.0
    watcher(Event(third, "exists", message="another command made it"))
    assert file.getvalue().splitlines() == [
        f"[1/4] {first.id}: return 7.0, about 3 min left",
        # The failed run has cost nothing and leaves two.
        f"[2/4] {second.id}: failed: Traceback, about 2 min left",
        "  it broke",
        f"warning: {third.id}: look out",
        "waiting for 2 runs",
        f"[3/4] {third.id}: exists: another command made it, about 2 min left",
    ]


def test_steps_made_before_a_resumption_say_nothing_about_speed(runs, clock):
    watcher, file = watcher_of(runs[:1])
    watcher(Event(runs[0], "started"))
    watcher(Event(runs[0], "resumed", steps=64))
    assert "unknown time left" in shown(watcher)
    clock[0] = 10.0
    watcher(Event(runs[0], "progress", steps=128))
    # 64 of the last 128 steps took 10 seconds.
    assert "about 10 s left" in shown(watcher)
    assert file.getvalue() == f"{runs[0].id}: goes on from step 64\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_is_drawn_upon(tmp_path, terminal):
    runs = plan(load_suite(write_suite(tmp_path, TINY)), regimes=["stale"], repeats=[0])
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with progress.watch(runs, console) as watcher:
        watcher(Event(runs[0], "started"))
        watcher(Event(runs[0], "finished", score=1.0))
    output = console.file.getvalue()
    assert f"[1/4] {runs[0].id}: return 1.0" in output
    assert ("last return" in output) == ("\x1b" in output) == terminal
