"""Shows how `run` is getting on: a bar over environment steps in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.executors import Event
from benchmarks.spec import Run

__all__ = ["Watcher", "watch"]


class Watcher:
    """
    Takes an executor's events.

    :param runs: what is to be done
    :param console: where to write
    :param bar: the bar of a terminal; None for plain lines with a remaining time of their own
    """

    def __init__(self, runs: list[Run], console: Console, bar: Progress | None):
        self.failed: list[Run] = []
        self._console = console
        self._bar = bar
        self._total = sum(run.suite.budget for run in runs)
        self._count = len(runs)
        self._ended = 0
        # Steps of the runs that have ended, whatever became of them, and of those in flight.
        self._steps_ended = 0
        self._in_flight: dict[str, int] = {}
        self._start = time.monotonic()
        self._task = bar.add_task("environment steps", total=self._total) if bar else None

    def __call__(self, event: Event) -> None:
        if event.kind == "progress":
            self._in_flight[event.run.id] = event.steps
        else:
            self._in_flight.pop(event.run.id, None)
            self._steps_ended += event.run.suite.budget
            self._ended += 1
            self._tell(event)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._steps)

    @property
    def _steps(self) -> int:
        return self._steps_ended + sum(self._in_flight.values())

    def _tell(self, event: Event) -> None:
        if event.kind == "failed":
            self.failed.append(event.run)
            self._console.print(f"FAILED {event.run.id}", style="red", highlight=False)
            self._console.print(event.message, highlight=False, markup=False)
        outcome = {"finished": f"return {event.score:.1f}" if event.score is not None else "", "exists": event.message}
        remaining = "" if self._bar else f", {self._remaining()} left"
        said = outcome.get(event.kind, "failed")
        self._console.print(
            f"[{self._ended}/{self._count}] {event.run.id}: {said}{remaining}", highlight=False, markup=False
        )

    def _remaining(self) -> str:
        seconds = (time.monotonic() - self._start) * (self._total - self._steps) / max(self._steps, 1)
        return f"about {seconds / 60:.0f} min" if seconds >= 60 else f"about {seconds:.0f} s"


@contextmanager
def watch(runs: list[Run], console: Console) -> Iterator[Watcher]:
    """
    :param runs: what is to be done
    :param console: where to write; a live bar is drawn if it is a terminal
    :return: the watcher, to be called with each event
    """
    if not console.is_terminal:
        yield Watcher(runs, console, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        yield Watcher(runs, console, bar)
