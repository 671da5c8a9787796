# Everything happens in .venv, made by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .cache/lowest

# A process that finds no compiled modules compiles torch anew, for 4 s, and some tests start several.
# They are kept in .venv, whatever the environment says, so that the tree stays clean.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache

.PHONY: help demo test check docs slow lowest clean

help:  ## what there is to do
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /	/'

demo: $(STAMP)  ## distill the bundled digits into one image per class, judge them, write the report
	@$(BIN)/attar distill digits --ipc 1 --out runs/demo

test: $(STAMP)  ## the quick tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

check: $(STAMP)  ## style, types, which room may import which, and that the documentation builds
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python tools/docs.py --check
	@$(MAKE) --no-print-directory docs

docs: $(STAMP)  ## build the documentation into site/, offline; a broken link is an error
	@$(BIN)/python tools/docs.py
	@$(BIN)/zensical build --strict --clean

slow: $(STAMP)  ## the tests that need minutes; those on real photographs want ATTAR_DATA
	@$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --durations 10

lowest: $(STAMP)  ## the lowest versions that pyproject.toml admits: the command line, and a short run; UV_TORCH_BACKEND=cpu saves 4 GB
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	@$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e .
	@$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python "pytest>=8.3" "hypothesis>=6.115"
	@$(LOWEST)/bin/python -m pytest tests/cli -x -k "help or version or list"
	@rm -rf $(LOWEST)/run
	@$(LOWEST)/bin/attar distill digits --ipc 1 --time 20s --out $(LOWEST)/run

clean:  ## delete the environment and the caches
	rm -rf $(VENV) site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "attar needs Python 3.11 or newer; found $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing attar into $(VENV); the first time torch comes along, which takes a while"
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e . --group dev
	@touch $(STAMP)
