# DSPex. `make` lists the targets. They need Python 3.11 to 3.14, make and git; `setup` installs everything else.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
JOBS ?= 5
# Where it is set, as in many images, every process compiles what it imports: 4 s of CPU for a command rather than 1.6.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## build .venv with everything, from the locked requirements

$(VENV)/.ready: requirements.lock pyproject.toml
	@deploy/bootstrap $(PYTHON) $(VENV)
	@touch $@

demo: setup ## run the demo: a real model on the embedded stack
	@$(BIN)/dspex demo

example: setup ## run examples/support_desk: an agent, retrieval and an optimised classifier, with the bundled model
	@PYTHONPATH=examples/support_desk $(BIN)/python -m support_desk

test: setup ## unit, store and integration tests, on their own servers and worker processes
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: lint types audit docs test ## everything that must pass before a change is merged

lint: setup ## ruff, and the layers of imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo

types: setup ## mypy, strict
	@$(BIN)/mypy

audit: setup ## check dependencies for known vulnerabilities (AUDIT_REQUIRED=1: fail if the databases are unreachable), and the repository for secrets
	@$(BIN)/python deploy/audit

format: setup ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: setup ## measure performance beside peers: QUICK=1, ONLY=noop,latency, REPEATS=5, GIB=5, KEEP=docs/explanation/performance
	@$(BIN)/python -m tests.performance.bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) \
		$(if $(REPEATS),--repeats $(REPEATS)) $(if $(GIB),--gib $(GIB)) $(if $(KEEP),--keep $(KEEP))

load: setup ## run 50 clients at their rate limit for 5 minutes, with a health check every second: MINUTES=5 CLIENTS=50
	@$(BIN)/python -m tests.performance.at_the_limit --minutes $(or $(MINUTES),5) --clients $(or $(CLIENTS),50)

linear: setup ## print what reading the slowest texts costs, in doubled sizes
	@$(BIN)/python -m tests.performance.linear_table

bench-compile: setup ## measure how fast signatures compile and validate, beside dspy and pydantic
	@$(BIN)/python -m tests.performance.bench_compile

bench-answers: setup ## measure how fast answers are read, whole and streamed, beside dspy's parsers
	@$(BIN)/python -m tests.performance.bench_answers

screenshots: setup ## take pictures of every page of the console, for a look and for the documentation
	@$(BIN)/python -m tests.screenshots build/screenshots docs/how-to/console

wheel: setup ## build the wheel into dist/
	@$(UV) build --wheel --quiet --out-dir dist

check-wheel: wheel ## install the wheel into an empty environment and run the demo and a worker from it
	@deploy/check-wheel

chaos: setup ## run every crash test (kill, disconnect, freeze, flush), then measure recovery beside Celery and DBOS
	@$(BIN)/python -m pytest tests/chaos -m "chaos or not chaos" -n $(JOBS) --dist worksteal -rP --show-capture=stdout
	@$(BIN)/python -m tests.chaos.recovery

history: setup ## histories of clients under faults, checked, and a table of them: SEEDS=5 HISTORY_SECONDS=240 CHAOS_SEED=…
	@$(BIN)/python -m tests.chaos.history --seeds $(or $(SEEDS),5)

cases: setup ## the verdict on each failure that users of this field reported
	@$(BIN)/python -m tests.cases

compat: setup ## run DSPy programs of every kind by plain DSPy and by DSPex, and compare: NAMES="react rlm" SHOW=1
	@$(BIN)/python -m tests.compat $(NAMES) $(if $(SHOW),--show)

test-dspy: ## run the tests of DSPy programs with another release, in an environment of its own: DSPY=3.4.0; else the newest, or a newer pre-release
	@deploy/bootstrap $(PYTHON) build/dspy-$(or $(DSPY),newest)
	@$(UV) pip install --quiet --python build/dspy-$(or $(DSPY),newest)/bin/python \
		$(if $(DSPY),dspy==$(DSPY),--prerelease allow --upgrade-package dspy dspy)
	@build/dspy-$(or $(DSPY),newest)/bin/python -m pytest -n $(JOBS) \
		tests/unit/test_dspy_*.py tests/unit/test_model_errors.py tests/unit/test_programs.py $(wildcard $(addprefix \
		tests/integration/test_,answers.py compat.py mcp_tools.py models.py program_models.py program_of_thought.py \
		programs.py retries.py user_text.py))
	@build/dspy-$(or $(DSPY),newest)/bin/python -m tests.compat --keep

fuzz-answers: setup ## fuzz the reader of answers for ten minutes, guided by coverage
	@$(UV) pip install --quiet --python $(BIN)/python "atheris>=3"
	@$(BIN)/python -m tests.performance.fuzz_answers -max_total_time=$(or $(SECONDS_LONG),600) -max_len=4000
	@echo "make fuzz-seeds adds what build/fuzz/answers holds to the seeds"

fuzz: setup ## fuzz the signature language for ten minutes, guided by coverage; make fuzz-answers: the reader of answers
	@$(UV) pip install --quiet --python $(BIN)/python "atheris>=3"
	@$(BIN)/python -m tests.performance.fuzz_signatures -max_total_time=$(or $(SECONDS_LONG),600) -max_len=400
	@echo "make fuzz-seeds adds what build/fuzz/finds holds to the seeds"

fuzz-seeds: setup ## add what fuzzing found to tests/performance/signature_seeds.zip and answer_seeds.zip
	@$(BIN)/python -m tests.performance.signature_seeds add build/fuzz/finds
	@$(BIN)/python -m tests.performance.signature_seeds add build/fuzz/answers --archive tests/performance/answer_seeds.zip

docs: build/docs/.ready ## build the site into site/; broken links are errors
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --config-file docs/site/mkdocs.yml
	@echo "site/index.html is built; make docs-serve shows it"

docs-serve: build/docs/.ready ## serve the site at http://127.0.0.1:8000 while you write
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs serve --config-file docs/site/mkdocs.yml --watch README.md --watch CHANGELOG.md

build/docs/.ready: docs/site/requirements.lock | setup
	@$(UV) venv --quiet --clear --python $(BIN)/python build/docs
	@$(UV) pip sync --quiet --python build/docs/bin/python --require-hashes docs/site/requirements.lock
	@touch $@

docs-reference: setup ## generate the reference pages from the code
	@$(BIN)/python -m docs.generate

check-monitoring: ## check the Prometheus rules with promtool, and run their tests
	@deploy/check-monitoring

check-deploy: setup ## check the image, compose file, manifests and workflow against their schemas
	@deploy/check

lock: setup ## resolve and lock the requirements
	@$(UV) pip compile --quiet --universal --all-extras --group dev --generate-hashes --no-emit-index-url \
		--no-header pyproject.toml --output-file requirements.lock
	@$(UV) pip compile --quiet --universal --extra worker --extra flower --extra serve --extra parquet --extra encryption --constraint requirements.lock \
		--overrides deploy/image-overrides.txt --generate-hashes --no-annotate --no-emit-index-url \
		--no-header pyproject.toml --output-file deploy/requirements.lock
	@$(UV) pip compile --quiet --universal --group docs --generate-hashes --no-annotate --no-emit-index-url \
		--no-header --output-file docs/site/requirements.lock

clean: ## remove all build products
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .import_linter_cache .pytest_cache

.PHONY: help setup demo example test check lint types audit format bench load linear bench-compile bench-answers wheel check-wheel check-monitoring check-deploy chaos history cases compat test-dspy fuzz fuzz-answers fuzz-seeds lock docs docs-serve docs-reference clean
