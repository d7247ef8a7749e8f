# Every target calls `install` first, so a fresh clone needs nothing but make and Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONCE ?=

.DEFAULT_GOAL := help
.PHONY: help install run test check format bench clean

help:  ## Show what can be made.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed  ## Create .venv with everything pinned by constraints.txt.

$(VENV)/installed: pyproject.toml constraints.txt tools/bootstrap.sh
	@PYTHON=$(PYTHON) sh tools/bootstrap.sh $(VENV)
	@touch $@

run: install  ## Start the engine with the sample voice menu and place a call (ONCE=1: end after it).
	@$(BIN)/python -m samples.voice_menu.run $(if $(ONCE),--once)

test: install  ## Run every test; installs the SIP clients the tests call (sipp, baresip) where it may.
	@sh tools/peers.sh
	@$(BIN)/python -m pytest

check: install  ## Format, lint and type-check.
	@if [ -n "$$CI" ]; then $(BIN)/ruff format --check .; else $(BIN)/ruff format .; fi
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: install  ## Measure; prints ratios, writes nothing.
	@$(BIN)/python -m tests.bench

clean:  ## Remove what install made.
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .hypothesis .pytest_cache
