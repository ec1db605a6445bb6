"""The command line of the benchmark: `python -m benchmarks --help`."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import executors, progress
from benchmarks.spec import BenchmarkError, Run, Suite, load_suite, plan, suite_names
from benchmarks.store import Found, Store, replace_file
from benchmarks.workers import Crew, Processes, Serial

if TYPE_CHECKING:
    from benchmarks.derived import Study

# Commands import what is heavy (torch, metaworld, rliable) for themselves, so that help and worker processes start at once.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""
An honest, resumable benchmark of GIPO, PPO, SAPO and plain importance sampling on fresh and stale data.

**Examples**

`python -m benchmarks run demo` — a first ranking in a few minutes

`python -m benchmarks table demo` — show it, and write it as Markdown, LaTeX, CSV and a figure

`python -m benchmarks plot demo` and `python -m benchmarks report demo` — all figures, and one web page with everything

`python -m benchmarks run metaworld8 --regime stale --seeds 0-1 --repeats 0 --budget 50000` — a small part of a large suite

`python -m benchmarks run my-suite.toml` — your own suite; start from a file in `benchmarks/suites`

Stop `run` whenever you like and start it again: what is finished is kept, the rest is made.
""",
)

SuiteName = Annotated[
    str, typer.Argument(metavar="SUITE", help="a suite's name (demo, metaworld8), or your own .toml file")
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="STEPS|%",
        help="environment steps a run, or a share of the suite's own such as 10%; records of another budget go to another "
        "folder",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(metavar="LABEL", help="the algorithm that others are compared with  [default: ppo, if there is one]"),
]
Results = Annotated[Path, typer.Option(metavar="DIR", help="where records and tables are")]
DEFAULT_RESULTS = Path("results")


class Executor(str, Enum):
    """Who carries out the runs of a suite."""

    processes = "processes"
    serial = "serial"
    ray = "ray"


@app.command()
def run(
    suite: SuiteName,
    budget: Budget = None,
    workers: Annotated[int | None, typer.Option(min=1, help="runs at a time  [default: number of CPUs]")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="A-B", help="only these seeds, such as 0-4 or 3")] = None,
    repeats: Annotated[str | None, typer.Option(metavar="A-B", help="only these repeats, such as 0-1 or 0")] = None,
    task: Annotated[list[str] | None, typer.Option(help="only this task (may be given several times)")] = None,
    algorithm: Annotated[list[str] | None, typer.Option(help="only this algorithm (likewise)")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="only this regime (likewise)")] = None,
    executor: Annotated[
        Executor,
        typer.Option(
            help="local processes, this process alone, or a Ray cluster (that of RAY_ADDRESS, or a local one)"
        ),
    ] = Executor.processes,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(min=0, help="a run that was killed goes on from where it was so long ago; 0: from its start"),
    ] = executors.CHECKPOINT_MINUTES,
    retry_failed: Annotated[bool, typer.Option(help="try again what is recorded as failed")] = False,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """
    Make the runs of a suite that are not finished yet.

    Each run ends in one record, written as soon as it is finished. Records are never overwritten; damaged ones and those of
    an older version of the suite are set aside. A run that fails is tried three times, then recorded as failed.

    Several such commands may share DIR: each run is made once.
    """
    chosen = _load(suite, budget)
    runs = plan(
        chosen,
        seeds=_range("--seeds", seeds),
        repeats=_range("--repeats", repeats),
        tasks=task or (),
        algorithms=algorithm or (),
        regimes=regime or (),
    )
    console = _console()
    store = Store(results)
    finished: set[str] = set()
    failed: list[Run] = []
    # They are read in full: a damaged or foreign record is better found now than when the table is made.
    for found in store.survey(runs):
        if found.problem:
            _set_aside(store, found.run)
        elif found.record:
            store.sweep(found.run)
            finished.add(found.run.id)
        elif found.failure and not retry_failed:
            failed.append(found.run)
    settled = finished | {each.id for each in failed}
    todo = [each for each in runs if each.id not in settled]
    given_up = f"{len(failed)} failed, " if failed else ""
    console.print(f"{chosen.identity}: {len(finished)} of {len(runs)} runs finished, {given_up}{len(todo)} to do")
    crew = _crew(executor, workers, len(todo))
    try:
        with progress.watch(todo, console) as report:
            executors.carry_out(todo, results, report, crew, checkpoint_minutes, retry_failed)
    except KeyboardInterrupt:
        console.print("stopped; finished runs are kept. The same command goes on from here.")
        raise typer.Exit(130) from None
    if report.unsaved:
        console.print("Not all records could be written. The same command goes on from here.", style="red")
    failures = report.failed + failed
    if failures:
        console.print(f"{len(failures)} runs have failed; --retry-failed tries them again:", style="red")
        for each in failures:
            console.print(f"  {each.id}: {store.failure_path(each)}")
    if failures or report.unsaved:
        raise typer.Exit(1)


@app.command()
def status(suite: SuiteName, budget: Budget = None, results: Results = DEFAULT_RESULTS) -> None:
    """Show how much of a suite is finished."""
    chosen = _load(suite, budget)
    runs = plan(chosen)
    planned, finished, failed = (Counter[tuple[str, str]]() for _ in range(3))
    seconds = 0.0
    for found in _survey(Store(results), runs):
        kind = (found.run.algorithm, found.run.regime)
        planned[kind] += 1
        finished[kind] += found.record is not None
        failed[kind] += found.failure is not None
        seconds += found.record["cpu_seconds"] if found.record else 0.0
    table = Table(title=f"{chosen.identity}: finished/planned", title_justify="left")
    table.add_column("algorithm")
    for regime in chosen.regimes:
        table.add_column(regime, justify="right")
    for algorithm in chosen.algorithms:
        cells = []
        for regime in chosen.regimes:
            kind = (algorithm, regime)
            failures = f", {failed[kind]} failed" if failed[kind] else ""
            cells.append(f"{finished[kind]}/{planned[kind]}{failures}" if planned[kind] else "—")
        table.add_row(algorithm, *cells)
    console = _console()
    if chosen.description:
        console.print(chosen.description)
    console.print(table)
    done, hours = finished.total(), seconds / 3600
    console.print(f"{done} of {len(runs)} runs of {chosen.budget:,} steps are finished, in {hours:.2f} CPU hours.")
    console.print(f"Records are in {results / chosen.identity}.")


@app.command("plan")
def show_plan(suite: SuiteName, budget: Budget = None, results: Results = DEFAULT_RESULTS) -> None:
    """Show what a suite will cost: runs, environment steps, and CPU hours judged by the runs that are finished."""
    from benchmarks import costs

    chosen = _load(suite, budget)
    runs = plan(chosen)
    every = _survey(Store(results), runs)
    finished = [(found.run, found.record["cpu_seconds"]) for found in every if found.record]
    done = {each.id for each, _ in finished}
    table = Table(title=f"{chosen.identity}: {chosen.budget:,} environment steps a run", title_justify="left")
    for name in ("regime", "runs", "finished", "environment steps to do", "CPU hours to do"):
        table.add_column(name, justify="left" if name == "regime" else "right")
    for regime in (*chosen.regimes, None):
        of_regime = [each for each in runs if regime in (each.regime, None)]
        todo = [each for each in of_regime if each.id not in done]
        cost = costs.estimate(todo, finished)
        hours = "?" if cost.cpu_seconds is None else f"{cost.cpu_seconds / 3600:.1f}"
        counts = (str(len(of_regime)), str(len(of_regime) - len(todo)))
        table.add_row(
            regime or "all", *counts, f"{cost.steps:,}", hours, end_section=regime == list(chosen.regimes)[-1]
        )
    console = _console()
    console.print(table)
    if not finished:
        console.print(
            "No run is finished yet to estimate CPU hours from; one seed of one repeat makes a few: "
            f"`{_again('run', suite, budget, results)} --seeds 0 --repeats 0`",
        )


@app.command()
def table(
    suite: SuiteName, budget: Budget = None, baseline: Baseline = None, results: Results = DEFAULT_RESULTS
) -> None:
    """
    Rank the algorithms by what is finished, and write the ranking as Markdown, LaTeX, CSV and a figure.

    Works with missing runs too, and marks them. `docs/statistics.md` defines every number.
    """
    from benchmarks import report

    chosen = _load(suite, budget)
    study = _study(chosen, baseline, suite, budget, results)
    written = _derive("table", study, _command("table", suite, chosen, budget, baseline), results)
    console = _console()
    report.print_tables(chosen, study.regimes, console)
    console.print(written)


@app.command()
def plot(
    suite: SuiteName, budget: Budget = None, baseline: Baseline = None, results: Results = DEFAULT_RESULTS
) -> None:
    """
    Draw what is finished, each figure as PNG and SVG.

    Interquartile means, sample efficiency, performance profiles, probability of improvement, ranks, and how much of the data
    is used; with three regimes or more, scores against the lag of the data; with asynchronous actors, over wall time.
    """
    chosen = _load(suite, budget)
    study = _study(chosen, baseline, suite, budget, results)
    _console().print(_derive("plot", study, _command("plot", suite, chosen, budget, baseline), results))


@app.command("report")
def write_report(
    suite: SuiteName, budget: Budget = None, baseline: Baseline = None, results: Results = DEFAULT_RESULTS
) -> None:
    """Write one web page that needs nothing else: tables, figures, protocol, costs, and what is missing."""
    chosen = _load(suite, budget)
    study = _study(chosen, baseline, suite, budget, results)
    _console().print(_derive("report", study, _command("report", suite, chosen, budget, baseline), results))


@app.command()
def check(suite: SuiteName, budget: Budget = None, results: Results = DEFAULT_RESULTS) -> None:
    """
    Make tables, figures and page again, in memory, and say which in DIR are not what the records say.

    Ends with exit code 1 if there are any.
    """
    from benchmarks import derived

    chosen = _load(suite, budget)
    folder = results / chosen.identity
    if not folder.is_dir():
        raise BenchmarkError(f"there is no folder {folder}: `{_again('run', suite, budget, results)}` makes it")
    old = derived.stale(folder, lambda baseline: _study(chosen, baseline, suite, budget, results))
    console = _console()
    for name in old:
        console.print(f"not what the records say: {folder / name}")
    if old:
        raise typer.Exit(1)
    console.print(f"All derived files in {folder} are what the records say.")


@app.command()
def verify(
    suites: Annotated[list[str] | None, typer.Argument(metavar="[SUITE]...", help="only these  [default: all]")] = None,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """
    Check all records: checksums, places, configurations, learning curves. Changes nothing.

    Exit code 1 if anything is wrong.
    """
    from benchmarks import verify as room

    verdict = room.verify(results, suites or ())
    console = _console()
    for line in verdict.wrong:
        console.print(f"WRONG {line}", style="red", soft_wrap=True)
    found = f"{results}: {verdict.records} records, {verdict.failures} failed runs, {verdict.set_aside} files set aside"
    console.print(f"{found}; {len(verdict.wrong) or 'nothing'} wrong")
    if verdict.wrong:
        raise typer.Exit(1)


class Format(str, Enum):
    """What `export` writes."""

    csv = "csv"
    parquet = "parquet"


@app.command()
def export(
    suite: SuiteName,
    budget: Budget = None,
    format: Annotated[Format, typer.Option(help="Parquet needs pyarrow")] = Format.csv,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """
    Write all finished runs as two tidy files: scores, a row a run, and curves, a row an iteration of a run.

    They are DIR/SUITE/export/scores.csv and curves.csv.
    """
    from benchmarks import export as room

    chosen = _load(suite, budget)
    store = Store(results)
    runs = [found.run for found in _survey(store, plan(chosen)) if found.record]
    if not runs:
        raise _nothing_finished(chosen, suite, budget, results)
    folder = results / chosen.identity / "export"
    files = [
        room.write(make((each, store.read(each)) for each in runs), folder / f"{name}.{format.value}")
        for name, make in (("scores", room.scores), ("curves", room.curves))
    ]
    _console().print("Written: " + ", ".join(str(path) for path in files))


@app.command()
def anchors(
    task: Annotated[list[str] | None, typer.Option(help="only this task  [default: those of the suites]")] = None,
    seeds: Annotated[str, typer.Option(metavar="A-B", help="seeds of the environment, each with 50 goals")] = "0-4",
    episodes: Annotated[int, typer.Option(min=1, help="episodes for each seed, task and policy")] = 10,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """
    Measure what a random policy and an expert return on each task: 0 and 1 of the absolute scores.

    Takes a few minutes, and writes DIR/anchors.json; what it holds of other tasks stays.
    """
    import json

    from benchmarks import anchors as room

    console = _console()
    tasks = task or sorted({name for suite in suite_names() for name in load_suite(suite).tasks})
    command = f"python -m benchmarks anchors --seeds {seeds} --episodes {episodes}"
    command += "".join(f" --task {name}" for name in task or ())
    numbers = _range("--seeds", seeds)
    assert numbers is not None
    path = results / "anchors.json"
    # Read first: that it is damaged is better known before the minutes that follow.
    known = room.read(path)
    measured = room.measure(tasks, numbers, episodes, command, console.print)
    replace_file(path, json.dumps({"tasks": known | measured}, indent=1) + "\n")
    console.print(f"Written: {path}")


@app.command()
def gridworld(
    size: Annotated[int, typer.Option(min=2, help="cells a side of the grid")] = 2,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """
    Compute bias and variance of every surrogate's policy gradient exactly, on a GridWorld that is enumerated.

    Takes less than a minute, and writes tables and figures to DIR/gridworld (DIR/gridworld-K of another size K).
    """
    from benchmarks import gridworld_report

    gridworld_report.study(results / ("gridworld" if size == 2 else f"gridworld-{size}"), size, _console())


@app.command()
def speed(
    repetitions: Annotated[int, typer.Option(min=1, help="turns that everything takes")] = 7,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """
    Time an iteration of GIPO and its parts, beside what the processor needs at least and beside SB3's PPO.

    Takes about 20 minutes of an otherwise quiet machine. Writes JSON, tables and a figure to DIR/speed, named after the kind
    of machine.
    """
    from benchmarks import speed, speed_report

    measured = speed.measure(repetitions=repetitions, progress=_console().print)
    command = "python -m benchmarks speed" + ("" if repetitions == 7 else f" --repetitions {repetitions}")
    _publish(speed_report, measured, command, results / "speed")


@app.command()
def async_scaling(
    seconds: Annotated[float, typer.Option(min=1, help="how long each number of actors is measured")] = 20,
    repetitions: Annotated[int, typer.Option(min=1, help="turns that everything takes")] = 3,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """
    Count transitions per second as asynchronous actors are added, on an environment that mostly waits.

    Takes about 7 minutes of an otherwise quiet machine, and needs Ray. Writes JSON and a table to DIR/async-scaling, named
    after the kind of machine.
    """
    try:
        from benchmarks import async_scaling as room
    except ModuleNotFoundError as error:
        raise _missing("async-scaling", error) from error

    measured = room.measure(seconds=seconds, repetitions=repetitions, progress=_console().print)
    command = f"python -m benchmarks async-scaling --seconds {seconds:g} --repetitions {repetitions}"
    _publish(room, measured, command, results / "async-scaling")


def _publish(room: Any, measured: dict[str, Any], command: str, folder: Path) -> None:
    """Show what was measured, and write it. ``room`` has its ``tables``, ``LEGEND`` and ``write``."""
    from benchmarks import provenance, report

    console = _console()
    for table in room.tables(measured):
        report.show(table, console)
    for line in room.LEGEND:
        console.print(line)
    console.print(_write(folder, room.write(measured, f"made by `{command}` at commit {provenance.commit()}")))


def _write(folder: Path, files: Mapping[str, str | bytes]) -> str:
    """Write files, by name. Returns a line that names them."""
    for name, content in files.items():
        replace_file(folder / name, content)
    return "Written: " + ", ".join(str(folder / name) for name in files)


def _missing(command: str, error: ModuleNotFoundError) -> BenchmarkError:
    return BenchmarkError(
        f"{command}: {error.name} is not installed; `pip install -c constraints.txt -e '.[ray]'` does that"
    )


def _crew(executor: Executor, workers: int | None, runs: int) -> Crew:
    if runs == 0:
        return Serial()
    if executor is Executor.ray:
        try:
            from benchmarks.ray_executor import RayCrew
        except ModuleNotFoundError as error:
            raise _missing("--executor ray", error) from error
        return RayCrew(workers)
    # One worker too is a process of its own: a simulator that crashes then costs its run a try, and not the driver.
    return Serial() if executor is Executor.serial else Processes(min(workers or os.cpu_count() or 1, runs))


def _load(name: str, budget: str | None) -> Suite:
    from benchmarks import envs

    suite = load_suite(name)
    if budget is not None:
        suite = load_suite(name, _steps(budget, suite))
    for task in suite.tasks:
        envs.check_task(task)
    return suite


def _steps(budget: str, suite: Suite) -> int:
    try:
        if budget.endswith("%"):
            whole = suite.budget * float(budget.removesuffix("%")) / 100
            steps = max(round(whole / suite.rollout), 1) * suite.rollout if whole > 0 else 0
        else:
            steps = int(budget)
    except (ValueError, OverflowError):
        steps = 0
    if steps <= 0:
        raise BenchmarkError(f"--budget {budget!r} is not a number of environment steps, or a share such as 10%")
    return steps


def _survey(store: Store, runs: list[Run]) -> Iterator[Found]:
    """Read the store, and say what in it is not counted."""
    for found in store.survey(runs):
        if found.problem:
            _warn(f"{found.problem}. It is not counted; `run` sets it aside and makes the run anew")
        elif found.failure:
            path = store.failure_path(found.run)
            _warn(f"{path}: the run failed and is not counted; `run --retry-failed` tries it again")
        yield found


def _nothing_finished(chosen: Suite, suite: str, budget: str | None, results: Path) -> BenchmarkError:
    command = _again("run", suite, budget, results)
    return BenchmarkError(f"no run of {chosen.identity} is finished yet: `{command}` makes them")


def _again(name: str, suite: str, budget: str | None, results: Path) -> str:
    """Another command on what this one was given."""
    words = ["python", "-m", "benchmarks", name, suite]
    words += ["--budget", budget] if budget else []
    words += ["--results", str(results)] if results != DEFAULT_RESULTS else []
    return shlex.join(words)


def _set_aside(store: Store, each: Run) -> None:
    # Whoever holds the lock has set the file aside, and is making the run.
    if lock := store.lock(each):
        for problem, place in store.set_aside(each):
            _warn(f"{problem}. It is now {place}")
        lock.release()


def _warn(line: str) -> None:
    _complain(f"warning: {line}", "yellow")


def _study(chosen: Suite, baseline: str | None, suite: str, budget: str | None, results: Path) -> "Study":
    from benchmarks import anchors, derived

    label = derived.baseline_of(chosen, baseline)
    study = derived.read(chosen, _survey(Store(results), plan(chosen)), anchors.load_anchors(results), label)
    if not study.spent.machines:
        raise _nothing_finished(chosen, suite, budget, results)
    return study


def _command(name: str, given: str, suite: Suite, budget: str | None, baseline: str | None) -> str:
    # The machine's folders are nobody's business: the command is written without them.
    words = ["python", "-m", "benchmarks", name, Path(given).name]
    words += ["--budget", str(suite.budget)] if budget else []
    words += ["--baseline", baseline] if baseline else []
    return shlex.join(words)


def _derive(kind: str, study: "Study", command: str, results: Path) -> str:
    """Write the files of a command. Returns a line that names them."""
    from benchmarks import derived, provenance

    files = derived.COMMANDS[kind](study, f"made by `{command}` at commit {provenance.commit()}")
    return _write(results / study.suite.identity, files)


def _range(option: str, text: str | None) -> range | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    try:
        numbers = range(int(first), int(last if dash else first) + 1)
    except ValueError:
        numbers = range(0)
    if not numbers:
        raise BenchmarkError(f"{option} {text!r} is not a range such as 0-4, or a number")
    return numbers


def _console() -> Console:
    # Where there is no terminal to ask (a log, a pipe), the tables still get the width they need. What suites and folders
    # are called is not markup.
    return Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False)


def _complain(line: str, style: str | None = None) -> None:
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(line, style=style)


def main() -> None:
    """Run the command line; a mistake in what was asked for is one line and exit code 2."""
    try:
        app()
    except BenchmarkError as error:
        _complain(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
