# Ballast. Two commands are enough on a machine with Python 3.11+ and make:
#
#   make demo            set up everything, then trade for a minute against a simulated exchange
#   make test            set up everything, then run the whole test suite
#
# For those who change the code:
#
#   make setup           the virtual environment alone; .venv/bin/ballast exists after it
#   make check           ruff, mypy strict, pyright strict, import contracts: what CI asks
#   make format          ruff's formatter and safe fixes
#   make bench           measurements, printed as ratios
#   make crash           the daemon killed at every point where it writes or sends, each time compared with the exchange
#   make faults          every fault of the catalogue F1-F72 injected into the running daemon, as a counted table
#   make soak            the long tests: the whole daemon on virtual time with faults, seed after seed; load; fuzz; crashes
#   make relock          renew constraints.txt from the ranges of pyproject.toml
#   make clean           remove what make and the tools wrote; never touches var/ (ledger, models)
#
# Options: make demo SECONDS=20 · make soak SEEDS=2000 MINUTES=10 PARTS=sim JOBS=2 · make test WORKERS=0 ARGS="tests/core -x" · make setup PYTHON=python3.12
#          make setup PIP_FLAGS="--extra-index-url …" (a mirror, or an index with CPU builds of torch)

PYTHON ?= python3
SECONDS ?= 60
SEEDS ?= 200
MINUTES ?= 10
JOBS ?= 0
PARTS ?= stateful sim load fuzz crash
ARGS ?=
WORKERS ?= 2
PIP_FLAGS ?=

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS)

# The environment is renewed when what defines it changes: the ranges or the lock; it is rebuilt from nothing when the
# folder moved or the Python changed (console scripts hold absolute paths). The stamp's name carries the hash of all
# that, so an unchanged second run costs nothing.
HASH := $(shell { cat pyproject.toml constraints.txt; pwd; $(PYTHON) -V; } | sha256sum | cut -c1-16)
STAMP := $(VENV)/.setup-$(HASH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench crash soak faults relock clean

help:
	@sed -n 's/^# \{0,1\}//; 2,/^$$/p' Makefile | sed '/^$$/q'
	@sed -n '/^#   make/s/^# //p' Makefile

setup: $(STAMP)

# torch first and alone: whatever asks for it later must find the pinned build and leave it be. The build backend comes
# from the lock as well, so that the editable install needs no environment of its own.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Ballast needs Python 3.11 or newer; $(PYTHON) is not. Try: make setup PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "setup: installing the locked packages into $(VENV) (a minute or two)"
	@home="$$(pwd) $$($(PYTHON) -c 'import sys; print(*sys.version_info[:2])')"; \
	  if [ "$$(cat $(VENV)/.home 2>/dev/null)" = "$$home" ]; then fresh=; else fresh=--clear; fi; \
	  $(PYTHON) -m venv $$fresh $(VENV) && echo "$$home" > $(VENV)/.home
	@$(PIP) -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -c constraints.txt hatchling editables
	@$(PIP) -c constraints.txt --no-build-isolation -e '.[dev]'
	@$(BIN)/python -m pip --disable-pip-version-check check >/dev/null
	@rm -f $(VENV)/.setup-*
	@touch $@
	@echo "setup: done, $(BIN)/ballast is ready"

demo: setup
	@$(BIN)/ballast demo --seconds $(SECONDS)

# In the order of the folders: sorted by the number of their tests, files of one long test would come last, when the other
# processes have nothing left to do.
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports --no-logo

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

# ARGS="--last 40" takes the first forty points alone, ARGS="--stride 5" every fifth one first. Writes .bench/crash.json.
crash: setup
	$(BIN)/python -m tests.crash $(ARGS)

# State machine, simulation, load, fuzz, crash points: `make soak SEEDS=2000` is the night's size, `make soak PARTS=sim`
# the simulation alone; docs/testing.md. ARGS="--load-minutes 1 --examples 500" shortens the others.
soak: setup
	$(BIN)/python -m tests.soak --parts "$(PARTS)" --seeds $(SEEDS) --minutes $(MINUTES) --jobs $(JOBS) $(ARGS)

# Every fault of the catalogue, injected into the running daemon, then five planted faults of ours that the table must
# notice. Writes .bench/faults.json and .md. ARGS="F2 F31" takes rows alone, ARGS="--write-docs" renews docs/faults.md.
faults: setup
	$(BIN)/python -m tests.faults $(ARGS)

# A throw-away environment from the ranges, torch kept at its pin, frozen. Review the difference before committing it.
relock:
	@rm -rf build/relock && mkdir -p build && $(PYTHON) -m venv build/relock
	@build/relock/bin/python -m pip install --quiet $(PIP_FLAGS) "$$(grep '^torch==' constraints.txt)"
	@build/relock/bin/python -m pip install --quiet $(PIP_FLAGS) "$$(grep '^torch==' constraints.txt)" hatchling editables '.[dev]'
	@{ sed -n '/^#/p' constraints.txt; build/relock/bin/python -m pip freeze --all | \
	   grep -v -e '^pip==' -e '^ballast' | sed 's/+cpu$$//'; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/relock
	@git --no-pager diff --stat constraints.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
