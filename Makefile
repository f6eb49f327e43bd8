PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
PYTEST := $(BIN)/python -m pytest
# Test processes: more than a small machine has cores, since many tests wait. WORKERS=0 runs the tests one after the other.
WORKERS ?= 4
BESIDE := -n $(WORKERS) -m "not alone"
# A module stays together where its tests share a service that runs.
MODULES := $(BESIDE) --dist loadscope --no-loadscope-reorder
# Says how long it took.
timed = @begun=$$(date +%s); $(1) || exit $$?; echo "$@: $$(($$(date +%s) - begun)) s"

.DEFAULT_GOAL := help
.PHONY: help setup run worker test lint fmt types imports unit integration system faults alone chaos mutation bench bench-case-study bench-overload eval-routing eval-retrieval train-router openapi sdk lock clean

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Capataz needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock | $(BIN)/python
	@echo "installing what the service needs (once)"
	@$(PIP) -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(BIN)/python
	@echo "installing what the tests need (once)"
	@$(PIP) -r requirements-dev.lock
	@touch $@ $(VENV)/.run

setup: $(VENV)/.dev ## Make the environment for development

run: $(VENV)/.run ## Serve on port 8000: embedded Redis and the offline model unless configured otherwise
	@$(BIN)/python -m app.main

worker: $(VENV)/.run ## Execute runs of the same storage without serving HTTP; the server then takes EXECUTION=workers
	@$(BIN)/python -m app.worker

test: lint types imports unit integration system faults alone ## Everything that CI runs

lint: $(VENV)/.dev ## Style of the code
	@$(BIN)/ruff format --check --quiet . || { echo "make fmt mends this"; exit 1; }
	$(call timed,$(BIN)/ruff check --quiet .)

fmt: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

types: $(VENV)/.dev ## Types of the code
	$(call timed,$(BIN)/mypy)

imports: $(VENV)/.dev ## Which part may import which
	$(call timed,$(BIN)/lint-imports --no-logo > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; })

unit: $(VENV)/.dev ## Tests without I/O, and the contracts; those of resilience/ must reach 98 % of its branches
	$(call timed,$(PYTEST) -q -n $(WORKERS) tests/unit/resilience --cov=resilience --cov-branch --cov-fail-under=98 --cov-report=term:skip-covered \
		&& $(PYTEST) -q -n $(WORKERS) tests/unit tests/contracts --ignore=tests/unit/resilience)

integration: $(VENV)/.dev ## Tests with a real Redis, which they start
	$(call timed,$(PYTEST) -q $(MODULES) tests/integration)

system: $(VENV)/.dev ## Tests of the whole service over HTTP
	$(call timed,$(PYTEST) -q $(MODULES) tests/system)

faults: $(VENV)/.dev ## The same with one fault per test, in small numbers
	$(call timed,$(PYTEST) -q $(BESIDE) --maxschedchunk=1 tests/chaos)

alone: $(VENV)/.dev ## Those of all levels that measure so closely that nothing may run beside them
	$(call timed,$(PYTEST) -q -m alone tests/integration tests/system tests/chaos)

chaos: $(VENV)/.dev ## The same in full numbers, with the limits as they are promised; takes most of an hour
	@CHAOS=full $(PYTEST) -q -s tests/chaos tests/system/test_streams.py tests/system/test_openapi_properties.py tests/integration/test_run_machine.py

mutation: $(VENV)/.dev ## How many small faults in resilience/ its unit tests notice; goes on where it stopped, MUTATION="--seconds 200" at a time
	@nice $(BIN)/python -m benchmarks.mutation $(MUTATION)

bench: $(VENV)/.dev ## What a run costs, beside the same graph without persistence
	@$(BIN)/python -m benchmarks.bench

bench-case-study: $(VENV)/.dev ## A provider's bad day: the naive form and ours, side by side; about 10 minutes
	@$(BIN)/python -m benchmarks.case_study

bench-overload: $(VENV)/.dev ## What happens at up to ten times what the provider can answer
	@$(BIN)/python -m benchmarks.bench_overload

eval-routing: $(VENV)/.dev ## Accuracy of the offline router, per desk
	@$(BIN)/python -m benchmarks.eval_routing

eval-retrieval: $(VENV)/.dev ## Precision of the help-centre search
	@$(BIN)/python -m benchmarks.eval_retrieval

train-router: $(VENV)/.dev ## Train the offline router from the committed rows
	@$(BIN)/python -m benchmarks.train_router

openapi: $(VENV)/.dev ## Write the OpenAPI document anew, after a change of the API
	@$(BIN)/python -m sdk.document

sdk: $(VENV)/.dev ## Make the Python and the TypeScript client from the document, in dist/sdk; the latter needs node and npm
	@$(BIN)/python -m sdk.build

lock: $(VENV)/.dev ## Pin the dependencies anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --group dev pyproject.toml -o requirements-dev.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header pyproject.toml -c requirements-dev.lock -o requirements.lock

clean: ## Remove what was made, data included
	@rm -rf $(VENV) .data dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis mutants
