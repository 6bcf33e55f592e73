# Two commands, each from nothing: `make demo` and `make test`. PYTHON=python3.12 chooses another
# interpreter; CONSTRAINTS= (empty) installs the newest versions instead of the tested ones.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP_CONSTRAINTS := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: demo test test-slow lint benchmark pictures clean

# The stamp is newer than what it was installed from, so a second `make` installs nothing.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_CONSTRAINTS) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_CONSTRAINTS) -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/geodeform demo --overwrite

# Ten minutes at most on two cores; what trains for longer, or every recipe, is in test-slow.
test: lint
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/benchmarks

# The README's pictures, from the packaged scene.
pictures: $(VENV)/.installed-dev
	$(BIN)/python notebooks/make_pictures.py

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info
