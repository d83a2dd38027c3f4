# Everything runs in .venv, made on first use; a stamp file there says what is installed.

PYTHON ?= python3
VENV ?= .venv
OUT ?=
RUNS ?= runs
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --no-input --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo dashboard test bench docs check format format-check lint types contracts clean notebooks

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install, then run the demo into a new folder under runs/ (or OUT=...)
	@out='$(OUT)'; \
	if [ -z "$$out" ]; then out=runs/demo; [ ! -e "$$out" ] || out="$$out-$$(date +%Y%m%d-%H%M%S)"; fi; \
	$(BIN)/headscope demo --out "$$out"

dashboard: $(VENV)/.installed ## look at the runs under runs/ (or RUNS=...) in the browser
	$(BIN)/headscope dashboard '$(RUNS)'

test: $(VENV)/.installed-dev ## run all tests, the slow ones included (PYTEST_ARGS=... is passed on)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

bench: $(VENV)/.installed-dev ## speed and memory against other libraries, in one table (ten minutes, on a quiet machine)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

docs: $(VENV)/.installed-dev ## the documentation, into build/site; any warning is an error
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(VENV)/.installed-dev ## run the notebooks and keep what they show (needs Chrome or Chromium for the pictures)
	OMP_NUM_THREADS=1 $(BIN)/python -m notebooks.execute

check: format-check lint types contracts test ## all that must pass before a merge

format: $(VENV)/.installed-dev ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

format-check: $(VENV)/.installed-dev ## is the code formatted?
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed-dev ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## mypy
	$(BIN)/mypy

contracts: $(VENV)/.installed-dev ## import-linter: which folder may import which
	$(BIN)/lint-imports --no-logo

clean: ## remove caches and packaging leftovers; keeps .venv, build/ and runs/
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist *.egg-info
	find . \( -path './$(VENV)' -o -path ./.git -o -path ./build -o -path ./runs \) -prune -o \
		-type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/pip:
	@command -v '$(PYTHON)' >/dev/null || \
		{ echo "error: '$(PYTHON)' is not on the path; name a Python 3.11 or newer, as in: make PYTHON=python3.12"; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: '$(PYTHON)' is $$('$(PYTHON)' -V 2>&1), but 3.11 or newer is needed; name one, as in: make PYTHON=python3.12"; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: '$(PYTHON)' lacks the venv module; install it (on Debian and Ubuntu: the package python3-venv)"; exit 1; }
	'$(PYTHON)' -m venv $(VENV)

# Alone and first: with the version settled, the rest cannot make pip fetch another build of torch.
$(VENV)/.torch: constraints.txt | $(BIN)/pip
	$(PIP) torch
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@
