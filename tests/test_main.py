"""Through the command line, as a user does it."""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from suites import TINY, write_suite

from benchmarks.__main__ import main
from benchmarks.anchors import load_anchors
from benchmarks.executors import serial
from benchmarks.measurements import measure
from benchmarks.report import write
from benchmarks.scores import score
from benchmarks.spec import load_suite, plan
from benchmarks.store import Store

ROOT = Path(__file__).resolve().parents[1]


def start(*arguments, cwd):
    """The command line in a process group of its own, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def run_cli(monkeypatch, capsys, cwd, *arguments, code=0):
    """The same in this process, which saves importing torch and the simulators each time."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    output = captured.out + captured.err
    assert (end.value.code or 0) == code, output
    return output


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    return partial(run_cli, monkeypatch, capsys, tmp_path)


def records(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("repeat*.json"))}


def ranking(folder):
    with open(folder / "tiny" / "ranking.csv") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_plan_tells_the_cost_before_and_while_it_is_paid(cli, tmp_path):
    suite = write_suite(tmp_path)
    before = cli("plan", suite)
    assert "--seeds 0 --repeats 0" in before and "3,072" in before and "?" in before
    cli("run", suite, "--workers", "1", "--regime", "fresh", "--seeds", "0")
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:-1] for line in cli("plan", suite).splitlines() if "│" in line
    }
    assert [cell.strip() for cell in rows["fresh"][:3]] == ["8", "4", "768"]
    assert [cell.strip() for cell in rows["all"][:3]] == ["16", "4", "2,304"]
    assert float(rows["all"][3]) == pytest.approx(float(rows["fresh"][3]) + float(rows["stale"][3]), abs=0.11)


def test_a_budget_may_be_a_share_of_the_suites_own(cli, tmp_path):
    suite = write_suite(tmp_path)
    assert "tiny@64" in cli("plan", suite, "--budget", "10%"), "at least one whole rollout"
    assert "tiny@128" in cli("plan", suite, "--budget", "60%")
    assert "tiny:" in cli("plan", suite, "--budget", "100%")
    assert "--budget 'half' is not a number of environment steps" in cli("plan", suite, "--budget", "half", code=2)


def test_run_status_table(cli, tmp_path):
    suite = write_suite(tmp_path)
    output = cli("run", suite, "--workers", "1", "--seeds", "0")
    assert "0 of 8 runs finished, 8 to do" in output and "[8/8]" in output
    assert "8 of 16 runs" in cli("status", suite)
    incomplete = cli("table", suite)
    assert "Runs are missing: the ranking is not final." in incomplete
    assert "4/4" not in incomplete and "2/4" in incomplete
    output = cli("run", suite, "--workers", "1")
    assert "8 of 16 runs finished, 8 to do" in output
    output = cli("table", suite)
    assert "4/4" in output and "Runs are missing" not in output
    assert "aggregates, absolute" in output, "CartPole has anchors"
    folder = tmp_path / "results" / "tiny"
    assert (folder / "iqm.png").read_bytes().startswith(b"\x89PNG") and str(Path("results/tiny/iqm.png")) in output
    markdown = (folder / "table.md").read_text()
    assert "python -m benchmarks table tiny.toml" in markdown and str(tmp_path) not in markdown
    rows = ranking(tmp_path / "results")
    assert [row["rank"] for row in rows] == ["1", "2", "1", "2"]
    assert {row["finished"] for row in rows} == {"4"}
    assert "16 of 16 runs finished, 0 to do" in cli("run", suite)


def test_plot_report_check(cli, tmp_path):
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    assert "error: no run of tiny is finished yet" in cli("plot", suite, code=2)
    cli("run", suite, "--workers", "1")
    folder = tmp_path / "results" / "tiny"
    assert "efficiency.svg" in cli("plot", suite)
    for path in folder.glob("*.*g"):
        path.unlink()
    cli("table", suite)
    assert "All derived files in results/tiny are what the records say." in cli("check", suite)
    (folder / "iqm.svg").write_text((folder / "iqm.svg").read_text().replace("fresh", "new"))
    assert "not what the records say: results/tiny/iqm.svg" in cli("check", suite, code=1)
    assert "report.html" in cli("report", suite, "--baseline", "gipo(1.0,0.5)")
    page = (folder / "report.html").read_text()
    assert "tiny.toml --baseline &#39;gipo(1.0,0.5)&#39;`" in page and str(tmp_path) not in page
    assert "did you mean 'ppo'?" in cli("table", suite, "--baseline", "pppo", code=2)


def test_a_budget_of_ones_own_has_a_folder_of_its_own(cli, tmp_path):
    suite = write_suite(tmp_path)
    one_run = ("--seeds", "0", "--repeats", "0", "--regime", "stale", "--algorithm", "ppo")
    cli("run", suite, "--budget", "128", "--workers", "1", *one_run)
    assert list(records(tmp_path / "results")) == ["tiny@128/stale/ppo/CartPole-v1/seed0/repeat0.json"]
    assert "error: no run of tiny is finished yet" in cli("table", suite, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dema"], "error: unknown suite 'dema': did you mean 'demo'?"),
        (["run", "demo", "--algorithm", "pppo"], "error: unknown algorithm 'pppo': did you mean 'ppo'?"),
        (["run", "demo", "--task", "drawer-clos-v3"], "did you mean 'drawer-close-v3'?"),
        (["run", "demo", "--regime", "stael"], "error: unknown regime 'stael': did you mean 'stale'?"),
        (["run", "demo", "--seeds", "a"], "error: --seeds 'a' is not a range such as 0-4"),
        (["run", "demo", "--seeds", "0-9"], "error: seed 2 is not in the suite"),
        (["run", "demo", "--budget", "777"], "budget 777 is not a multiple of 500"),
    ],
)
def test_mistakes_are_one_line(cli, tmp_path, arguments, message):
    output = cli(*arguments, code=2)
    assert message in output and "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_a_damaged_record_stops_run_and_table_and_is_kept(cli, tmp_path):
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    cli("run", suite, "--workers", "1")
    victim = next(iter(records(tmp_path / "results").values()))
    victim.write_bytes(victim.read_bytes()[:100])
    for command in ("run", "table", "status"):
        output = cli(command, suite, code=2)
        assert str(victim.relative_to(tmp_path)) in output and "damaged" in output
    assert victim.stat().st_size == 100


def test_a_run_that_fails_is_named_and_the_others_go_on(cli, tmp_path):
    # An episode of Pendulum lasts longer than this budget.
    text = TINY.replace('["CartPole-v1"]', '["Pendulum-v1", "CartPole-v1"]')
    suite = write_suite(tmp_path, text, seeds=1, repeats=1)
    output = cli("run", suite, "--workers", "2", code=1)
    assert "FAILED tiny/fresh/ppo/Pendulum-v1/seed0/repeat0" in output and "no episode ended" in output
    assert "4 runs failed; the same command tries them again" in output
    assert len(records(tmp_path / "results")) == 4


def await_records(folder, count, process):
    while len(records(folder)) < count:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The ranking that the suite ends in when nothing is killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    suite = load_suite(write_suite(folder))
    serial(plan(suite), folder / "results", lambda event: None)
    store = Store(folder / "results")
    done = [measure(run, store.read(run)) for run in plan(suite)]
    (folder / "results" / "tiny" / "ranking.csv").write_bytes(
        write(suite, score(suite, done, load_anchors(folder), "ppo"), "")["ranking.csv"]
    )
    return ranking(folder / "results")


@pytest.mark.parametrize("victims", ["everything", "driver", "worker"])
def test_killed_in_flight(cli, tmp_path, undisturbed, victims):
    suite = write_suite(tmp_path)
    results = tmp_path / "results"
    process = start("run", suite, "--workers", "2", cwd=tmp_path)
    await_records(results, 3, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    if victims == "worker":
        max(workers, key=lambda worker: worker.memory_info().rss).kill()
    elif victims == "driver":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(workers, timeout=30)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)

    finished = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in records(results).items()}
    assert len(finished) >= 3
    output = cli("run", suite, "--workers", "2")
    assert f"{len(finished)} of 16 runs finished" in output
    for name, (content, modified) in finished.items():
        assert (results / name).read_bytes() == content and (results / name).stat().st_mtime_ns == modified
    assert len(records(results)) == 16
    assert not list(results.rglob(".*.tmp"))
    cli("table", suite)
    assert ranking(results) == undisturbed


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    suite = write_suite(tmp_path)
    process = start("run", suite, "--workers", "2", cwd=tmp_path)
    await_records(tmp_path / "results", 2, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "finished runs are kept. The same command goes on from here." in output and "Traceback" not in output
    assert len(records(tmp_path / "results")) >= 2


def test_help_teaches(cli, tmp_path):
    output = cli("--help")
    assert "python -m benchmarks run demo" in output and "what is finished is kept" in " ".join(output.split())
