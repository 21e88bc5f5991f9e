# Every target sets up what it needs in .venv; PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests of one file stay in one process, which has what they share; the longest files come first (tests/conftest.py).
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check accuracy bench figures zoo chaos docs architecture lint wheel clean

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.run  ## the default run and its report
	rm -rf outputs/demo
	$(BIN)/cflow run hydra.run.dir=outputs/demo
	$(BIN)/cflow report outputs/demo

test: $(VENV)/.dev  ## the tests
	$(BIN)/python -m pytest $(PARALLEL)

check: lint $(VENV)/.dev  ## the tests, the long ones too and compiled as for users, and the linters
	JAX_DISABLE_MOST_OPTIMIZATIONS=false $(BIN)/python -m pytest $(PARALLEL) -m "slow or not slow"

lint: $(VENV)/.dev  ## style, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

accuracy: $(VENV)/.dev  ## how well the flows predict the optimizers; needs CIFAR-10 (see the README)
	$(BIN)/python -m benchmarks.accuracy

bench: $(VENV)/.dev  ## what a step of each process costs; needs CIFAR-10 (see the README)
	$(BIN)/python -m benchmarks.bench

figures: $(VENV)/.run  ## every figure of the papers, small, with its claims checked; under an hour on two cores
	$(BIN)/cflow figures --all

zoo: $(VENV)/.dev  ## cost of every model's derivatives, and its run through the edge; needs CIFAR-10
	$(BIN)/python -m benchmarks.zoo

chaos: $(VENV)/.dev  ## faults injected into runs, and what they cost
	$(BIN)/python -m benchmarks.chaos

docs: $(VENV)/.run  ## the documentation as a site in site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

architecture: $(VENV)/.run  ## the picture of the package's rooms and of who imports whom
	$(BIN)/python docs/architecture.py

wheel: $(VENV)/.dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build site
