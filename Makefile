# Every target sets itself up: the first call installs into .venv, later calls install nothing.
# `make install` would make a file of install.sh by a built-in rule.
MAKEFLAGS += --no-builtin-rules
.PHONY: install quickstart test ui chat serve check format lock docs
.DEFAULT_GOAL := quickstart

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.installed-tools
MODULE := chatllama_pipeline.definitions
# One absolute home for all: so the quickstart's runs show in the UI.
export DAGSTER_HOME := $(CURDIR)/dagster_home
export PYTHONWARNINGS := ignore:Function `,ignore:Parameter `include_sources`
# Of one run: make quickstart OVERRIDES='{"seed": 1}' PROMOTE=true
OVERRIDES ?= {}
PROMOTE ?= false
# Of the tests: each worker's children take up to two cores.
WORKERS ?= 2

$(INSTALLED): pyproject.toml constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: python3 is " + sys.version)'
	@./install.sh $(VENV)
	@touch $@

# What tests and checks need on top of what runs need.
$(TOOLS): $(INSTALLED)
	@./install.sh $(VENV) '[dev]'
	@touch $@

install: $(INSTALLED)

quickstart: $(INSTALLED)
	@$(BIN)/chatllama make quickstart --overrides '$(OVERRIDES)' $(if $(filter true,$(PROMOTE)),--promote)

test: $(TOOLS)
	@$(BIN)/pytest -q -n $(WORKERS)

ui: $(INSTALLED)
	@$(BIN)/chatllama ui

chat: $(INSTALLED)
	@$(BIN)/chatllama chat quickstart

serve: $(INSTALLED)
	@$(BIN)/chatllama serve quickstart

check: $(TOOLS)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/dagster definitions validate -m $(MODULE) --log-level error
	@$(MAKE) --no-print-directory test

format: $(TOOLS)
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# Newest versions that pyproject's ranges admit; torch stays, since its newer builds bring CUDA.
lock:
	python3 -m venv --clear .venv-lock
	grep '^torch==' constraints.txt > .venv-lock/torch.txt
	.venv-lock/bin/pip install --quiet -c .venv-lock/torch.txt -e '.[dev]'
	.venv-lock/bin/pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\).*/\1/' > constraints.txt
	rm -rf .venv-lock

docs: $(INSTALLED)
	$(BIN)/python -m assets.docs docs/*.md docs/*/*.md
