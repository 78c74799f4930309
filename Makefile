.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NODE_DIR := tests/conformance
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
WORKERS ?= auto
ARGS ?=

VENV_READY := $(VENV)/.made
RUNTIME_READY := $(VENV)/.runtime-installed
DEV_READY := $(VENV)/.dev-installed
COMPILED := $(VENV)/.readers-compiled
NODE_READY := $(NODE_DIR)/node_modules/.installed
PEERS := benchmarks/peers
PEERS_READY := $(PEERS)/.venv/.installed

.PHONY: help serve test check faults bench bench-own bench-profile bench-smoke lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

serve: $(RUNTIME_READY) $(COMPILED) ## install what is needed, then serve on http://127.0.0.1:8000
	@exec $(BIN)/constructure-sync serve $(ARGS)

test: $(DEV_READY) $(NODE_READY) ## every test but the long runs
	$(BIN)/pytest -q -n $(WORKERS) --maxprocesses 8 --dist loadgroup $(ARGS)

check: $(DEV_READY) ## format, lint, types, import contracts, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/unit tests/docs

faults: $(DEV_READY) $(NODE_READY) ## the long runs: kills, power cuts, schedules, mutations; ARGS="--help" lists the counts
	$(BIN)/python -m tests.faults $(ARGS)

bench: $(DEV_READY) $(NODE_READY) $(PEERS_READY) ## measure beside other servers, in turn, and write benchmarks/RESULTS.md; hours, on a machine that does nothing else
	$(BIN)/python -m benchmarks compare $(ARGS)

bench-own: $(DEV_READY) $(NODE_READY) ## measure this server alone; ARGS="--help" lists what
	$(BIN)/python -m benchmarks own $(ARGS)

bench-profile: $(DEV_READY) ## say where the time goes under each load, for benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks profile $(ARGS)

bench-smoke: $(DEV_READY) $(NODE_READY) ## two minutes that show that the benchmarks run and end right
	$(BIN)/python -m benchmarks own --smoke $(ARGS)

lock: $(DEV_READY) ## resolve requirements/*.txt and the Node lock anew
	$(PIP) install --upgrade uv
	$(BIN)/uv pip compile pyproject.toml --group build $(LOCK_FORM) --output-file requirements/runtime.txt
	$(BIN)/uv pip compile pyproject.toml --group build --extra dev --constraint requirements/runtime.txt $(LOCK_FORM) --output-file requirements/dev.txt
	$(BIN)/uv pip compile $(PEERS)/requirements.in $(LOCK_FORM) --output-file $(PEERS)/requirements.txt
	cd $(NODE_DIR) && npm install --package-lock-only --ignore-scripts

# Hashes make the index irrelevant, so no address is written down: any mirror serves.
LOCK_FORM := --quiet --system-certs --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate

$(VENV_READY):
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUNTIME_READY): requirements/runtime.txt pyproject.toml | $(VENV_READY)
	$(PIP) install --require-hashes -r requirements/runtime.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# Without a compiler it says so and the same readers in Python are used.
$(COMPILED): hatch_build.py $(wildcard constructure_sync/protocol/native/*) | $(RUNTIME_READY)
	@$(BIN)/python hatch_build.py
	@touch $@

$(DEV_READY): requirements/dev.txt $(RUNTIME_READY) | $(COMPILED)
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(NODE_READY): $(NODE_DIR)/package.json $(NODE_DIR)/package-lock.json
	cd $(NODE_DIR) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(PEERS_READY): $(PEERS)/requirements.txt $(PEERS)/hocuspocus/package-lock.json $(PEERS)/y-websocket-server/package-lock.json
	$(PYTHON) -m venv $(PEERS)/.venv
	$(PEERS)/.venv/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $(PEERS)/requirements.txt
	cd $(PEERS)/hocuspocus && PATH="$(CURDIR)/$(PEERS)/.venv/bin:$$PATH" npm ci
	cd $(PEERS)/y-websocket-server && PATH="$(CURDIR)/$(PEERS)/.venv/bin:$$PATH" npm ci
	@touch $@
