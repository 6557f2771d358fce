# Phalanx: `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
MODEL ?= all-MiniLM-L6-v2
TEST_MODELS := $(CURDIR)/.build/models
T ?=

.DEFAULT_GOAL := help
.PHONY: help run test check bench soak docs init-db model lock fmt clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/runtime ## Install, pull the models, make the database and a first key, and serve on PORT [8000]
	@$(BIN)/phalanx init
	@exec $(BIN)/phalanx serve

test: .venv/dev .build/models/$(MODEL) ## Run all tests; T=path runs some
	$(BIN)/pytest $(T)

check: .venv/dev ## Lint, types, import contracts, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

bench: .venv/dev .build/models/$(MODEL) ## Measure every claim against the stored baseline; B=name runs one
	$(BIN)/python benchmarks/run.py $(B)

soak: .venv/dev .build/models/$(MODEL) ## Run the long tests: ten minutes of mixed load
	$(BIN)/python benchmarks/soak.py

docs: .venv/dev ## Write the documents that are generated from the code
	$(BIN)/python docs/generate.py

init-db: .venv/runtime ## Make or migrate the database
	$(BIN)/phalanx db migrate

model: .build/models/$(MODEL) ## Pull the model that tests and benchmarks use

lock: .venv/dev ## Resolve the dependencies anew and pin them with hashes
	$(BIN)/python docs/lock.py

fmt: .venv/dev ## Format the code and mend what lint can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was built here, .venv included
	rm -rf .venv .build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Phalanx needs Python 3.11 or later; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/runtime: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements-dev.lock .venv/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable examples/counting
	@touch $@

.build/models/$(MODEL): .venv/runtime
	MODEL_DIR=$(TEST_MODELS) $(BIN)/phalanx models pull $(MODEL)
	@touch $@
