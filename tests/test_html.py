import csv
import re
from html.parser import HTMLParser

import pytest
from synthetic import make_suite, realistic

from benchmarks import derived, report
from benchmarks.spec import plan
from benchmarks.store import Found

ORIGIN = "made by `python -m benchmarks report x.toml --budget 20000 --baseline 'gipo(1.0,1.0)'` at commit abc123"
ANCHORS = {"reach-v3": (0.0, 2000.0), "button-press-v3": (0.0, 2000.0)}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are nested, and collects attributes, text and the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.tables = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *each) for each in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def study():
    suite = make_suite(note="only <a> test & more", evaluation_episodes=3)

    def found(run):
        if (run.algorithm, run.seed) != ("sb3-ppo", 3):
            return Found(run, record=realistic(run))
        return Found(run, failure={"tracebacks": []} if run.task == "reach-v3" else None)

    return derived.read(suite, map(found, plan(suite)), ANCHORS, "ppo")


@pytest.fixture(scope="module")
def text(study):
    return derived.COMMANDS["report"](study, ORIGIN)["report.html"].decode()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_needs_nothing_else(text, page):
    for tag, name, value in page.attributes:
        assert name not in ("href", "srcset", "onload") and tag not in ("script", "link", "iframe", "object")
        if name == "src":
            assert tag == "img" and value.startswith("data:image/svg+xml;base64,")
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text) and "url(" not in text and "@import" not in text
    assert sum(name == "src" for _, name, _ in page.attributes) == 6


def test_everything_is_escaped(text, page):
    assert "only <a> test" not in text and "only <a> test & more" in page.text


def test_the_page_says_what_the_csv_says(study, page):
    content = derived.COMMANDS["table"](study, ORIGIN)["ranking.csv"].decode()
    cells = [cell for table in page.tables for row in table for cell in row]
    rows = list(csv.DictReader(line for line in content.splitlines() if not line.startswith("#")))
    assert len(rows) == 5
    for row in rows:
        for name, digits in (("iqm_min_max", 3), ("iqm_absolute", 3), ("iqm_return", 1), ("area_absolute", 2)):
            numbers = [f"{float(row[name + end]):.{digits}f}" for end in ("", "_low", "_high")]
            assert "{} [{}, {}]".format(*numbers).replace("-0.00", "0.00") in cells


def test_the_page_has_every_table_of_the_terminal(study, page):
    for regime in study.regimes:
        for table in report.tables(study.suite, regime):
            assert [list(table.header), *map(list, table.rows)] in page.tables


def test_the_page_tells_protocol_costs_what_is_missing_and_how_to_make_it(page):
    text = " ".join(page.text)
    assert "3 algorithms on 2 tasks under 2 regimes, with 4 seeds of 1 repeat each" in text
    assert "20,000 environment steps" in text and "plays 3 episodes" in text
    assert "38 of 40 runs are finished. 1 failed." in text
    assert "synthetic/fresh/sb3-ppo/reach-v3/seed3/repeat0" in text
    cells = [row for table in page.tables for row in table]
    assert ["stale", "replay_window", "8"] in cells and ["learner", "n_steps", "500"] in cells
    assert ["fresh", "sb3-ppo", "6/8, 1 failed", "3"] in cells and ["all", "all", "0.63"] in cells
    assert ["machine", "Linux, x86_64, 2 CPUs", "38"] in cells and ["version", "torch 2.13.0", "38"] in cells
    assert ["commit", "c0ffee" * 6 + "c0de", "38"] in cells
    assert "python -m benchmarks run x.toml --budget 20000" in page.text
    assert ORIGIN in page.text


def test_the_page_prints_and_has_a_dark_side(text):
    assert "@media print" in text and "prefers-color-scheme: dark" in text
