"""Through the command line, as a user does it."""

import csv
import json
import os
import re
import resource
import signal
import sys
import time
from functools import partial

import pytest
from suites import TINY, start, write_suite

from benchmarks.__main__ import Executor, _crew, main
from benchmarks.anchors import load_anchors
from benchmarks.executors import carry_out
from benchmarks.measurements import measure
from benchmarks.report import write
from benchmarks.scores import score
from benchmarks.spec import load_suite, plan
from benchmarks.store import Store
from benchmarks.workers import Processes, Serial


def run_cli(monkeypatch, capsys, cwd, *arguments, code=0):
    """The command line in this process, which saves importing torch and the simulators each time."""
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
    """What is in the places of records; set-aside files have a number in their names, failures a word."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("repeat[0-9].json"))}


def timeless(record):
    return {name: value for name, value in record.items() if not name.endswith("_seconds") and name != "checksum"}


def ranking(folder):
    with open(folder / "tiny" / "ranking.csv") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_plan_tells_the_cost_before_and_while_it_is_paid(cli, tmp_path):
    suite = write_suite(tmp_path)
    before = cli("plan", suite)
    assert "--seeds 0 --repeats 0" in before and "3,072" in before and "?" in before
    cli("run", suite, "--executor", "serial", "--regime", "fresh", "--seeds", "0")
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
    for bad in ("half", "inf%", "nan%", "0%", "-10%", "0", "-64"):
        told = cli("plan", suite, f"--budget={bad}", code=2)
        assert f"--budget '{bad}' is not a number of environment steps" in told and "Traceback" not in told


def test_ranges_are_within_the_suite(cli, tmp_path):
    suite = write_suite(tmp_path)
    for bad in ("3-1", "0-", "-1", "a", "1-b"):
        assert f"--seeds '{bad}' is not a range such as 0-4" in cli("run", suite, f"--seeds={bad}", code=2)
    assert "seed 2 is not in the suite" in cli("run", suite, "--seeds", "0-99999999999", code=2)


def test_what_a_user_writes_is_not_markup(cli, tmp_path):
    text = 'note = "[beta] first [/b]"\ndescription = "[x] [/stale]"\n' + TINY
    suite = write_suite(tmp_path, text, seeds=1, repeats=1)
    cli("run", suite, "--executor", "serial", "--results", "[b]")
    assert "[x] [/stale]" in cli("status", suite, "--results", "[b]")
    assert "[beta] first [/b]" in cli("table", suite, "--results", "[b]")
    assert "[b]: 4 records" in cli("verify", "--results", "[b]")


def test_hints_can_be_followed(cli, tmp_path):
    suite = write_suite(tmp_path)
    for command in ("table", "export", "plan"):
        told = cli(command, suite, "--budget", "128", "--results", "there", code=0 if command == "plan" else 2)
        assert f"python -m benchmarks run {suite} --budget 128 --results there" in told.replace("\n", "")
    assert "there is no folder there/tiny" in cli("check", suite, "--results", "there", code=2)
    assert "there is no folder there" in cli("verify", "--results", "there", code=2)


def test_anchors_of_other_tasks_stay(cli, tmp_path):
    measure = ("anchors", "--seeds", "0", "--episodes", "1", "--task")
    cli(*measure, "CartPole-v1")
    path = tmp_path / "results" / "anchors.json"
    first = json.loads(path.read_text())["tasks"]
    cli(*measure, "Pendulum-v1")
    both = json.loads(path.read_text())["tasks"]
    assert list(both) == ["CartPole-v1", "Pendulum-v1"] and both["CartPole-v1"] == first["CartPole-v1"]
    assert both["Pendulum-v1"]["made"]["command"].endswith("--task Pendulum-v1")


def test_one_worker_is_a_process_of_its_own():
    """A simulator that crashes costs its run a try, and not the driver."""
    crew = _crew(Executor.processes, 1, 1)
    assert isinstance(crew, Processes) and isinstance(_crew(Executor.serial, 4, 4), Serial)


def test_run_status_table(cli, tmp_path):
    suite = write_suite(tmp_path)
    output = cli("run", suite, "--executor", "serial", "--seeds", "0")
    assert "0 of 8 runs finished, 8 to do" in output and "[8/8]" in output
    assert "8 of 16 runs" in cli("status", suite)
    incomplete = cli("table", suite)
    assert "Runs are missing: the ranking is not final." in incomplete
    assert "4/4" not in incomplete and "2/4" in incomplete
    output = cli("run", suite, "--executor", "serial")
    assert "8 of 16 runs finished, 8 to do" in output
    output = cli("table", suite)
    assert "4/4" in output and "Runs are missing" not in output
    assert "aggregates, absolute" in output, "CartPole has anchors"
    folder = tmp_path / "results" / "tiny"
    assert (folder / "iqm.png").read_bytes().startswith(b"\x89PNG") and "results/tiny/iqm.png" in output
    markdown = (folder / "table.md").read_text()
    assert "python -m benchmarks table tiny.toml" in markdown and str(tmp_path) not in markdown
    rows = ranking(tmp_path / "results")
    assert [row["rank"] for row in rows] == ["1", "2", "1", "2"]
    assert {row["finished"] for row in rows} == {"4"}
    assert "16 of 16 runs finished, 0 to do" in cli("run", suite)


def test_plot_report_check(cli, tmp_path):
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    assert "error: no run of tiny is finished yet" in cli("plot", suite, code=2)
    cli("run", suite, "--executor", "serial")
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
    cli("run", suite, "--budget", "128", "--executor", "serial", *one_run)
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


def test_a_damaged_record_is_named_not_counted_and_made_anew(cli, tmp_path):
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    cli("run", suite, "--executor", "serial")
    victim, *_ = records(tmp_path / "results").values()
    good = victim.read_bytes()
    victim.write_bytes(good[:100])
    for command, told in (("status", "3 of 4 runs"), ("table", "0/1"), ("plan", "3")):
        output = cli(command, suite)
        assert f"warning: {victim.relative_to(tmp_path)} is damaged" in output and "not counted" in output
        assert told in output
    assert victim.stat().st_size == 100

    output = cli("run", suite, "--executor", "serial")
    aside = tmp_path / "results/tiny/set-aside" / victim.relative_to(tmp_path / "results/tiny").with_suffix(".1.json")
    assert "3 of 4 runs finished, 1 to do" in output and f"It is now {aside.relative_to(tmp_path)}" in output
    assert aside.read_bytes() == good[:100]
    assert timeless(json.loads(victim.read_text())) == timeless(json.loads(good))
    assert "warning" not in cli("status", suite)


def test_records_of_an_edited_suite_are_made_anew(cli, tmp_path):
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    cli("run", suite, "--executor", "serial")
    write_suite(tmp_path, seeds=1, repeats=1, n_epochs=1)
    output = cli("status", suite)
    assert output.count("made by another configuration (learner.n_epochs 2 instead of 1)") == 4
    assert "0 of 4 runs" in output
    assert "0 of 4 runs finished, 4 to do" in cli("run", suite, "--executor", "serial")
    assert "4 of 4 runs" in cli("status", suite)
    assert len(list((tmp_path / "results/tiny/set-aside").rglob("repeat0.1.json"))) == 4


def test_a_run_that_fails_is_recorded_and_the_others_go_on(cli, tmp_path):
    # An episode of Acrobot lasts more than twice as long as this budget.
    text = TINY.replace('["CartPole-v1"]', '["Acrobot-v1", "CartPole-v1"]')
    suite = write_suite(tmp_path, text, seeds=1, repeats=1)
    output = cli("run", suite, "--workers", "2", code=1)
    name = "tiny/fresh/ppo/Acrobot-v1/seed0/repeat0"
    assert (
        f"{name}: failed: benchmarks.spec.BenchmarkError" in output
        and "Traceback" in output
        and "no episode ended" in output
    )
    assert "4 runs have failed; --retry-failed tries them again:" in output
    assert f"\n  {name}: results/{name}.failed.json" in output
    assert len(records(tmp_path / "results")) == 4

    output = cli("status", suite)
    assert output.count("1/2, 1 failed") == 4 and "4 of 8 runs" in output
    assert f"warning: results/{name}.failed.json: the run failed and is not counted" in output
    assert "the run failed and is not counted" in cli("table", suite)

    output = cli("run", suite, code=1)
    assert "4 of 8 runs finished, 4 failed, 0 to do" in output and "4 runs have failed" in output
    output = cli("run", suite, "--retry-failed", "--executor", "serial", code=1)
    assert "4 of 8 runs finished, 4 to do" in output and output.count("failed: benchmarks.spec.BenchmarkError") == 4


def test_a_full_disk_is_told_and_what_is_missing_is_made_later(cli, tmp_path):
    """No file may grow beyond 2 kB, which is what a full disk looks like to a writer in the middle of a record."""
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2000, 2000))
    process = start("run", suite, "--workers", "1", cwd=tmp_path, limit=limit)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert output.count("cannot write results/tiny/fresh/ppo/CartPole-v1/seed0/repeat0.json: File too large") == 1
    assert "Not all records could be written. The same command goes on from here." in output
    assert "Traceback" not in output
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert "0 of 4 runs finished, 4 to do" in cli("run", suite, "--executor", "serial")
    assert "4 of 4 runs" in cli("status", suite)


def test_two_commands_on_one_store_make_each_run_once(tmp_path, undisturbed, cli):
    suite = write_suite(tmp_path)
    both = [start("run", suite, "--workers", "1", cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    made = [re.findall(r"\] (tiny/\S+): return", output) for output in outputs]
    assert sorted(made[0] + made[1]) == sorted(run.id for run in plan(load_suite(suite))), "each is made once"
    assert made[0] and made[1], "both have made some"
    cli("table", suite)
    assert ranking(tmp_path / "results") == undisturbed
    assert not [path for path in (tmp_path / "results").rglob(".*")]


def await_records(folder, count, process):
    while len(records(folder)) < count:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The ranking that the suite ends in when nothing is killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    suite = load_suite(write_suite(folder))
    carry_out(plan(suite), folder / "results", lambda event: None, Serial())
    store = Store(folder / "results")
    done = [measure(run, store.read(run)) for run in plan(suite)]
    (folder / "results" / "tiny" / "ranking.csv").write_bytes(
        write(suite, score(suite, done, load_anchors(folder), "ppo"), "")["ranking.csv"]
    )
    return ranking(folder / "results")


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    # Long enough that the signal arrives before the end, however late it is delivered.
    suite = write_suite(tmp_path, budget=6400)
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


def test_verify_tells_what_is_wrong_by_its_exit_code(cli, tmp_path):
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    assert "there is no folder results" in cli("verify", code=2)
    cli("run", suite, "--executor", "serial")
    assert "results: 4 records, 0 failed runs, 0 files set aside; nothing wrong" in cli("verify", "tiny")
    victim, *_ = records(tmp_path / "results").values()
    victim.write_text(victim.read_text().replace('"score": ', '"scare": '))
    output = cli("verify", code=1)
    assert f"WRONG {victim.relative_to(tmp_path)} is not a record of a run" in output and "; 1 wrong" in output
    cli("run", suite, "--executor", "serial")
    assert "4 records, 0 failed runs, 1 files set aside; nothing wrong" in cli("verify")


def test_export_writes_two_tidy_files(cli, tmp_path):
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    assert "error: no run of tiny is finished yet" in cli("export", suite, code=2)
    cli("run", suite, "--executor", "serial")
    assert "Written: results/tiny/export/scores.csv, results/tiny/export/curves.csv" in cli("export", suite)
    for name, rows in (("scores", 4), ("curves", 12)):
        with open(tmp_path / f"results/tiny/export/{name}.csv") as file:
            assert len(list(csv.DictReader(file))) == rows


def test_without_ray_it_says_what_to_install(cli, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "benchmarks.ray_executor", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    output = cli("run", write_suite(tmp_path), "--executor", "ray", code=2)
    assert "error: --executor ray: ray is not installed; `pip install -c constraints.txt -e '.[ray]'`" in output
