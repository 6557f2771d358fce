# Phalanx: `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
MODEL ?= all-MiniLM-L6-v2
FACE_MODELS := blazeface-full-range blazeface-short-range dlib-resnet-v1
TEST_MODELS := $(CURDIR)/.build/models
MODEL_FOLDERS := $(addprefix .build/models/,$(MODEL) $(FACE_MODELS))
PROTOS := $(wildcard proto/phalanx/v1/*.proto)
SCHEMA := src/phalanx/edges/grpc/schema.binpb
T ?=
# Each has servers of its own; a file's tests stay in one process.
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help run servers test check bench soak fuzz chaos docs init-db model lock fmt clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/runtime $(SCHEMA) ## Install, pull the models, make the database and a first key, and serve on PORT [8000]
	@$(BIN)/phalanx init
	@exec $(BIN)/phalanx serve

test: .venv/dev $(SCHEMA) $(MODEL_FOLDERS) servers ## Run all tests; T=path runs some
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(T)

check: .venv/dev ## Lint, types, import contracts, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

bench: .venv/dev $(SCHEMA) $(MODEL_FOLDERS) servers ## Measure every claim against the stored baseline; B=name runs one
	$(BIN)/python benchmarks/run.py $(B)

soak: .venv/dev $(SCHEMA) $(MODEL_FOLDERS) servers ## Run the long tests: ten minutes of mixed load; SERVICES=faces,images,vectors: a worker without texts
	$(BIN)/python benchmarks/soak.py $(if $(SERVICES),--services $(SERVICES))

fuzz: .venv/dev $(MODEL_FOLDERS) ## Send 10,000 damaged images, or COUNT; SEED=n repeats
	$(BIN)/python benchmarks/fuzz.py $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

chaos: .venv/dev $(SCHEMA) $(MODEL_FOLDERS) servers ## Kill workers, Redis and PostgreSQL under load, 20 times or ROUNDS; SEED=n repeats; SHAPE=replicas|redis-journal|supervised
	PYTHONPATH=tests $(BIN)/python -m chaos $(TEST_MODELS) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(if $(SHAPE),--shape $(SHAPE))

docs: .venv/dev ## Write the documents that are generated from the code
	$(BIN)/python docs/generate.py

init-db: .venv/runtime ## Make or migrate the database
	$(BIN)/phalanx db migrate

model: $(MODEL_FOLDERS) ## Pull the models that tests and benchmarks use

servers: ## Install the servers that tests start: Redis and PostgreSQL, from the distribution
	@tests/servers/install.sh

lock: .venv/dev ## Resolve the dependencies anew and pin them with hashes
	$(BIN)/python docs/lock.py

fmt: .venv/dev ## Format the code and mend what lint can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was built here, .venv included
	rm -rf $(SCHEMA) .venv .build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

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

$(SCHEMA): $(PROTOS) hatch_build.py | .venv/runtime
	$(BIN)/python hatch_build.py

$(MODEL_FOLDERS): .venv/runtime
	MODEL_DIR=$(TEST_MODELS) $(BIN)/phalanx models pull $(@F)
	@touch $@
