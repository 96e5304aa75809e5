# Two commands to begin with: `make run` and `make test`. `make help` lists all.
# Needed: make and Python 3.11 or newer. Everything else goes into .venv/, which can be deleted at any time.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
# The interpreter that makes the environment: `make PYTHON=/path/to/python3.12 test` chooses another one.
PYTHON ?=
ARGS ?=
FUZZ_SECONDS ?= 60

# What a test result depends on; a run in which every test was required counts apart from one that may skip.
SOURCES := $(shell find codec middleware broker tests spec -type f ! -path '*/__pycache__/*' ! -path '*/.*' 2>/dev/null) \
	pyproject.toml Makefile README.md
TESTED := $(VENV)/.tested$(if $(ACEBROKER_REQUIRE_ALL),-all)

.PHONY: help run setup typing-environment test check format lint types house conformance mutants fuzz bench profile

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## start the broker (ARGS="--listen 127.0.0.1:1884" passes options on)
	@exec $(BIN)/trio-acebroker serve $(ARGS)

setup: $(VENV)/.installed-test ## make .venv/ with everything that tests need

test: $(VENV)/.installed-test ## run all tests (ARGS="tests/codec -k name" runs some)
	$(PY) -m pytest $(ARGS)
	@$(if $(ARGS),true,touch $(TESTED))

check: format lint types house $(TESTED) ## format, lint, types, house rules, and the tests unless they passed since the last change
	@echo "check: all passed"

format: $(VENV)/.installed-test ## is everything in the one format? (`.venv/bin/ruff format` puts it there)
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed-test ## ruff's rules
	$(BIN)/ruff check .

types: $(VENV)/.installed-test ## mypy, strict
	$(BIN)/mypy

house: $(VENV)/.installed-test ## the rules of the house: who imports whom, names, sizes
	$(PY) -m pytest -q tests/house

conformance: $(VENV)/.installed-test ## run the tests of MQTT's numbered statements, print what is covered
	$(PY) -m tests.conformance.report $(ARGS)

mutants: $(VENV)/.installed-test ## break the code in known ways: each must make a test fail
	$(PY) -m tests.mutants $(ARGS)

fuzz: $(VENV)/.installed-test ## throw bytes at decoder and connections (FUZZ_SECONDS=60)
	$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

bench: $(VENV)/.installed-test ## cost per message, beside mosquitto where it is installed (needs a C compiler)
	$(PY) -m tests.bench $(ARGS)

profile: $(VENV)/.installed-test $(VENV)/.installed-bench ## where the CPU goes under the load of a benchmark row
	$(PY) -m tests.bench.profile $(ARGS)

$(TESTED): $(SOURCES) $(VENV)/.installed-test
	$(PY) -m pytest
	@touch $@

$(VENV)/.installed: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# an environment of its own: trio-typing hides Trio's types from mypy
typing-environment: $(VENV)-typing/.installed

$(VENV)-typing/.installed: pyproject.toml | $(PY)
	$(PY) -m venv $(VENV)-typing
	$(VENV)-typing/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[typing]'
	@touch $@

$(PY):
	@set -e; found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13 python3.14 python); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or newer is needed, and $(if $(PYTHON),$(PYTHON) is not,none was found in PATH)." >&2; \
		echo "Name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
		echo "$$found cannot make a virtual environment: its venv module is missing (Debian, Ubuntu: package python3-venv)." >&2; exit 1; \
	fi; \
	echo "making $(VENV)/ with $$($$found -c 'import sys; print(sys.executable, sys.version.split()[0])')"; \
	"$$found" -m venv $(VENV)
