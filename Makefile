# Every target sets itself up: the first call creates .venv, later calls install nothing.
.PHONY: quickstart test ui chat check format lock readme
.DEFAULT_GOAL := quickstart

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MODULE := chatllama_pipeline.definitions
# One absolute home for all: so the quickstart's runs show in the UI.
export DAGSTER_HOME := $(CURDIR)/dagster_home
export PYTHONWARNINGS := ignore:Function `,ignore:Parameter `include_sources`
# Of one run: make quickstart OVERRIDES='{"seed": 1}' PROMOTE=true
OVERRIDES ?= {}
PROMOTE ?= false
# Of the tests: each worker's children take up to two cores.
WORKERS ?= 2
RUN_CONFIG = {"loggers": {"console": {}}, "resources": {"run_options": {"config": \
	{"overrides": $(OVERRIDES), "promote": $(PROMOTE)}}}}

$(INSTALLED): pyproject.toml constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: python3 is " + sys.version)'
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(INSTALLED)
	@started=$$(date +%s.%N) && \
	$(BIN)/dagster asset materialize -m $(MODULE) --select '*' --partition quickstart --config-json '$(RUN_CONFIG)' && \
	$(BIN)/python -m chatllama_pipeline status quickstart --since $$started

test: $(INSTALLED)
	@$(BIN)/pytest -q -n $(WORKERS) --dist worksteal

ui: $(INSTALLED)
	@$(BIN)/dagster dev -w workspace.yaml --host 127.0.0.1

chat: $(INSTALLED)
	@$(BIN)/python -m chatllama_pipeline chat quickstart

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/dagster definitions validate -m $(MODULE) --log-level error
	@$(MAKE) --no-print-directory test

format: $(INSTALLED)
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# Newest versions that pyproject's ranges admit; torch stays, since its newer builds bring CUDA.
lock:
	python3 -m venv --clear .venv-lock
	grep '^torch==' constraints.txt > .venv-lock/torch.txt
	.venv-lock/bin/pip install --quiet -c .venv-lock/torch.txt -e '.[dev]'
	.venv-lock/bin/pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\).*/\1/' > constraints.txt
	rm -rf .venv-lock

readme: $(INSTALLED)
	$(BIN)/python -m assets.readme README.md
