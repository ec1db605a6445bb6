"""Shows how `run` is getting on: a live view in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from benchmarks.executors import Event
from benchmarks.spec import Run

__all__ = ["Watcher", "watch"]

_ENDS = ("finished", "exists", "failed", "unsaved")


@dataclass
class _Tally:
    """The runs of one algorithm."""

    planned: int = 0
    done: int = 0
    failed: int = 0
    last: float | None = None


class Watcher:
    """
    Takes an executor's events, and tells them: the ends of runs and what else needs words as lines, the rest when it is
    rendered.

    :param runs: what is to be done
    :param console: where to write
    :param live: whether the watcher itself is shown; lines then tell no remaining time
    """

    def __init__(self, runs: list[Run], console: Console, live: bool = False):
        self.failed: list[Run] = []
        self.unsaved: list[Run] = []
        self._console = console
        self._live = live
        self._total = sum(run.suite.budget for run in runs)
        self._tallies = {run.algorithm: _Tally() for run in runs}
        for run in runs:
            self._tallies[run.algorithm].planned += 1
        # Steps of the runs that have ended, whatever became of them, of those in flight, and those made by us till now.
        self._steps_ended = 0
        self._in_flight: dict[str, tuple[Run, int]] = {}
        self._made = 0
        self._start = time.monotonic()

    def __call__(self, event: Event) -> None:
        run = event.run
        if event.kind in ("started", "resumed"):
            self._in_flight[run.id] = run, event.steps
        elif event.kind == "progress":
            self._made += event.steps - self._in_flight[run.id][1]
            self._in_flight[run.id] = run, event.steps
        elif event.kind == "retrying":
            del self._in_flight[run.id]
        elif event.kind in _ENDS:
            self._take_in_end(event)
        if event.kind not in ("started", "progress"):
            self._tell(event)

    def _take_in_end(self, event: Event) -> None:
        run, tally = event.run, self._tallies[event.run.algorithm]
        _, steps = self._in_flight.pop(run.id, (run, 0))
        self._steps_ended += run.suite.budget
        if event.kind == "finished":
            self._made += run.suite.budget - steps
            tally.last = event.score
        if event.kind in ("finished", "exists"):
            tally.done += 1
        elif event.kind == "failed":
            tally.failed += 1
            self.failed.append(run)
        else:
            self.unsaved.append(run)

    def _tell(self, event: Event) -> None:
        style = None
        if event.kind in _ENDS:
            said = f"return {event.score:.1f}" if event.kind == "finished" else f"{event.kind}: {event.message}"
            remaining = "" if self._live else f", {self._remaining()} left"
            line = f"[{self._ended}/{self._planned}] {event.run.id}: {said}"
            # The remaining time belongs behind the first line: the others are a traceback.
            line = line.replace("\n", f"{remaining}\n", 1) if "\n" in line else line + remaining
            style = "red" if event.kind in ("failed", "unsaved") else None
        elif event.kind == "waiting":
            line = event.message
        elif event.kind == "resumed":
            line = f"{event.run.id}: goes on from step {event.steps:,}"
        else:
            line = f"{event.kind}: {event.run.id}: {event.message}"
            style = "yellow"
        self._console.print(line, style=style, highlight=False, markup=False)

    def __rich__(self) -> Group:
        """The live view: a row for each algorithm, and a bar over environment steps."""
        running = [run.algorithm for run, _ in self._in_flight.values()]
        table = Table("algorithm", "done", "running", "failed", "last return")
        for column in table.columns[1:]:
            column.justify = "right"
        for algorithm, tally in self._tallies.items():
            last = "" if tally.last is None else f"{tally.last:.1f}"
            done = f"{tally.done}/{tally.planned}"
            table.add_row(algorithm, done, str(running.count(algorithm)), str(tally.failed), last)
        sentence = f"{self._ended} of {self._planned} runs ended, {len(running)} running, {self._remaining()} left"
        line = Table.grid(padding=(0, 2))
        line.add_row(ProgressBar(total=self._total, completed=self._steps, width=40), sentence)
        return Group(table, line)

    @property
    def _planned(self) -> int:
        return sum(tally.planned for tally in self._tallies.values())

    @property
    def _ended(self) -> int:
        return sum(tally.done + tally.failed for tally in self._tallies.values()) + len(self.unsaved)

    @property
    def _steps(self) -> int:
        return self._steps_ended + sum(steps for _, steps in self._in_flight.values())

    def _remaining(self) -> str:
        # What was resumed, or made by others, says nothing about our speed.
        if self._made == 0:
            return "unknown time" if self._steps < self._total else "no time"
        seconds = (time.monotonic() - self._start) * (self._total - self._steps) / self._made
        return f"about {seconds / 60:.0f} min" if seconds >= 60 else f"about {seconds:.0f} s"


@contextmanager
def watch(runs: list[Run], console: Console) -> Iterator[Watcher]:
    """
    :param runs: what is to be done
    :param console: where to write; the live view is drawn if it is a terminal
    :return: the watcher, to be called with each event
    """
    watcher = Watcher(runs, console, live=console.is_terminal)
    if not console.is_terminal or not runs:
        yield watcher
        return
    with Live(watcher, console=console, refresh_per_second=2):
        yield watcher
