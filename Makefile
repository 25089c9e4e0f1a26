# Each target makes .venv when there is none, and installs there only what it needs; pyproject.toml
# is looked at again only when it has changed.

.DEFAULT_GOAL := help
.PHONY: help slurm demo demo-slurm test bench check fix matrix chaos science
BIN := .venv/bin
ARGS ?=
WORKERS ?= 4

help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; \
	  do printf '  %-16s %s\n' "$$target" "$$text"; done

demo: .venv/.has-demo  ## Launch a simulation, kill its server, read the result through a new one
	$(BIN)/outlast demo $(ARGS)

demo-slurm: .venv/.has-demo  ## The same on a Slurm cluster; brings one up if none answers (root)
	bash tests/services/slurm/with.sh $(BIN)/outlast demo --engine slurm $(ARGS)

test: .venv/.has-test  ## Run the tests (ARGS="-k name" for some, WORKERS=0 for one at a time)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: .venv/.has-bench  ## Measure what Outlast costs (ARGS="--only launch", ARGS=--write for docs/)
	$(BIN)/python -m benchmarks $(ARGS)

science: .venv/.has-science  ## Run the tests of the scientific programs only
	$(BIN)/pytest -n $(WORKERS) --dist loadfile tests/science $(ARGS)

slurm: .venv/.has-test  ## Run the tests on a Slurm cluster only (tests/services/slurm/up.sh first)
	$(BIN)/pytest -n $(WORKERS) --dist load --maxschedchunk 1 -m slurm $(ARGS)

matrix: .venv/.has-test  ## Kill, freeze and fail every step of a job's life; writes docs/crash-matrix.md
	$(BIN)/python -m tests.support.crash_matrix --write

chaos: .venv/.has-test  ## Kill servers, keepers and shims at random (ARGS="--jobs 300 --kills 300")
	$(BIN)/python -m tests.support.chaos $(ARGS)

check: .venv/.has-dev  ## Run the linters, the type checker and the layer test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_layers.py

fix: .venv/.has-dev  ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# dev holds test, test holds demo, and all hold bench: what holds more marks what it holds as there.
.venv/.has-dev: HOLDS := .venv/.has-test .venv/.has-demo .venv/.has-bench
.venv/.has-test: HOLDS := .venv/.has-demo .venv/.has-bench
.venv/.has-demo: HOLDS := .venv/.has-bench
.venv/.has-science: pyproject.toml .venv/.has-test
	sh tests/support/get_science.sh
	@touch $@

.venv/.has-%: pyproject.toml | $(BIN)/pip
	@echo "Installing what is needed for '$*' into .venv ..."
	@$(BIN)/pip install -qq --disable-pip-version-check --retries 5 -e '.[$*]'
	@touch $@ $(HOLDS)

# pip is the last that comes into a new environment, so that half of one is made anew. A name may
# be there that does not work (a version manager's), therefore each is tried.
$(BIN)/pip:
	@for name in python3.13 python3.12 python3.11 python3; do \
	  if $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      >/dev/null 2>&1; then \
	    echo "Making .venv with $$($$name --version)"; \
	    exec $$name -m venv .venv; \
	  fi; \
	done; \
	echo "error: no Python 3.11 or newer with venv was found" >&2; exit 1
