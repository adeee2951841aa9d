# Each target makes .venv from the pins first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
EXPERIMENT ?= xling
# `mlflow run` with the local environment runs whatever `python` is found first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo check fast test soak lint lock bench ui clean

demo: .venv/ready
	$(BIN)/mlflow run . -e main -P study=demo --experiment-name $(EXPERIMENT) --env-manager local
	@echo "Look at the runs, adapters and figures:  make ui   (then http://127.0.0.1:5000)"

# Two tests at a time, a thread each; a file's tests stay together and share what they make, and
# tests/conftest.py puts the longest files first. A crash ends the run: xdist can wait for ever for
# what a crashed worker left.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
TWO := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Before every commit, meant to take two minutes on two cores: no whole study, server, kill or training.
check: lint fast

WHOLE := distributed execution golden reliability
fast: .venv/ready
	$(PYTEST) $(TWO) -m "not slow and not weights" $(WHOLE:%=--ignore=tests/%)

# All, before every push.
test: .venv/ready
	$(PYTEST) $(TWO)

# Sweeps of faults and simulations at full size, the faults ten times over: hours.
SOAK ?= 10
soak: .venv/ready
	XLING_SOAK=$(SOAK) $(PYTEST) tests/reliability $(shell grep -l XLING_SOAK tests/analysis/*.py) -s --timeout 0

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# After a change of code that decides results; tests/test_result_code.py says when.
lock: .venv/ready
	$(BIN)/python -m tests.result_code

bench: .venv/ready
	$(BIN)/python -m benchmarks

ui: .venv/ready
	$(BIN)/mlflow ui --port 5000

clean:
	rm -rf .venv

.venv/ready: conda.yaml pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(sed -n 's/^ *- pip=\([0-9.]*\)$$/pip==\1/p' conda.yaml)"
	sed -n 's/^ *- \(.*==.*\)$$/\1/p' conda.yaml > .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement .venv/requirements.txt --group dev
	touch .venv/ready
