# Two commands are all a fresh machine needs: `make demo` and `make test`. Each sets up what it uses.
# `make gpu` sets up nothing where there is a Python with torch: a machine with GPUs often has no network.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test versions gpu gpu-kit lint format pictures setup clean

demo: $(READY)
	$(BIN)/rankdeck demo

# Real ranks want all cores: their tests come one after another, the others two at a time.
test: $(READY)
	$(BIN)/python -m pytest -n 2 -m 'not slow and not versions'
	$(BIN)/python -m pytest -m slow

# The engines with the oldest and the newest supported transformers: before a release, and with a package index at hand.
versions: $(READY)
	$(BIN)/python -m pytest -m versions -s

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pictures: $(READY)
	$(BIN)/python -m docs.pictures

OUT ?= gpu-results
BUDGET ?=
PYTHON_VERSION ?= 3.12

# A Python that has torch is taken as it is: its build is the one that goes with the GPUs.
gpu:
	@test -e $(READY) || $(PYTHON) -c 'import torch' 2>/dev/null || $(MAKE) setup
	@python=$(PYTHON); test ! -e $(READY) || python=$(BIN)/python; \
	$$python -m tests.gpu --out "$(OUT)" $(if $(BUDGET),--budget $(BUDGET))

gpu-kit:
	@python=$(PYTHON); test ! -e $(READY) || python=$(BIN)/python; \
	$$python -m tests.gpu --kit --python-version $(PYTHON_VERSION)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV)
