import errno
import hashlib
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
from suites import TINY, write_suite

from benchmarks.spec import load_suite, plan
from benchmarks.store import BadRecordError, RecordExistsError, Store, UnwritableError, read_record


@pytest.fixture
def run(tmp_path):
    return plan(load_suite(write_suite(tmp_path)))[0]


@pytest.fixture
def changed(tmp_path, run):
    """The same run after its suite has been edited."""
    return plan(load_suite(write_suite(tmp_path, TINY.replace("n_epochs = 2", "n_epochs = 7"))))[0]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def record_of(run, /, **fields):
    common = {"run": run.id, "digest": run.digest, "configuration": run.configuration}
    return common | {"score": 1.5, "curve": {"steps": [1]}} | fields


def failure_of(run):
    common = {"run": run.id, "digest": run.digest, "configuration": run.configuration}
    return common | {"tracebacks": ["Traceback: it broke"]}


def files(store):
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_a_record_is_read_back_from_its_readable_place(run, store):
    assert not store.finished(run)
    path = store.write(run, record_of(run))
    assert path == store.root / "tiny/fresh/ppo/CartPole-v1/seed0/repeat0.json"
    record = store.read(run)
    assert store.finished(run) and {**record_of(run), "checksum": record["checksum"]} == record
    assert files(store) == ["tiny/fresh/ppo/CartPole-v1/seed0/repeat0.json"]


def test_the_checksum_is_that_of_the_canonical_json_of_all_other_fields(run, store):
    record = json.loads(store.write(run, record_of(run)).read_text())
    claimed = record.pop("checksum")
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    assert claimed == hashlib.sha256(text.encode()).hexdigest()


def test_records_are_never_overwritten(run, store):
    path = store.write(run, record_of(run))
    before = path.read_bytes()
    with pytest.raises(RecordExistsError, match="exists already"):
        store.write(run, record_of(run, score=99.0))
    assert path.read_bytes() == before


def test_of_many_writers_at_once_one_wins(run, store):
    def write(score):
        try:
            store.write(run, record_of(run, score=score))
        except RecordExistsError:
            return None
        return score

    with ThreadPoolExecutor(8) as pool:
        winners = [score for score in pool.map(write, range(40)) if score is not None]
    assert winners == [store.read(run)["score"]]
    assert files(store) == ["tiny/fresh/ppo/CartPole-v1/seed0/repeat0.json"]


def test_what_a_killed_writer_left_is_not_a_record(run, store):
    path = store.path(run)
    path.parent.mkdir(parents=True)
    leftover = path.parent / f".{path.name}.0123.tmp"
    leftover.write_text('{"run": "half')
    assert not store.finished(run)
    store.write(run, record_of(run))
    assert store.read(run)["score"] == 1.5 and not leftover.exists()


@pytest.mark.parametrize("size", [0, 1, 40, -3])
def test_a_truncated_record_is_named_and_kept(run, store, size):
    path = store.write(run, record_of(run))
    path.write_text(path.read_text()[:size])
    kept = path.read_bytes()
    with pytest.raises(BadRecordError, match=r"repeat0.json is damaged"):
        store.read(run)
    assert path.read_bytes() == kept


def test_every_single_changed_digit_is_noticed(run, store):
    path = store.write(run, record_of(run))
    text = path.read_text()
    places = [place for place, character in enumerate(text) if character.isdigit()]
    for place in places:
        path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
        with pytest.raises(BadRecordError):
            store.read(run)
    path.write_text(text)
    assert store.read(run)


def test_a_record_of_another_configuration_is_named(run, changed, store):
    store.write(run, record_of(run))
    with pytest.raises(
        BadRecordError, match=r"repeat0.json was made by another configuration \(learner.n_epochs 2 instead"
    ):
        store.read(changed)


def test_a_moved_record_is_named(tmp_path, run, store):
    other = plan(load_suite(write_suite(tmp_path)))[1]
    store.path(other).parent.mkdir(parents=True)
    store.write(run, record_of(run)).rename(store.path(other))
    with pytest.raises(BadRecordError, match=f"repeat0.json has been moved: it is the record of {run.id}"):
        store.read(other)


def test_a_configuration_that_is_not_the_digests_is_named(run, store):
    forged = record_of(run, configuration={"task": "another"})
    path = store.write(run, forged)
    with pytest.raises(BadRecordError, match="a digest that is not its configuration's"):
        read_record(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1, 2]", "not a record of a run"),
        ('{"run": "tiny", "score": 1}', "not a record of a run"),
        ('{"run": 1, "digest": 2, "configuration": 3, "score": 4, "curve": 5}', "has no checksum"),
        (
            '{"run": 1, "digest": 2, "configuration": 3, "score": NaN, "curve": 5, "checksum": null}',
            "damaged or edited",
        ),
        ('{"run": 1, "digest": 2, "configuration": 3, "score": 1e999, "curve": 5, "checksum": 6}', "damaged or edited"),
    ],
)
def test_other_json_is_no_record(run, store, content, problem):
    path = store.write(run, record_of(run))
    path.write_text(content)
    with pytest.raises(BadRecordError, match=rf"repeat0.json .*{problem}"):
        store.read(run)


def test_numbers_that_json_lacks_are_refused(run, store):
    with pytest.raises(ValueError, match="Out of range float"):
        store.write(run, record_of(run, score=float("nan")))
    assert not store.finished(run)


def test_a_survey_goes_on_without_what_is_bad(tmp_path, store):
    finished, failed, damaged, missing = plan(load_suite(write_suite(tmp_path)))[:4]
    store.write(finished, record_of(finished))
    store.write_failure(failed, failure_of(failed))
    store.write(damaged, record_of(damaged)).write_text("{")
    before = files(store)
    found = list(store.survey([finished, failed, damaged, missing]))
    assert [each.run for each in found] == [finished, failed, damaged, missing]
    assert [each.record and each.record["score"] for each in found] == [1.5, None, None, None]
    assert [each.failure and each.failure["tracebacks"] for each in found] == [
        None,
        ["Traceback: it broke"],
        None,
        None,
    ]
    assert [each.problem is not None for each in found] == [False, False, True, False]
    assert str(store.path(damaged)) in found[2].problem
    assert files(store) == before


def test_what_is_bad_is_set_aside_under_numbers_that_never_collide(run, changed, store):
    for nth in range(3):
        store.write(run, record_of(run, score=float(nth)))
        # Of good files nothing is moved.
        assert store.set_aside(run) == []
        ((problem, place),) = store.set_aside(changed)
        assert "another configuration" in problem
        assert place == store.root / f"tiny/set-aside/fresh/ppo/CartPole-v1/seed0/repeat0.{nth + 1}.json"
    folder = store.root / "tiny/set-aside/fresh/ppo/CartPole-v1/seed0"
    assert [read_record(folder / f"repeat0.{nth}.json")["score"] for nth in (1, 2, 3)] == [0.0, 1.0, 2.0]
    assert not store.finished(run)


def test_a_failure_is_set_aside_and_replaced_like_a_record(run, changed, store):
    path = store.write_failure(run, failure_of(run))
    # The first is kept, as a record would be.
    assert store.write_failure(run, failure_of(run) | {"tracebacks": ["another"]}) == path
    assert store.read_failure(run)["tracebacks"] == ["Traceback: it broke"]
    assert path.name == "repeat0.failed.json"
    ((_, place),) = store.set_aside(changed)
    assert place.name == "repeat0.failed.1.json" and store.read_failure(run) is None
    store.write_failure(run, failure_of(run))
    store.write(run, record_of(run))
    assert not path.exists() and store.read_failure(run) is None


def test_what_a_killed_writer_left_of_a_failure_does_not_outlive_the_record(run, store):
    store.write(run, record_of(run))
    store.write_failure(run, failure_of(run))
    (found,) = store.survey([run])
    assert found.record is not None and found.failure is None
    store.sweep(run)
    assert files(store) == [f"{run.id}.json"]


def test_writing_a_record_removes_the_checkpoint_and_nothing_else(run, store):
    lock = store.lock(run)
    checkpoint = store._checkpoint_path(run)
    checkpoint.write_bytes(b"")
    kept = checkpoint.with_name("kept")
    kept.touch()
    store.write(run, record_of(run))
    assert not checkpoint.exists() and kept.exists() and store.lock(run) is None
    lock.release()
    kept.unlink()
    kept.parent.rmdir()


def test_what_was_left_by_somebody_killed_after_writing_is_swept(run, store):
    path = store.write(run, record_of(run))
    store.write_checkpoint(run, b"")
    folder = path.with_name(".repeat0")
    leftovers = [folder / "lock", folder / ".checkpoint.01.tmp", path.with_name(".repeat0.json.01.tmp")]
    for leftover in leftovers:
        leftover.touch()
    another = path.with_name(".repeat01.json.01.tmp")
    another.touch()
    lock = store.lock(run)
    store.sweep(run)
    assert all(leftover.exists() for leftover in leftovers), "somebody is at it"
    lock.release()
    store.sweep(run)
    assert files(store) == [str(another.relative_to(store.root)), f"{run.id}.json"] and not folder.exists()
    before = path.parent.stat().st_mtime_ns
    store.sweep(run)
    assert path.parent.stat().st_mtime_ns == before, "there is nothing to do"


def test_a_disk_that_fills_up_in_the_middle_leaves_no_half_record(run, store):
    record = record_of(run, curve={"steps": list(range(100_000))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UnwritableError, match=r"cannot write .*repeat0.json: File too large"):
            store.write(run, record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store) == []
    assert store.write(run, record).exists()


@pytest.mark.parametrize("call", ["fsync", "link", "open"])
def test_a_full_disk_is_one_line_wherever_it_shows(run, store, monkeypatch, call):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open" if call == "open" else f"os.{call}", full)
    with pytest.raises(UnwritableError, match=r"^cannot write .*repeat0.json: No space left on device$"):
        store.write(run, record_of(run))
    monkeypatch.undo()
    assert files(store) == []


@pytest.mark.parametrize(("make", "why"), [("mkdir", "Is a directory"), ("symlink_to", "No such file")])
def test_what_is_no_file_is_named_and_set_aside(run, store, make, why):
    path = store.path(run)
    path.parent.mkdir(parents=True)
    getattr(path, make)(*(["/nonexistent/record"] if make == "symlink_to" else []))
    (found,) = store.survey([run])
    assert found.record is None and found.problem.startswith(f"{path} cannot be read ({why}")
    ((_, place),) = store.set_aside(run)
    assert os.path.lexists(place) and not os.path.lexists(path)
    store.write(run, record_of(run))
    assert store.read(run)["run"] == run.id
