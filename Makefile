# The two commands: `make demo` runs the main job, `make test` checks everything. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGES ?=
# A CPU build of torch, so that no gigabytes of CUDA come along; on GPU machines: make TORCH=torch.
TORCH ?= torch==2.13.0
export WARMER_MODELS_DIR ?= $(CURDIR)/$(VENV)/models

.PHONY: help demo test test-long lint types protos proto-check unit clean

help:  ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.services: pyproject.toml services/common/weights.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e '.[services,demo]'
	$(BIN)/warmer models install
	touch $@

$(VENV)/.dev: $(VENV)/.services
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(VENV)/.services  ## Set up, start the services, index photographs, hunt (IMAGES=DIR for your own)
	$(BIN)/warmer demo $(if $(IMAGES),--images "$(IMAGES)")

test: $(VENV)/.dev lint types proto-check unit  ## Set up and check everything

lint: $(VENV)/.dev  ## ruff and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

proto-check: $(VENV)/.dev  ## buf lint, and that the committed stubs are what protos/ gives
	$(BIN)/buf lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/protos.py --check

protos: $(VENV)/.dev  ## Generate the stubs
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/protos.py

unit: $(VENV)/.dev  ## All tests but the long ones
	$(BIN)/python -m pytest -m "not long"

test-long: $(VENV)/.dev  ## The tests that take minutes
	$(BIN)/python -m pytest -m long

clean:  ## Remove the virtual environment and the demo's folder
	rm -rf $(VENV) demo build dist
