# Needs make, Python 3.11 or later and the package index; everything else is set up here.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
# What is compiled is kept, whatever the environment says: every process of a test would compile it all anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
RUN := .venv/.run-installed
DEV := .venv/.dev-installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
COMPILE := --quiet --upgrade --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
QUICK := -m pytest -q -m "not slow" -n 3
SOAK_S := 600
FUZZ_S := 60

# The first Python on the path that is new enough and can make environments.
PYTHON = $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$python"; exit; }; done)

.PHONY: help serve test quick lint types format others suite coverage bench bench-quick bench-clients soak fuzz figures pins clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

serve: $(RUN)  ## Run a Modbus TCP server on 127.0.0.1:5020 with values that move
	$(BIN)/everbus serve --demo

test: lint types others suite  ## Everything: what a change must pass before it lands

quick: $(DEV)  ## The inner loop: style, and every test that is not slow
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/python $(QUICK)

lint: $(DEV)  ## Style, layers, the mirror of the tests, the public API, the ledger, the corpus
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/mirror.py
	$(BIN)/python tools/make_sync.py --check
	$(BIN)/python tools/public_api.py --check
	$(BIN)/python tools/conformance.py --check
	$(BIN)/python -m tools.corpus --check

types: $(DEV)  ## Types: all of the code strictly, and the public API as editors see it
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" basedpyright --verifytypes everbus --ignoreexternal

format: $(DEV)  ## Rewrite the code in the project's style
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format .

others: $(DEV)  ## The quick part on each other supported Python of this machine
	@pythons=$$($(BIN)/python tools/pythons.py) || exit 1; \
	for python in $$pythons; do \
		version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1; \
		echo "== the quick part on Python $$version"; \
		$(MAKE) --no-print-directory PYTHON="$$python" ".venvs/$$version/.test-installed" || exit 1; \
		".venvs/$$version/bin/python" $(QUICK) || exit 1; \
	done

suite: $(DEV)  ## The whole test suite, its quick part with branch coverage: protocol/ and service/ need all of it
	@echo "== the whole suite on $$($(BIN)/python --version): what is slow, by itself; what is patient; the rest with coverage"
	$(BIN)/python -m pytest -q -m "slow and not patient"
	$(BIN)/python -m pytest -q -m patient -n 3 --dist worksteal
	$(BIN)/python $(QUICK) --cov --cov-report=
	@$(BIN)/coverage report --format=total | sed 's/.*/branch coverage of everything: & %/'
	@$(BIN)/coverage report --fail-under=100 --include='src/everbus/protocol/*,src/everbus/service/*'

coverage: suite  ## The whole suite, then coverage line by line in htmlcov/index.html
	$(BIN)/coverage report
	$(BIN)/coverage html --quiet

bench: $(DEV)  ## everbus beside its peers, on a quiet machine; kept in bench/results
	$(BIN)/python -m bench; verdict=$$?; $(BIN)/python -m tools.figures --write && exit $$verdict

bench-quick: $(DEV)  ## The same in two minutes, nothing kept
	$(BIN)/python -m bench --quick

bench-clients: $(DEV)  ## The clients beside their peers, on a server in C; nothing is kept
	$(BIN)/python -m bench --clients

soak: $(DEV)  ## Ten minutes of every abuse at random on everbus serve; the report goes to docs/soak
	@mkdir -p docs/soak .venvs/soak
	$(BIN)/everbus soak --scenario mixed --duration $(SOAK_S) --report .venvs/soak/report.md --json > .venvs/soak/report.json
	cp .venvs/soak/report* docs/soak/
	$(BIN)/python -m tools.figures --write

fuzz: $(DEV)  ## Coverage-guided fuzzing of framers, decoders and sessions, FUZZ_S seconds each
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_S)

figures: $(DEV)  ## Measure the churn comparison of README.md anew, and render all of its figures
	$(BIN)/python -m tools.figures --measure

pins:  ## Resolve requirements/*.txt anew, on the oldest supported Python
	python3.11 -m venv .venvs/pins
	.venvs/pins/bin/python $(PIP_INSTALL) pip-tools
	.venvs/pins/bin/pip-compile $(COMPILE) --extra cli --build-deps-for editable -o requirements/run.txt pyproject.toml
	.venvs/pins/bin/pip-compile $(COMPILE) -o requirements/test.txt requirements/test.in
	.venvs/pins/bin/pip-compile $(COMPILE) -o requirements/dev.txt requirements/dev.in

clean:  ## Remove everything that was made here
	rm -rf .venv .venvs build dist htmlcov .coverage .coverage.* .hypothesis .fuzz
	rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments: a stamp newer than its requirements means that nothing is to be done --------

$(RUN): requirements/run.txt pyproject.toml | .venv/bin/python
	$(BIN)/python $(PIP_INSTALL) -r requirements/run.txt
	$(BIN)/python $(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml | .venv/bin/python
	$(BIN)/python $(PIP_INSTALL) -r requirements/dev.txt
	$(BIN)/python $(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $(RUN) $@

.venvs/%/.test-installed: requirements/test.txt pyproject.toml | .venvs/%/bin/python
	.venvs/$*/bin/python $(PIP_INSTALL) -r requirements/test.txt
	.venvs/$*/bin/python $(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

.venv/bin/python .venvs/3.11/bin/python .venvs/3.12/bin/python .venvs/3.13/bin/python:
	@test -n "$(PYTHON)" || { echo "everbus needs Python 3.11 or later, with its venv module, on the path"; exit 1; }
	"$(PYTHON)" -m venv $(dir $(@D))
