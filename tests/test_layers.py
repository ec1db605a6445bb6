"""Imports go one way: benchmarks → sb3_gipo → SB3, torch. A file's imports follow from its package or are listed here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "sb3_gipo").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
NAMES = [str(file.relative_to(ROOT)) for file in FILES]

# Third-party packages that one file alone may import.
OWNERS = {
    "ray": {"sb3_gipo/remote/crew.py", "benchmarks/ray_executor.py"},
    "rl_zoo3": {"sb3_gipo/zoo.py"},
    "metaworld": {"benchmarks/envs.py"},
    "rliable": {"benchmarks/statistics.py"},
}
LIBRARY = {"sb3_gipo", "stable_baselines3", "torch", "numpy", "gymnasium", "ray", "rl_zoo3"}
# Rooms that know less than their package: the modules outside the standard library that they may import.
ROOMS = {
    "sb3_gipo/surrogates.py": {"torch"},
    "sb3_gipo/targets.py": {"torch"},
    "sb3_gipo/utilization.py": {"numpy", "torch"},
    "sb3_gipo/losses.py": {"torch", "sb3_gipo.surrogates"},
    "sb3_gipo/bounds.py": set(),
    "sb3_gipo/schedules.py": set(),
    "sb3_gipo/sigma.py": {"torch", "sb3_gipo.surrogates"},
    "benchmarks/mdp.py": {"numpy"},
    "sb3_gipo/policies.py": {"torch", "gymnasium", "stable_baselines3"},
    "sb3_gipo/critic.py": {"torch", "stable_baselines3"},
    "sb3_gipo/optimizers.py": {"torch", "stable_baselines3", "sb3_gipo.critic"},
    "sb3_gipo/wrappers.py": {"numpy", "gymnasium"},
    "sb3_gipo/buffers.py": {"numpy", "torch", "gymnasium", "stable_baselines3"},
    "sb3_gipo/remote/limiter.py": set(),
    "sb3_gipo/remote/tally.py": set(),
    # What runs in an actor's process knows neither the learner nor Ray.
    "sb3_gipo/remote/actor.py": {
        "numpy",
        "torch",
        "gymnasium",
        "stable_baselines3",
        "sb3_gipo.buffers",
        "sb3_gipo.gipo",
    },
    "sb3_gipo/behavior.py": {"torch", "gymnasium", "stable_baselines3"},
    "benchmarks/spec.py": {"pydantic", "tomli"},
    "benchmarks/locks.py": set(),
    "benchmarks/store.py": {"benchmarks.locks", "benchmarks.spec"},
    "benchmarks/statistics.py": {"numpy", "rliable"},
    "benchmarks/curves.py": {"numpy"},
    "benchmarks/measurements.py": {"numpy", "benchmarks.curves", "benchmarks.spec"},
    "benchmarks/scores.py": {
        "numpy",
        "benchmarks.curves",
        "benchmarks.measurements",
        "benchmarks.spec",
        "benchmarks.statistics",
    },
    "benchmarks/report.py": {"rich", "benchmarks.scores", "benchmarks.spec", "benchmarks.statistics"},
    "benchmarks/figures.py": {
        "matplotlib",
        "numpy",
        "benchmarks.curves",
        "benchmarks.report",
        "benchmarks.scores",
        "benchmarks.spec",
        "benchmarks.statistics",
    },
    "benchmarks/derived.py": {
        "PIL",
        "numpy",
        "benchmarks.costs",
        "benchmarks.figures",
        "benchmarks.html",
        "benchmarks.measurements",
        "benchmarks.report",
        "benchmarks.scores",
        "benchmarks.spec",
        "benchmarks.store",
    },
    "benchmarks/html.py": {
        "jinja2",
        "benchmarks.costs",
        "benchmarks.report",
        "benchmarks.scores",
        "benchmarks.spec",
    },
}


def imported(file):
    """Full names of the modules a file imports; ``from a import b`` counts as a.b where that is a file of ours."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if (ROOT / f"{inner.replace('.', '/')}.py").exists() else node.module


def outside(file):
    return {name for name in imported(file) if name.split(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_one_way(name):
    packages = {module.split(".")[0] for module in outside(ROOT / name)}
    for package in packages & OWNERS.keys():
        assert name in OWNERS[package], f"{name} imports {package}, which only {OWNERS[package]} may"
    if name.startswith("sb3_gipo/"):
        assert packages <= LIBRARY, f"{name} imports {packages - LIBRARY}"


@pytest.mark.parametrize("name", [name for name in NAMES if name in ROOMS])
def test_rooms_know_only_what_they_need(name):
    for module in outside(ROOT / name):
        assert any(module == known or module.startswith(f"{known}.") for known in ROOMS[name]), (
            f"{name} imports {module}"
        )


def test_nothing_but_the_remote_and_zoo_doors_is_optional():
    """The package, and its whole training loop, work with the extras missing."""
    script = """
import sys
for missing in ("ray", "metaworld", "rliable", "rl_zoo3", "sb3_contrib", "pydantic", "typer", "rich", "benchmarks"):
    sys.modules[missing] = None
import sb3_gipo
sb3_gipo.GIPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, replay_window=2).learn(64)
try:
    sb3_gipo.AsyncGIPO
except ImportError as error:
    assert "pip install 'sb3-gipo[ray]'" in str(error)
else:
    raise AssertionError("AsyncGIPO without ray")
assert not hasattr(sb3_gipo, "AnythingElse")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_the_walk_sees_forbidden_imports(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        "def f():\n    from rliable import metrics\n    import metaworld.policies\n    from benchmarks import spec\n"
    )
    assert outside(file) == {"rliable", "metaworld.policies", "benchmarks.spec"}
