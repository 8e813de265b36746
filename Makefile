# Each target installs its dependencies into $(VENV) on the first run.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
WORKERS ?= 2
SHARD ?= 1/1

.PHONY: help demo test test-all lint types docs site-check tutorials bench clean

help:
	@echo "make demo      train lenet5 on handwritten digits, classify images, show a model card"
	@echo "make test      lint, type-check and run the tests"
	@echo "make test-all  run all tests on every full-size network, including slow tests;"
	@echo "               SHARD=2/6 runs the second of six parts"
	@echo "make lint      lint and type-check"
	@echo "make docs      build the documentation into docs/_build/html"
	@echo "make site-check  build it and check every page in chromium"
	@echo "make tutorials run the tutorials whose code has changed and store their outputs"
	@echo "make bench     run all benchmarks and write the results to benchmarks/results"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[train]"
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ $(VENV)/.demo $(VENV)/.docs

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/cnnarch train lenet5 --data digits --output $(RUN) --overwrite
	$(BIN)/cnnarch predict --model $(RUN) --data digits
	$(BIN)/cnnarch info resnet50

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

test-all: lint docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal --all --shard $(SHARD) --timeout 3600

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going -b html docs docs/_build/html

site-check: $(VENV)/.test docs
	$(BIN)/pytest -n 0 --all --timeout 1200 tests/site

tutorials: $(VENV)/.test
	$(BIN)/python -m docs.notebooks

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist docs/_build docs/_generated runs
