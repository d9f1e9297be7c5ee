# Every target does its own set-up; `make help` lists them. Logic lives in scripts/.
SHELL := /bin/bash
BIN := .venv/bin
ARGS ?=
PYTEST := $(BIN)/python -m pytest
FAST := -m "not stack and not all and not gpu"

.DEFAULT_GOAL := help
.PHONY: help setup demo train test test-fast test-all test-312 chaos check lint fmt lock lock-check bundle gpu-check clean distclean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: ## Install the pinned CPU stack into .venv (Python 3.11 or 3.12, no compiler)
	@scripts/setup.sh

demo: setup ## Self-train the shipped tiny model: 2 samplers, 2 learner ranks, no labels
	@$(BIN)/quorum train demo run.dir=runs/demo-$$(date +%Y%m%d-%H%M%S) $(ARGS)

train: setup ## Train CONFIG=file.yaml or preset, ARGS="section.field=value ..."
	@$(BIN)/quorum train $(CONFIG) $(ARGS)

test: setup ## The whole suite on the real stack (Ray, vLLM, DeepSpeed on CPU)
	@$(PYTEST) -m "not all and not gpu" --durations=25 $(ARGS)

test-fast: setup ## Unit and contract tests, no stack, two to three minutes
	@$(PYTEST) tests/unit tests/contracts $(FAST) -q $(ARGS)

test-all: setup ## The suite and every other kind of exit and kill
	@HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "not gpu" --durations=25 $(ARGS)

test-312: setup ## Base package, unit tests and lock resolution on Python 3.12
	@scripts/test_312.sh

chaos: setup ## 40 minutes (or MINUTES=N) of kills beside a calm run: equal ledgers and weights
	@$(BIN)/python -m tests.integration.long_chaos $${MINUTES:-40} $(ARGS)

check: setup ## Lint, format, types, spelling, fast tests
	@scripts/check.sh

lint: setup ## Lint, format, types and spelling only
	@scripts/check.sh --static

fmt: setup ## Format and fix what can be fixed
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: setup ## Resolve requirements/*.in into the locks
	@scripts/lock.sh

lock-check: setup ## See that the locks are clean and resolve on Python 3.12
	@scripts/lock.sh --check

bundle: setup ## Parts for a GPU machine without network (ARGS="--set NAME", --list, --verify)
	@$(BIN)/python scripts/bundle.py $(ARGS)

gpu-check: ## GPU tests and benchmarks in resumable stages (python3, or PYTHON=...; ARGS="--list")
	@$${PYTHON:-python3} -m benchmarks.gpu_check $(ARGS)

clean: ## Remove caches and build output
	@rm -rf build dist bundle *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis && find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environments too
	@rm -rf .venv .venv-312
