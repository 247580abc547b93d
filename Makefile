# Everything runs in .venv, installed from requirements/*.txt, where every package is pinned and hash-checked.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test lint format bench faults soak fuzz lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

run: $(VENV)/run.installed  ## serve on an embedded operator and print a ready-to-paste curl
	@$(BIN)/bidstream-svc serve --dev

test: $(VENV)/dev.installed  ## run every test
	$(BIN)/python -m pytest

lint: $(VENV)/dev.installed  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.installed  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.installed  ## measure; see benchmarks/README.md
	$(BIN)/python -m benchmarks

faults: $(VENV)/dev.installed  ## everything that can go wrong, at length; writes docs/reliability.md
	$(BIN)/python -m tests.faults --write docs/reliability.md

SOAK_SECONDS ?= 120
soak: $(VENV)/dev.installed  ## full load with a key refresh every two seconds, for SOAK_SECONDS
	$(BIN)/python -m tests.faults.soak --seconds $(SOAK_SECONDS)

FUZZ_SECONDS ?= 30
FUZZ_TARGETS ?= token layers key_response envelope http settings
fuzz: $(VENV)/fuzz.installed  ## fuzz each of FUZZ_TARGETS for FUZZ_SECONDS, guided by coverage
	for target in $(FUZZ_TARGETS); do \
	  $(BIN)/python -m tests.fuzz $$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 || exit 1; \
	done

lock: $(VENV)/dev.installed  ## renew requirements/*.txt from pyproject.toml
	$(PIP_INSTALL) uv
	for name in run dev; do \
	  groups=$$([ $$name = run ] && echo "--group build" || echo "--group dev"); \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
	    --annotation-style line pyproject.toml $$groups --output-file requirements/$$name.txt || exit 1; \
	done

clean:  ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.installed: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) --require-hashes -r requirements/run.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.installed: requirements/dev.txt $(VENV)/run.installed
	$(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/fuzz.installed: requirements/fuzz.txt $(VENV)/dev.installed
	$(PIP_INSTALL) --require-hashes -r requirements/fuzz.txt
	@touch $@
