import json

import pytest
from suites import TINY, write_suite

from benchmarks.spec import BenchmarkError, load_suite, plan
from benchmarks.store import RecordExistsError, Store


@pytest.fixture
def run(tmp_path):
    return plan(load_suite(write_suite(tmp_path)))[0]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def record_of(run):
    return {
        "run": run.id,
        "digest": run.digest,
        "configuration": run.configuration,
        "score": 1.5,
        "curve": {"steps": [1]},
    }


def test_a_record_is_read_back_from_its_readable_place(run, store):
    assert not store.finished(run)
    path = store.write(run, record_of(run))
    assert path == store.root / "tiny/fresh/ppo/CartPole-v1/seed0/repeat0.json"
    assert store.finished(run) and store.read(run) == record_of(run)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_records_are_never_overwritten(run, store):
    path = store.write(run, record_of(run))
    before = path.read_bytes()
    with pytest.raises(RecordExistsError, match="exists already"):
        store.write(run, {**record_of(run), "score": 99.0})
    assert path.read_bytes() == before


def test_what_a_killed_writer_left_is_not_a_record(run, store):
    path = store.path(run)
    path.parent.mkdir(parents=True)
    leftover = path.parent / f".{path.name}.0123.tmp"
    leftover.write_text('{"run": "half')
    assert not store.finished(run)
    store.write(run, record_of(run))
    assert store.read(run) == record_of(run) and not leftover.exists()


@pytest.mark.parametrize("size", [0, 1, 40, -3])
def test_a_truncated_record_is_named_and_kept(run, store, size):
    path = store.write(run, record_of(run))
    path.write_text(path.read_text()[:size])
    kept = path.read_bytes()
    with pytest.raises(BenchmarkError, match=r"repeat0.json is damaged .*delete it, and run the suite again"):
        store.read(run)
    assert path.read_bytes() == kept


def test_a_record_of_another_configuration_is_named(tmp_path, run, store):
    store.write(run, record_of(run))
    changed = plan(load_suite(write_suite(tmp_path, TINY.replace("n_epochs = 2", "n_epochs = 7"))))[0]
    with pytest.raises(
        BenchmarkError, match=r"repeat0.json was made by another configuration \(learner.n_epochs 2 instead"
    ):
        store.read(changed)


@pytest.mark.parametrize("edit", [{"run": "tiny/elsewhere"}, {"configuration": {}}])
def test_a_moved_or_edited_record_is_named(run, store, edit):
    path = store.write(run, record_of(run))
    path.write_text(json.dumps({**record_of(run), **edit}))
    with pytest.raises(BenchmarkError, match=r"repeat0.json has been moved or edited"):
        store.read(run)


def test_other_json_is_no_record(run, store):
    path = store.write(run, record_of(run))
    path.write_text("[1, 2]")
    with pytest.raises(BenchmarkError, match=r"repeat0.json is not a record of a run"):
        store.read(run)


def test_numbers_that_json_lacks_are_refused(run, store):
    with pytest.raises(ValueError, match="Out of range float"):
        store.write(run, {**record_of(run), "score": float("nan")})
    assert not store.finished(run)
