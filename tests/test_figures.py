import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from synthetic import ACTORS, SURROGATES, make_suite, realistic

from benchmarks import figures, scores
from benchmarks.measurements import measure
from benchmarks.spec import plan

ORIGIN = "made by `python -m benchmarks plot x` at commit abc123"
ANCHORS = {"reach-v3": (0.0, 2000.0), "button-press-v3": (0.0, 2000.0)}
SUITE = make_suite(note="only a test")
SVG = {"svg": "http://www.w3.org/2000/svg"}


def scored(suite=SUITE, only=lambda run: True, anchors=ANCHORS, baseline="ppo"):
    return scores.score(suite, [measure(run, realistic(run)) for run in plan(suite) if only(run)], anchors, baseline)


@pytest.fixture(scope="module")
def files():
    return figures.write(SUITE, scored(), ORIGIN)


def words(svg):
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iterfind(".//svg:text", SVG)]


def test_each_figure_is_there_twice_and_names_its_origin(files):
    only_for_some = {"clock", "staleness"}
    assert list(files) == [
        f"{name}.{suffix}" for name in figures.FIGURES if name not in only_for_some for suffix in ("png", "svg")
    ]
    for name, content in files.items():
        if name.endswith(".png"):
            image = Image.open(io.BytesIO(content))
            assert image.info == {"Description": ORIGIN, "dpi": pytest.approx((150, 150), abs=0.1)}
            # Ink in the middle, paper at the rim: nothing is cut off.
            pixels = np.asarray(image.convert("L"))
            assert pixels.min() < 100
            rim = np.concatenate(
                [pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, :2].ravel(), pixels[:, -2:].ravel()]
            )
            assert (rim == 255).all(), name
        else:
            assert ORIGIN.encode() in content and "made by python -m benchmarks plot x" in words(content)
            assert "only a test" in words(content)


def test_the_same_scores_give_the_same_bytes_whatever_the_commit(files):
    again = figures.write(SUITE, scored(), ORIGIN, ["iqm", "utilization"])
    assert again == {name: files[name] for name in again}
    other = figures.write(SUITE, scored(), ORIGIN.replace("abc123", "def456"), ["ranks"])
    assert list(other) == ["ranks.png", "ranks.svg"]
    drawn = [np.asarray(Image.open(io.BytesIO(each["ranks.png"]))) for each in (files, other)]
    assert np.array_equal(*drawn)


def test_figures_say_what_they_show(files):
    found = {name: words(files[f"{name}.svg"]) for name in figures.drawn(SUITE)}
    for name, texts in found.items():
        assert {"fresh", "stale"} <= set(texts), "a panel for each regime"
        # The outside algorithm has no runs on stale data.
        assert texts.count("gipo(1.0,1.0)") > sum(text.startswith("sb3-ppo") for text in texts) >= 1, name
    assert "environment steps" in found["efficiency"] and "IQM, absolute" in found["efficiency"]
    assert any("higher than one of ppo" in text for text in found["improvement"]) and "ppo  –" in found["improvement"]
    assert "sb3-ppo  –" in found["utilization"] and "sb3-ppo" in found["efficiency"], (
        "it does not tell how it uses its data"
    )
    assert {"dead fraction", "effective sample size", "lag (policy versions)"} <= set(found["utilization"])


def test_what_waits_for_its_environments_is_drawn_over_wall_time():
    """Four actors make 400 steps a second, one makes 100: they end after 50 and 200 of the figure's 200 seconds."""
    suite = make_suite(regimes=ACTORS, algorithms={name: SURROGATES[name] for name in ("ppo", "sapo")})
    regimes = scored(suite)
    assert [regime.algorithms[0].seconds[-1] for regime in regimes] == pytest.approx([200.0, 50.0])
    assert regimes[0].algorithms[0].seconds[0] == pytest.approx(5.0)
    assert scored()[0].algorithms[0].seconds is None
    texts = words(figures.write(suite, regimes, ORIGIN)["clock.svg"])
    assert texts.count("seconds") == 4 and texts.count("200") == 4 and "IQM, absolute" in texts


def test_a_sweep_is_drawn_against_the_lag_that_was_measured():
    suite = make_suite(regimes={f"window{window}": {"replay_window": window} for window in (8, 1, 400)})
    regimes = scored(suite)
    figure = figures.FIGURES["staleness"][1](suite, regimes)
    look, lags = figures._styles(suite)["ppo"]["color"], [0, 3.5, 199.5]
    seen = [entry for i in (1, 0, 2) for entry in regimes[i].algorithms if entry.algorithm == "ppo"]
    score, dead, ess = figure.axes[:3]
    for axis, values in (
        (score, [entry.absolute.iqm.value for entry in seen]),
        (dead, [entry.diagnostics.dead_fraction for entry in seen]),
        (ess, [entry.diagnostics.ess for entry in seen]),
    ):
        # The outside algorithm does not tell how old its data is.
        assert len(axis.get_lines()) == 2 and axis.get_xscale() == "symlog"
        (line,) = (line for line in axis.get_lines() if line.get_color() == look)
        assert line.get_xydata() == pytest.approx(np.array([lags, values]).T)
    (band,) = (band for band in score.collections if np.allclose(band.get_facecolor()[0, :3], to_rgb(look)))
    corners = band.get_paths()[0].vertices
    for lag, entry in zip(lags, seen, strict=True):
        at_lag = corners[corners[:, 0] == lag, 1]
        interval = entry.absolute.iqm
        assert (at_lag.min(), at_lag.max()) == pytest.approx((interval.low, interval.high))
    texts = words(figures.write(suite, regimes, ORIGIN)["staleness.svg"])
    assert {"all regimes", "sb3-ppo  –", "dead fraction", "effective sample size"} <= set(texts)


def test_the_rank_figure_shows_the_shares(files):
    (fresh, _) = scored()
    shown = words(files["ranks.svg"])
    for entry in fresh.algorithms:
        assert all(f"{share:.2f}" in shown for share in entry.ranks if share >= 0.005)


@pytest.mark.parametrize(
    ("only", "anchors", "baseline", "name", "said"),
    [
        (lambda run: run.seed == run.suite.tasks.index(run.task), ANCHORS, "ppo", "efficiency", "no seed is finished"),
        (lambda run: True, {}, "ppo", "iqm", "no anchors"),
        (lambda run: True, ANCHORS, None, "improvement", "nothing to compare with"),
        (lambda run: run.algorithm == "sb3-ppo", ANCHORS, "ppo", "utilization", "not in the records"),
        (lambda run: run.seed == 0, ANCHORS, "ppo", "ranks", "fewer than two seeds are finished by all"),
    ],
)
def test_what_is_missing_is_said(only, anchors, baseline, name, said):
    texts = words(figures.write(SUITE, scored(SUITE, only, anchors, baseline), ORIGIN, [name])[f"{name}.svg"])
    assert any(said in text for text in texts)
    assert not any("nan" in text for text in texts)


def test_many_algorithms_are_spread_over_panels_and_look_different():
    labels = {f"gipo({sigma},1.0)": {"surrogate": "gaussian", "sigma": sigma} for sigma in np.arange(1, 11) / 4}
    suite = make_suite(algorithms=SURROGATES | labels, regimes={"stale": {"replay_window": 8}}, seeds=2)
    (regime,) = scored(suite)
    groups = list(figures._groups(regime))
    assert [len(group) for group in groups] == [7, 7]
    assert all("ppo" in [entry.algorithm for entry in group] for group in groups)
    assert {entry.algorithm for group in groups for entry in group} == set(suite.algorithms)
    assert [len(list(figures._groups(each))) for each in scored()] == [1, 1]
    looks = {tuple(map(str, style.values())) for style in figures._styles(suite).values()}
    assert len(looks) == len(suite.algorithms)
    legend = words(figures.write(suite, [regime], ORIGIN, ["profiles"])["profiles.svg"])
    assert legend.count("ppo") == 2 and legend.count("sapo") == 1


def test_svg_text_stays_text_and_has_no_date(files):
    for name, content in files.items():
        if name.endswith(".svg"):
            assert b"<text" in content and not re.search(rb"<dc:date>|Matplotlib v", content), name
