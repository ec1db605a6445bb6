"""Derived files are what their records say: the mechanism, and all that is committed."""

import shutil

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from synthetic import make_suite, realistic, write_store

from benchmarks import derived
from benchmarks.anchors import load_anchors
from benchmarks.spec import BenchmarkError, load_suite, plan
from benchmarks.store import Store, replace_file

SUITE = make_suite(seeds=2, regimes={"fresh": {"replay_window": 1}})
COMMITTED = sorted(
    path.parent for path in (REPOSITORY / "results").glob("*/table.md") if any(path.parent.rglob("repeat*.json"))
)


def study_of(suite, root, baseline=None):
    every = Store(root).survey(plan(suite))
    return derived.read(suite, every, load_anchors(root), derived.baseline_of(suite, baseline))


def make(suite, root, kind, baseline=None, commit="abc123"):
    """What the commands write, without their command line."""
    command = f"python -m benchmarks {kind} {suite.name}" + (f" --baseline {baseline}" if baseline else "")
    study = study_of(suite, root, baseline)
    for name, content in derived.COMMANDS[kind](study, f"made by `{command}` at commit {commit}").items():
        replace_file(root / suite.identity / name, content)


def stale_files(root, suite):
    """The derived files of a suite's folder that are not what its records say."""
    return derived.stale(root / suite.identity, lambda baseline: study_of(suite, root, baseline))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    write_store(root, SUITE)
    for kind in ("plot", "report", "table"):
        make(SUITE, root, kind)
    return root


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "results")


def only_of(store, *names):
    """Remove all other derived files, which would only take time to make again."""
    folder = store / SUITE.identity
    for path in folder.iterdir():
        if path.is_file() and path.name not in names:
            path.unlink()
    return folder


def test_the_same_store_gives_the_same_files(made, store):
    folder = only_of(store)
    make(SUITE, store, "table")
    again = [path for path in folder.iterdir() if path.is_file()]
    assert len(again) == 6
    for path in again:
        assert path.read_bytes() == (made / SUITE.identity / path.name).read_bytes(), path.name


def test_what_was_made_of_the_records_is_not_stale(store):
    assert stale_files(store, SUITE) == []


def test_the_commit_does_not_matter(store):
    only_of(store)
    make(SUITE, store, "table", commit="def456+changes")
    assert stale_files(store, SUITE) == []


def test_another_baseline_is_taken_from_the_command(store):
    only_of(store)
    make(SUITE, store, "table", baseline="sb3-ppo")
    assert "P(> sb3-ppo)" in (store / SUITE.identity / "table.md").read_text()
    assert stale_files(store, SUITE) == []


def test_a_changed_record_makes_every_file_stale(store):
    names = ["iqm.png", "iqm.svg", "ranking.csv", "table.md", "table.tex", "tasks.csv"]
    only_of(store, *names)
    run = plan(SUITE)[0]
    path = Store(store).path(run)
    path.unlink()
    slower = realistic(run)
    slower["curve"]["return"] = [0.5 * value for value in slower["curve"]["return"]]
    Store(store).write(run, slower | {"score": 0.5 * slower["score"], "cpu_seconds": 120.0})
    assert stale_files(store, SUITE) == names


def edit(path):
    path.write_text(path.read_text().replace("ppo", "PPO", 1))


def repaint(path):
    with Image.open(path) as image:
        pixels, description = np.array(image), PngInfo()
        description.add_text("Description", image.info["Description"])
    pixels[100, 100] = 0
    Image.fromarray(pixels).save(path, pnginfo=description)


def forget_the_origin(path):
    path.write_text(path.read_text().replace("made by", "from"))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_bytes(b"\xff" + path.read_bytes())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("iqm.png", halve),
        ("iqm.png", empty),
        ("table.md", garble),
        ("table.md", edit),
        ("ranking.csv", edit),
        ("report.html", edit),
        ("iqm.png", repaint),
        ("table.tex", forget_the_origin),
    ],
)
def test_an_edited_file_is_stale(store, name, change):
    change(only_of(store, name) / name)
    assert stale_files(store, SUITE) == [name]


def test_a_file_that_its_command_does_not_make_is_stale(store):
    folder = only_of(store, "table.md")
    shutil.copy(folder / "table.md", folder / "old-table.md")
    assert stale_files(store, SUITE) == ["old-table.md"]


def test_an_unknown_baseline_is_an_error():
    assert derived.baseline_of(SUITE, None) == "ppo"
    assert derived.baseline_of(make_suite(algorithms={"sapo": {"surrogate": "sapo"}}), None) is None
    with pytest.raises(BenchmarkError, match="unknown algorithm 'sb3-pp': did you mean 'sb3-ppo'"):
        derived.baseline_of(SUITE, "sb3-pp")


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_files_are_what_their_records_say(folder):
    name, _, budget = folder.name.partition("@")
    assert stale_files(folder.parent, load_suite(name, int(budget) if budget else None)) == []
