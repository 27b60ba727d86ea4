# Every target does its own set-up: a fresh clone needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test test-containers check format bench lock clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## a virtual environment in .venv, from the lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Backbeat needs Python 3.11 or newer; set PYTHON=... (found " + sys.version.split()[0] + ")") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

run: $(STAMP) ## a whole cluster on this machine: server, two nodes, beat, Flower (Ctrl-C stops it)
	$(BIN)/backbeat up --config config/openspiel.yaml

test: $(STAMP) ## every test (PYTEST_ARGS='-k name' narrows)
	$(BIN)/python -m pytest -n 4 --dist worksteal $(PYTEST_ARGS)

test-containers: $(STAMP) ## the images and the cluster on a real engine (root starts one)
	tests/containers/lane.sh $(BIN)/python -m pytest -m containers $(PYTEST_ARGS) tests/containers tests/fleet/providers

check: $(STAMP) ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## rewrite to the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## print the benchmarks' ratios (about twenty-five minutes)
	$(BIN)/python benchmarks/tick_cost.py
	$(BIN)/python benchmarks/punctuality.py
	$(BIN)/python benchmarks/job_queue.py
	$(BIN)/python benchmarks/reaper.py
	$(BIN)/python benchmarks/rating.py
	$(BIN)/python benchmarks/elo_merge.py
	$(BIN)/python benchmarks/node_curve.py
	$(BIN)/python benchmarks/discovery_curve.py
	$(BIN)/python benchmarks/node_commands.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/footprint.py
	$(BIN)/python benchmarks/player_curve.py --generations 4
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/pages.py

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

lock: $(STAMP) ## resolve requirements.lock again, and what of it the image needs
	$(LOCK) --extra openspiel --group dev pyproject.toml -o requirements.lock
	$(LOCK) -c requirements.lock --extra docker pyproject.toml -o deploy/requirements.lock
	$(LOCK) -c requirements.lock --extra docker --extra openspiel pyproject.toml -o deploy/requirements-openspiel.lock
	echo hatchling | $(LOCK) -c requirements.lock - -o deploy/requirements-build.lock

clean: ## remove .venv and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
