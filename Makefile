# Everything from nothing: `make demo` trains, exports and answers a query; `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Compiled once instead of in each process: uv compiles nothing, and an environment may forbid Python to keep it.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: help install demo demo-bundle test quick lint types docs gpu wheel wheel-check clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## put the package and all that it needs into .venv

# pip puts torch in place (it knows this machine's settings for it); uv finds that and resolves the rest in seconds.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[train,test]'
	touch $@

demo: install ## train on the embedded marketplace, export, answer a query
	rm -rf runs/demo bundles/demo
	$(BIN)/twotower train run_dir=runs/demo hydra.run.dir=runs/demo
	$(BIN)/twotower export run=runs/demo out=bundles/demo
	$(BIN)/twotower retrieve bundles/demo sku-00001 sku-00002
	@echo "with a page to click histories together: $(BIN)/twotower serve bundles/demo --ui"

demo-bundle: install ## make the bundle anew that `twotower demo` serves: a few minutes
	.ci/demo-bundle $(BIN)/python

# Two processes of several threads each would wait for one another: one thread each.
test: install ## run all tests; print the slowest 25
	$(PYTEST) --durations=25

quick: install ## run the fast tests
	$(PYTEST) -m "not slow"

lint: install ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## check types
	$(BIN)/mypy

docs: install ## build the documentation into site/, strictly
	$(BIN)/mkdocs build --strict

gpu: install ## measure on this machine's GPU, or at toy size on a CPU: make gpu ARGUMENTS=--toy
	PYTHON=$(BIN)/python experiments/benchmarks/gpu.sh $(ARGUMENTS)

wheel: install ## build the wheel into dist/
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

wheel-check: wheel ## the wheel in a fresh environment and an empty folder: train, export, verify, answer
	.ci/wheel-check $(PYTHON)

clean: ## delete .venv, built files and the prepared data; runs stay
	rm -rf $(VENV) prepared dist site
