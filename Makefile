# Needs python3.11 and make; everything else goes into .venv with pinned versions.
PYTHON ?= python3.11
STUDY ?= studies/scaling.yaml
VENV := .venv
# Texts of one's own for the benchmarks, and their column where it isn't the one with the longest cells.
export DATA COLUMN
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup study quick test test-slow faults lint bench bench-full schema ui clean
.DEFAULT_GOAL := help

help:
	@echo "make quick    three small models in about two minutes"
	@echo "make study    the whole of studies/scaling.yaml (STUDY=FILE for another)"
	@echo "make ui       MLflow on 127.0.0.1 over what is in mlruns/"
	@echo "make test     the test suite; make test-slow: the slow tests too; make lint: ruff and mypy"
	@echo "make faults   break studies in every way and compare them with untouched ones; writes the table of docs/reliability.md"
	@echo "make bench    speed in half an hour, into benchmarks/results/ and docs/performance.md (DATA=FILE.csv for other texts)"
	@echo "make bench-full  the same with more pairs and nothing scaled, the peers installed: hours"
	@echo "make setup    only install; make schema: write docs/study.md, docs/results.md and the editors' schema"
	@echo "make clean    remove .venv and caches; never touches mlruns/"

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned dependencies into $(VENV), once"
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev,hub]'
	touch $@

setup: $(VENV)/installed

study: setup
	$(RUN) -m harness.run $(STUDY)

quick: setup
	$(RUN) -m harness.run studies/quick.yaml

ui: setup
	$(RUN) -m harness ui

test: $(VENV)/installed-dev
	$(RUN) -m pytest -n 2

test-slow: $(VENV)/installed-dev
	$(RUN) -m pytest -n 2 -m 'not gpu'

faults: $(VENV)/installed-dev
	FAULTS=200 FAULTS_TABLE=docs/reliability.md $(RUN) -m pytest -n 2 --dist worksteal tests/faults -m 'not gpu' --timeout 3000

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: setup
	$(RUN) -m benchmarks.notebook
	$(RUN) -m benchmarks.peers
	$(RUN) -m benchmarks.crew --sizes 1,4,16
	$(RUN) -m benchmarks.study --within 3m
	$(RUN) -m benchmarks.study --assignment
	$(RUN) -m benchmarks.floor
	$(RUN) -m benchmarks.page

$(VENV)/installed-peers: $(VENV)/installed
	$(PIP) -e '.[peers]'
	touch $@

bench-full: $(VENV)/installed-peers
	$(RUN) -m benchmarks.notebook --full
	$(RUN) -m benchmarks.peers --rungs 87k,557k,5M,10M
	$(RUN) -m benchmarks.crew
	$(RUN) -m benchmarks.study
	$(RUN) -m benchmarks.study --assignment
	$(RUN) -m benchmarks.floor
	$(RUN) -m benchmarks.page

schema: setup
	$(RUN) -m harness.reference

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './mlruns/*' -prune -exec rm -rf {} +
