# Everything from nothing: `make demo` trains, exports and answers a query; `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test lint types clean

help:
	@echo "make demo     install, train on the embedded marketplace, export, answer a query"
	@echo "make test     install, run all tests"
	@echo "make lint     ruff and mypy"
	@echo "make clean    delete .venv and the prepared data; runs stay"

install: $(VENV)/installed

# pip puts torch in place (it knows this machine's settings for it); uv finds that and resolves the rest in seconds.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[train,test]'
	touch $@

demo: install
	rm -rf runs/demo bundles/demo
	$(BIN)/python train.py run_dir=runs/demo hydra.run.dir=runs/demo
	$(BIN)/python export.py run=runs/demo out=bundles/demo
	$(BIN)/python -m twotower.serving.retriever bundles/demo sku-00001 sku-00002

test: install # two processes of several threads each would wait for one another
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

clean: # runs, bundles and MLflow stay
	rm -rf $(VENV) prepared
