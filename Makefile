# make demo, make test: each makes its environment if it is missing. Needs Python 3.10 or newer with pip and venv, and make.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= demo-results

# What `make bench` runs, in this order; docs/benchmarks.md marks the same with *.
BENCHMARKS := import_time when_it_pays fit_coverage meter_faults meter_overhead measure_on_live_trees meters_against_peers hostile_clients

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz test-fleet lint docs bench wheel clean

help:
	@echo "make demo   measure this machine, fit, show what updates cost, train; results in $(OUT)/"
	@echo "make test   run the tests"
	@echo "make fuzz   the property tests with draws that differ each time"
	@echo "make test-fleet  the tests of a real fleet: superlink and supernodes as processes"
	@echo "make lint   ruff, mypy and the order of imports"
	@echo "make docs   the documentation site into site/; warnings are errors"
	@echo "make bench  the benchmarks that take minutes, one after another"
	@echo "make wheel  build the wheel into dist/"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/cwmp-profile demo -o $(OUT)

test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

fuzz: $(READY)
	CWMP_HYPOTHESIS=fuzz $(BIN)/python -m pytest -m hypothesis $(PYTEST_ARGS)

test-fleet: $(READY)
	$(BIN)/python -m pytest -m fleet tests/federated

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/cwmp/typed_api.py
	$(BIN)/lint-imports

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site

bench: $(READY)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

wheel: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build site $(OUT)
