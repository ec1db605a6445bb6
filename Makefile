# make demo   a first ranking in a few minutes     make test       the tests CI runs
# make lint   formatting, lint and types           make test-slow  the long tests
PYTHON ?= python3
BIN := .venv/bin
# One torch thread per process: the parallelism is in the processes.
export OMP_NUM_THREADS := 1

.PHONY: demo test test-slow lint

demo: .venv/installed
	$(BIN)/python -m benchmarks run demo
	$(BIN)/python -m benchmarks table demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,dev,ray]'
	touch $@
