# Every target sets up what it needs in .venv; PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests of one file stay in one process, which has what they share; the longest files come first (tests/conftest.py).
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The versions of uv.lock, and so the same ones everywhere. Extras that are there already stay. Compiled as pip does it:
# where Python may not write beside its modules, each start would compile a thousand of them, for six seconds.
SYNC = UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --quiet --locked --inexact --compile-bytecode --python $(BIN)/python
# Where packages come from a mirror, which pip knows of and uv does not.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
UV := $(or $(shell command -v uv),$(BIN)/uv)

.PHONY: demo test check accuracy bench figures zoo paper-check memory gpu-check chaos docs architecture lint hooks lock dist release-check clean

$(VENV)/.run: pyproject.toml uv.lock
	command -v uv > /dev/null || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	test -x $(BIN)/python || $(UV) venv --quiet --seed --python $(PYTHON) $(VENV)
	$(SYNC) || $(PIP) .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(SYNC) --extra dev || $(PIP) '.[dev]'
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

hooks: $(VENV)/.dev  ## the linters at every commit
	$(BIN)/pre-commit install

accuracy: $(VENV)/.dev  ## how well the flows predict the optimizers; needs CIFAR-10 (see the README)
	$(BIN)/python -m benchmarks.accuracy

bench: $(VENV)/.dev  ## what a step of each process costs; needs CIFAR-10 (see the README)
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.kernels

figures: $(VENV)/.run  ## every figure of the papers, small, with its claims checked; under an hour on two cores
	$(BIN)/cflow figures --all

zoo: $(VENV)/.dev  ## cost of every model's derivatives, and its run through the edge; needs CIFAR-10
	$(BIN)/python -m benchmarks.zoo

paper-check: $(VENV)/.dev  ## whether runs of paper size start, on few examples; needs CIFAR-10
	$(BIN)/python -m benchmarks.papers

memory: $(VENV)/.dev  ## memory of the paper's networks, by the account of the compiler for a CPU
	$(BIN)/python -m benchmarks.memory

# The compiler for NVIDIA's GPUs needs none: of JAX's plug-in for them only what compiles, where no other program finds it.
CUDA := $(VENV)/cuda
JAX := $$($(BIN)/python -c "import jaxlib; print(jaxlib.__version__)")
$(CUDA): $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
	    jax-cuda12-plugin==$(JAX) jax-cuda12-pjrt==$(JAX) nvidia-cuda-nvcc-cu12
	touch $@

gpu-check: $(CUDA)  ## memory of the paper's networks on an H100, by the account of the compiler for it; needs no GPU
	PYTHONPATH=$(CUDA) JAX_PLATFORMS=cpu XLA_FLAGS="--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false \
	    --xla_gpu_cuda_data_dir=$(CUDA)/nvidia/cuda_nvcc" $(BIN)/python -m benchmarks.memory --h100

chaos: $(VENV)/.dev  ## faults injected into runs, and what they cost
	$(BIN)/python -m benchmarks.chaos

docs: $(VENV)/.run  ## the documentation as a site in site/
	$(SYNC) --extra docs || $(PIP) '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

architecture: $(VENV)/.run  ## the picture of the package's rooms and of who imports whom
	$(BIN)/python docs/architecture.py

lock: $(VENV)/.run  ## uv.lock again, with the newest versions that pyproject.toml allows
	$(UV) lock --upgrade

dist: $(VENV)/.dev  ## the source distribution and the wheel, in dist/
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

release-check: $(VENV)/.dev  ## what is published: its checks, and its installation in an empty environment
	$(BIN)/python -m pytest tests/test_distribution.py -m "slow or not slow"

clean:
	rm -rf $(VENV) dist build site
