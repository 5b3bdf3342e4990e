# Everything runs in .venv, which is made when missing and brought up to date when pyproject.toml or constraints.txt
# changes. Paths are relative, so the checkout may lie in a folder with spaces in its name.

PYTHON ?= python3
WORKERS ?= 2

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable
# The tests' tensors are tiny: with two threads each call takes longer than with one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint orders fuzz nightly clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1 - \2/p' Makefile
	@echo '  Set PYTHON=python3.12 for another Python (3.11 or newer), WORKERS=4 for more test processes.'

demo: .venv/.installed  ## install into .venv and sample digits with a dozen solvers
	$(BIN)/scorediff demo

test: .venv/.installed-test  ## run the tests of the day: every theorem, on what stands for the rest
	$(PYTEST)

lint: .venv/.installed-lint  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy scorediff

orders: .venv/.installed  ## measure the orders of the solvers that have changed, and write docs/orders.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/orders.py --jobs $(WORKERS)

fuzz: .venv/.installed-test  ## 100,000 random runs, and what must hold for every one of them
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --workers $(WORKERS)

nightly: test  ## all tests of all that they are about, with more examples, and the orders of all solvers
	HYPOTHESIS_PROFILE=night $(PYTEST) -m 'nightly or hypothesis'
	OMP_NUM_THREADS=1 $(BIN)/python tests/orders.py --every --jobs $(WORKERS)

clean:  ## remove the demo's pictures, builds and caches, but not .venv
	rm -rf demo build dist scorediff.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'scorediff needs Python 3.11 or newer, and "$(PYTHON)" is:' "$$($(PYTHON) --version 2>&1)." >&2; \
	  echo 'Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	@touch $@

.venv/.installed-%: .venv/.installed
	$(INSTALL) '.[$*]'
	@touch $@
