# Every target installs what it needs into .venv when that is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
MADE_FROM := pyproject.toml constraints.txt $(wildcard lts_ray/runtime/kernels/*) serve/policies/decision.c

.PHONY: quickstart test lint serve clean

quickstart: .venv/installed
	$(BIN)/lts-ray quickstart

# The quickstart's model and frontier when it has run, else the checkpoint that ships.
serve: .venv/installed
	$(BIN)/lts-ray serve $(wildcard runs/quickstart/serve.yaml)

# Tests that only compute, and know no clock.
COMPUTING := $(addprefix tests/,models runtime quantisation decoding spaces proxies replay text search/algorithms)

# What starts Ray mostly waits: what only computes takes the time that it leaves. After that all else runs in two
# processes, for two cores, a file in one of them.
test: .venv/installed-dev
	nice -n 19 $(BIN)/pytest --quiet $(COMPUTING) > .venv/computing.log 2>&1 & computing=$$!; \
	$(BIN)/pytest tests/cluster; cluster=$$?; \
	wait $$computing; computed=$$?; cat .venv/computing.log; test $$cluster = 0 && test $$computed = 0
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(addprefix --ignore=,tests/cluster $(COMPUTING))

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/code_lines.py

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: $(MADE_FROM)
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[quickstart]'
	touch $@

.venv/installed-dev: $(MADE_FROM)
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[quickstart,dev]'
	touch .venv/installed $@
