from pathlib import Path

import pytest
from suites import write_suite
from test_store import failure_of, record_of

from benchmarks.spec import BenchmarkError, load_suite, plan
from benchmarks.store import Store
from benchmarks.verify import verify


@pytest.fixture
def runs(tmp_path):
    return plan(load_suite(write_suite(tmp_path)))


@pytest.fixture
def store(tmp_path, runs):
    """Three good records, a failure, one record that was set aside, and files that are none."""
    store = Store(tmp_path / "results")
    for run in runs[:3]:
        store.write(run, record_of(run))
    store.write_failure(runs[3], failure_of(runs[3]))
    store.write(runs[4], record_of(runs[4])).write_text("{")
    store.set_aside(runs[4])
    store.write_checkpoint(runs[5], b"half a run")
    (store.root / "anchors.json").write_text("{}")
    (store.root / "gridworld").mkdir()
    (store.root / "gridworld/other.json").write_text("no JSON")
    return store


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_good_store_is_good_and_left_alone(store):
    before = snapshot(store.root)
    verdict = verify(store.root)
    assert (verdict.records, verdict.failures, verdict.set_aside, verdict.wrong) == (3, 1, 1, [])
    assert snapshot(store.root) == before


def rewritten(store, run, /, **fields):
    """As whoever knows how checksums are made might forge it."""
    store.path(run).unlink()
    store.write(run, record_of(run, **fields))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda store, run: store.path(run).write_text("{"), "is damaged"),
        (lambda store, run: store.path(run).write_text("[]"), "is not a record of a run"),
        (
            lambda store, run: store.path(run).write_text(store.path(run).read_text().replace("1.5", "2.5")),
            "does not agree with its checksum",
        ),
        (lambda store, run: rewritten(store, run, digest="0" * 64), "a digest that is not its configuration's"),
        (lambda store, run: rewritten(store, run, run="tiny/elsewhere"), "is the record of tiny/elsewhere"),
        (
            lambda store, run: rewritten(store, run, curve={"steps": [1, 2], "ess": [0.5]}),
            "differ in length, {'steps': 2, 'ess': 1}",
        ),
        (lambda store, run: rewritten(store, run, curve={"steps": 1}), "must be lists by name"),
        (lambda store, run: store.path(run).with_name("repeat0 (copy).json").write_text("{}"), "(copy).json is not a"),
    ],
)
def test_what_is_wrong_is_named_once(store, runs, spoil, problem):
    spoil(store, runs[1])
    (line,) = verify(store.root).wrong
    assert problem in line and str(store.path(runs[1]).parent) in line


def test_a_damaged_failure_is_wrong_too(store, runs):
    path = store.failure_path(runs[3])
    path.write_text(path.read_text().replace("it broke", "it went well"))
    assert verify(store.root).wrong == [f"{path} has been damaged or edited: it does not agree with its checksum"]


def test_only_the_suites_asked_for(store, runs, tmp_path):
    (other,) = plan(
        load_suite(write_suite(tmp_path), 128), seeds=[0], repeats=[0], regimes=["stale"], algorithms=["ppo"]
    )
    store.write(other, record_of(other))
    assert other.id.startswith("tiny@128/")
    assert verify(store.root, ["tiny"]).records == verify(store.root, [write_suite(tmp_path)]).records == 4
    assert verify(store.root, ["demo"]).records == 0
    with pytest.raises(BenchmarkError, match="unknown suite 'tin': did you mean 'tiny'"):
        verify(store.root, ["tin"])


def test_there_may_be_nothing(tmp_path):
    assert verify(tmp_path).records == 0
    with pytest.raises(BenchmarkError, match=r"there is no folder .*nowhere"):
        verify(tmp_path / "nowhere")


def test_a_record_of_another_configuration_is_told_where_the_suite_is_known(tmp_path, store, runs):
    """As table and status see it, which read the suite."""
    own = Path(write_suite(tmp_path))
    assert verify(store.root, [str(own)]).wrong == []
    text = own.read_text()
    own.write_text(text.replace("n_epochs = 2", "n_epochs = 3"))
    problems = verify(store.root, [str(own)]).wrong
    assert len(problems) == 4 and all(
        "another configuration (learner.n_epochs 2 instead of 3)" in each for each in problems
    )
    # Without its file nothing is known of the suite.
    assert verify(store.root).wrong == []
    own.write_text(text.replace("CartPole-v1", "Acrobot-v1"))
    assert any("is not of a run of its suite" in each for each in verify(store.root, [str(own)]).wrong)
