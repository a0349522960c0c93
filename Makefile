# The commands a person, CI and the pre-commit hook share. `make` alone lists them.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help run test lint format bench peers screenshot docs clean env dev-env

PYTHON := .venv/bin/python
# cpu or cuda to overrule what the machine offers
ENGINE ?= auto
# passed on, as in: make run ARGS="model.gguf --ctx 8192", make test PYTEST_ARGS="-k cancel"
ARGS ?=
PYTEST_ARGS ?=
SOURCES := edgeapp converters tests benchmarks packaging

help: ## list these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

run: env ## set up whatever is missing, then open the chat (ARGS="MODEL --ctx 8192")
	@.venv/bin/edgeapp run $(ARGS)

test: lint ## everything CI checks: format, lint, types, import contracts, all tests
	@$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

lint: dev-env ## format check, ruff, mypy --strict, import contracts
	@$(PYTHON) -m ruff format --check $(SOURCES)
	@$(PYTHON) -m ruff check $(SOURCES)
	@$(PYTHON) -m mypy
	@MYPYPATH=packaging/engine $(PYTHON) -m mypy packaging/engine/*.py
	@.venv/bin/lint-imports --no-logo

format: dev-env ## rewrite the code the way the format check wants it
	@$(PYTHON) -m ruff format $(SOURCES)
	@$(PYTHON) -m ruff check --fix $(SOURCES)

bench: dev-env peers ## measure edgeapp beside llama.cpp's own programs (on an idle machine)
	@set -e; for script in benchmarks/[!_]*.py; do $(PYTHON) -m "benchmarks.$$(basename "$$script" .py)"; done

peers: dev-env ## build llama-bench, llama-server and others to measure against (.cache/peers/bin)
	@$(PYTHON) packaging/engine/peers.py

screenshot: dev-env ## redraw the README's picture of the chat, with the real demo model
	@$(PYTHON) -m tests.tui.screenshot docs/chat.svg

docs: dev-env ## write docs/cli.md anew from the program's own --help
	@$(PYTHON) -m tests.command_reference docs/cli.md

clean: ## remove what make created here; the per-user engine cache stays
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist

env:
	@packaging/engine/bootstrap.sh demo $(ENGINE)

dev-env:
	@packaging/engine/bootstrap.sh demo,dev $(ENGINE)
