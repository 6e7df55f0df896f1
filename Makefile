# make quickstart   a tiny model learns from a sandbox's tracebacks, three methods head to head
# make install      all that the tests and the documentation need
# make test         installs what is missing for the tests, and runs them
# make lint         ruff and pyright
# make docs         the site of these pages, in build/site
# make sandbox-image   the image of the docker sandbox
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRAINING := $(VENV)/.training
PIP := $(BIN)/pip --disable-pip-version-check install
CHECK_VERSION := -c 'import sys; sys.exit("Python 3.11 or newer is needed, " + sys.executable + " is " + sys.version.split()[0] + ". Remove $(VENV) if it is there, and name another with PYTHON=…") if sys.version_info < (3, 11) else None'

.PHONY: install quickstart test lint docs sandbox-image

install: $(INSTALLED)

$(BIN)/pip:
	@$(PYTHON) $(CHECK_VERSION)
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/pip
	@$(BIN)/python $(CHECK_VERSION)
	$(PIP) --editable '.[dev]'
	@$(PIP) --quiet --editable '.[reasoning]' || echo \
		"No Reasoning Gym: it needs a C compiler and Python's headers. Its tests are skipped."
	@touch $@ $(TRAINING)

$(TRAINING): pyproject.toml | $(BIN)/pip
	@$(BIN)/python $(CHECK_VERSION)
	$(PIP) --editable '.[train,report]'
	@touch $@

quickstart: $(TRAINING)
	$(BIN)/vpd compare --env vpd/MiniCode-v0 --model tiny-warm --algorithms vpd sdpo grpo \
		--seeds 0 1 2 --steps 200 --out runs/quickstart

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 $(PYTEST_FLAGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(INSTALLED)
	docs/build $(BIN)/zensical

sandbox-image:
	sandbox/image/build
