# make notebooks   runs the whole sequence of notebooks          make test   lint, tests, notebooks
# make lab         opens JupyterLab on them                      make slow   the tests that take minutes
# make app         serves the studio of notebook 10 alone         make hard   kills, full disks, damaged inputs: an hour
# make class       notebook 00 over a folder: TASKS=folder       All set up .venv first. Choose with PYTHON=python3.12,
# VENV=dir, TORCH="torch==2.13.0+cpu --index-url ...".
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
ARGS ?=
TASKS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.dragnb-ready
PYTEST := $(BIN)/python -m pytest
JOBS ?= 2

# Uploads of up to 512 MiB: Jupyter's servers drop messages of more than 10 MiB and say nothing.
LARGE := "{'websocket_max_message_size': 536870912}"

# A page that was closed leaves its kernel: it is ended once it has said nothing for ten minutes. An open page keeps its
# kernel, and so does a run without one, which speaks at every step.
CULL := --MappingKernelManager.cull_idle_timeout=600 --MappingKernelManager.cull_interval=60 \
	--MappingKernelManager.cull_connected=False --MappingKernelManager.cull_busy=False

.PHONY: help setup notebooks class test lab app slow hard clean

help:
	@sed -n '1,5s/^# //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12'; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
		|| [ -z "$$(ls -A $(VENV) 2>/dev/null)" ] || [ -f $(VENV)/pyvenv.cfg ] \
		|| { echo '$(VENV) holds other things, which would be lost: choose another folder, make VENV=dir'; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { echo 'No virtual environment could be made. On Debian: apt install python3-venv'; exit 1; }
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[notebooks,test]'
	@touch $@

# ARGS reach the runner: make notebooks ARGS="--only 00 -p model sd15"
notebooks: setup
	$(BIN)/python tools/run_notebooks.py $(ARGS)

# One drag file after the other, each with its executed notebook; the page is outputs/class/index.html.
class: setup
	@[ -n "$(TASKS)" ] || { echo 'make class TASKS=folder: a folder of drag files'; exit 1; }
	$(BIN)/python tools/run_class.py "$(TASKS)" $(ARGS)

# Files side by side in JOBS processes, with one thread of torch each; the browser's, which wait for pages, afterwards.
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(PYTEST) tests notebooks --ignore tests/browser -n $(JOBS) --dist loadfile -p no:cacheprovider \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=1800
	OMP_NUM_THREADS=1 $(PYTEST) tests/browser -n $(JOBS) --dist loadfile -p no:cacheprovider

slow: setup
	$(PYTEST) tests -m slow -p no:cacheprovider

# kill -9, full disks, odd places, two at once, a hundred drags, broken networks, 100,000 damaged inputs: one table.
# An hour on two quiet cores; a twentieth of it: make hard ARGS="--share .05"
hard: setup
	$(BIN)/python -m tools.hard $(ARGS)

lab: setup
	$(BIN)/jupyter lab --ServerApp.tornado_settings=$(LARGE) $(ARGS) --notebook-dir=. notebooks

# The cells of the lesson are left out, so that the page is there at once; "../outputs" is outputs from there, too.
app: setup
	@$(BIN)/python -c 'import voila' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[app]'
	$(BIN)/jupyter nbconvert --log-level=WARN --to notebook --output-dir outputs --output studio_app \
		--TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=lesson notebooks/10_studio.ipynb
	$(BIN)/python -m voila outputs/studio_app.ipynb --Voila.tornado_settings=$(LARGE) $(CULL) $(ARGS)

clean:
	rm -rf dragnb.egg-info build/lib build/bdist.* .pytest_cache .ruff_cache
	find dragnb tests tools notebooks -name __pycache__ -prune -exec rm -rf {} +
	@[ ! -d build ] || rmdir --ignore-fail-on-non-empty build
	@echo 'Kept: $(VENV), and outputs with what was picked and exported there'
