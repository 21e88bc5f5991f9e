"""Programs of a run as a compiler for NVIDIA GPUs gets them, for which no GPU has to be there."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from cflow_cli.computing import as_for, beside
from cflow_cli.config import composing
from cflow_cli.engine.chunk import run_chunk
from cflow_cli.runs.run import prepare

SMALL = ("data.n=20", "data.n_test=10", "model.widths=[4]", "steps=8", "warm_start=0")
# Of cuSOLVER, and its pivots: eigenvalues and solutions of matrices of a few rows. Nothing calls back into Python.
LIBRARY = {"cusolver_syevd_ffi", "cusolver_getrf_ffi", "cu_lu_pivots_to_permutation"}
OPTIMIZERS = ("gd", "momentum", "rmsprop", "adam", "scalar_adam")


@pytest.fixture(autouse=True)
def for_a_gpu():
    with as_for("gpu"):
        yield


def lowered(function, *args):
    dynamic, static = eqx.partition(args, eqx.is_array)

    def program(dynamic):
        return eqx.filter(function(*eqx.combine(dynamic, static)), eqx.is_array)

    return str(jax.export.export(jax.jit(program), platforms=["cuda"])(dynamic).mlir_module())


def programs_of(*overrides):
    """Of the optimizer's loop and of each process."""
    simulation = prepare(composing.compose([*SMALL, *overrides])).simulation
    jax.config.update("jax_default_matmul_precision", None)  # as it is for who comes from Python
    zero, count = (jnp.asarray(number, jnp.int32) for number in (0, 8))
    path = simulation.take_path(8, 8)[1]
    with beside(simulation.problem.w0):
        yield "loop", lowered(lambda: simulation.take_path(8, 8)[1])
        for name, run in simulation._running.items():
            run.begin(simulation._initial(run, simulation.discrete, simulation._least_block), 0)
            at = (simulation.problem, simulation.context, run.state, path)
            yield name, lowered(run_chunk.__wrapped__, run.process, *at, zero, zero, count, zero)


def check(overrides):
    names = []
    for name, text in programs_of(*overrides):
        names.append(name)
        assert set(re.findall(r"custom_call @(\w+)", text)) <= LIBRARY, name
        products = re.findall(r"dot_general .*", text)
        assert products or name == "loop", name
        assert all("precision = [HIGHEST, HIGHEST]" in product for product in products), name
    return names


def test_programs_of_a_run_lower_for_cuda():
    """In full precision, with nothing in them that a GPU would have to ask of Python."""
    assert check(["optimizer=adam", "processes=[midpoint,central]"]) == ["loop", "midpoint", "central"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("block", [4, 8])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_programs_of_all_blocks_lower_for_cuda(optimizer, block, dtype):
    names = check([f"optimizer={optimizer}", f"eigs.block={block}", f"dtype={dtype}"])
    assert names == ["loop", "discrete", "midpoint", "stable", "central"]
