# Every target makes .venv when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint serve clean

quickstart: .venv/installed
	$(BIN)/lts-ray quickstart

test: .venv/installed
	$(BIN)/pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The quickstart's model and frontier when it has run, else the checkpoint that ships.
serve: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" serve run $(if $(wildcard runs/quickstart/serve.yaml),runs/quickstart/serve.yaml,serve.app:build)

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt $(wildcard lts_ray/runtime/kernels/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[quickstart,dev]'
	touch $@
