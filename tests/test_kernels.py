"""Kernels of infinitely wide networks against neural-tangents, quadrature, finite networks and each other."""

import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree
from omegaconf import OmegaConf

from cflow_cli.cli import main
from cflow_cli.commands import kernel as command
from cflow_cli.config import building, composing
from cflow_cli.datasets.dataset import Dataset
from cflow_cli.datasets.digits import digits
from cflow_cli.engine import snapshot
from cflow_cli.errors import UserError
from cflow_cli.kernels import duals, empirical, recursion
from cflow_cli.kernels.empirical import tangent_kernel
from cflow_cli.kernels.recursion import InfiniteKernel
from cflow_cli.kernels.regression import gradient_descent, regress
from cflow_cli.losses import MSE
from cflow_cli.models.activations import get_activation
from cflow_cli.models.limit import LayerLimit, Limit
from cflow_cli.models.mlp import MLP
from cflow_cli.models.plain_cnn import PlainCNN
from cflow_cli.problem import Problem
from cflow_cli.runs import kernel as runs_kernel
from cflow_cli.runs import progress
from cflow_cli.runs.run import run
from cflow_cli.storage import checkpoints, manifests, read_kernel

RNG = np.random.default_rng(0)
ORACLE = json.loads((Path(__file__).parent / "neural_tangents" / "kernels.json").read_text(encoding="utf-8"))
ACTIVATIONS = ("relu", "erf", "gelu")


def limit(depth=4, activation="gelu", convolution=None, sigma_w=1.3, sigma_b=0.4):
    layer = LayerLimit.ntk(sigma_w, sigma_b)
    readouts = ("dense",) if convolution is None else ("gap", "flatten")
    heads = ((layer,) * depth,) * len(readouts)
    return Limit(activation, (layer,) * (depth - 1), readouts, heads, readouts[0], convolution)


def kernels(network, x, readouts=None):
    """Between all inputs: (kinds, readouts, depths, N, N)."""
    kernel = InfiniteKernel(network, jnp.asarray(x), readouts or network.readouts)
    i, j = (part.ravel() for part in np.indices((len(x), len(x))))
    padded = -(-len(i) // kernel.batch) * kernel.batch
    i, j = (jnp.asarray(np.resize(part, padded)) for part in (i, j))
    found = np.asarray(kernel(i, j))[..., : len(x) ** 2]
    return found.reshape(*found.shape[:-1], len(x), len(x))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(recursion, "_BATCH", 1 << 14)


def like_the_oracle(*shape):
    return np.sin(np.arange(math.prod(shape), dtype=float) ** 2).reshape(shape)


# --- duals ----------------------------------------------------------------------------------------


def gaussians():
    a, b = RNG.uniform(0.1, 3, (2, 20))
    return tuple(map(jnp.asarray, (a, b, RNG.uniform(-0.95, 0.95, 20) * np.sqrt(a * b))))


@pytest.mark.parametrize(("activation", "tolerance"), [("gelu", 1e-12), ("erf", 1e-6), ("identity", 1e-13)])
def test_closed_forms_are_what_quadrature_gives(activation, tolerance):
    covariance = gaussians()
    exact = duals.dual(activation)(*covariance)
    for value, wanted in zip(exact, duals.quadrature(get_activation(activation).function)(*covariance)):
        np.testing.assert_allclose(value, wanted, atol=tolerance)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "tanh"])
def test_slopes_are_derivatives_by_the_covariance(activation):
    dual = duals.dual(activation)
    a, b, c = gaussians()
    slope = jax.jit(jax.vmap(jax.grad(lambda c, a, b: dual(a, b, c)[0])))(c, a, b)
    # Of an integrand that is not a polynomial, quadrature and derivative are taken in another order.
    np.testing.assert_allclose(dual(a, b, c)[1], slope, atol=1e-4 if activation == "tanh" else 1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_is_right_to_its_precision(activation):
    covariance = gaussians()
    single = duals.dual(activation)(*(part.astype(jnp.float32) for part in covariance))
    for value, wanted in zip(single, duals.dual(activation)(*covariance)):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wanted, atol=4e-7)


def test_relu_is_exact_on_the_diagonal():
    a = jnp.asarray(RNG.uniform(0.1, 3, 50))
    f, slope = duals.relu(a, a, jnp.nextafter(a, 0.0))
    np.testing.assert_allclose(f, a / 2, rtol=1e-15)
    np.testing.assert_array_equal(slope, 0.5)


@pytest.mark.parametrize("activation", ["hardtanh", "elu"])
def test_an_activation_without_a_kernel_is_refused(activation):
    with pytest.raises(UserError, match=f"model.activation={activation}.*relu, erf, gelu"):
        duals.dual(activation)


# --- recursion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_kernels_are_those_of_neural_tangents(activation):
    found = kernels(limit(4, activation), like_the_oracle(*ORACLE["vectors"]))[:, 0, -1]
    check_with_oracle(found, ORACLE[f"{activation} dense 4"], activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolutional_kernels_are_those_of_neural_tangents(activation):
    found = kernels(limit(4, activation, 3), like_the_oracle(*ORACLE["images"]))
    for depth in (2, 3, 4):
        for place, readout in enumerate(("gap", "flatten")):
            check_with_oracle(
                found[:, place, depth - 1], ORACLE[f"{activation} {readout} {depth}"], activation
            )


def check_with_oracle(found, wanted, activation):
    upper = np.triu_indices(found.shape[-1])
    for kind, kernel in zip(("nngp", "ntk"), found):
        # Its arccos loses half of the digits on the diagonal, ours does not.
        tolerance = 1e-7 if activation == "relu" and kind == "ntk" else 1e-13
        np.testing.assert_allclose(kernel[upper], wanted[kind], rtol=tolerance)
        np.testing.assert_allclose(kernel, kernel.T, rtol=1e-13)
        assert np.linalg.eigvalsh(kernel)[0] > -1e-12


def test_flattened_kernels_need_only_equal_pixels():
    x = RNG.standard_normal((3, 4, 5, 2))
    both = kernels(limit(4, "gelu", 3), x)
    alone = kernels(limit(4, "gelu", 3), x, ("flatten",))
    assert recursion.geometry(limit(4, "gelu", 3), ("flatten",)).name == "diagonal"
    np.testing.assert_allclose(alone[:, 0], both[:, 1], rtol=1e-13)


def test_on_one_pixel_convolutions_are_dense_layers():
    x = RNG.standard_normal((4, 1, 1, 6))
    dense = limit(3, "erf", sigma_w=1.3 / 3)
    head = limit(3, "erf").hidden[0]
    dense = Limit("erf", dense.hidden, ("dense",), ((head,) * 3,), "dense")
    # A window of nine has the pixel itself and eight zeros.
    np.testing.assert_allclose(
        kernels(limit(3, "erf", 3), x)[:, 0], kernels(dense, x[:, 0, 0])[:, 0], rtol=1e-13
    )


def test_of_a_linear_network_everything_is_linear():
    x = RNG.standard_normal((4, 6))
    nngp, ntk = kernels(limit(3, "identity", sigma_w=1.0, sigma_b=0.0), x)[:, 0]
    for depth in (1, 2, 3):
        np.testing.assert_allclose(nngp[depth - 1], x @ x.T / 6, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(ntk[depth - 1], depth * x @ x.T / 6, rtol=1e-12, atol=1e-15)


# --- networks of finite width ---------------------------------------------------------------------


def dataset(*shape, outputs=3):
    x = RNG.standard_normal(shape).astype(np.float32)
    return Dataset(x, RNG.standard_normal((len(x), outputs)), "regression", x.shape[1:], outputs, "numbers")


def maker(parametrisation, readout, depth, width=8):
    """Makes a network from a key, with scales of all kinds; and its data."""
    keys = {"parametrisation": parametrisation, "init_scale": 1.4, "output_scale": 0.7, "activation": "gelu"}
    keys |= {"sigma_w": 1.2, "sigma_b": 0.8} if parametrisation == "ntk" else {}
    data = dataset(3, 4, 4, 2, outputs=4)
    if readout == "dense":
        return partial(MLP, data, widths=(width,) * (depth - 1), **keys), data
    return partial(PlainCNN, data, depth=depth, width=width, readout=readout, **keys), data


@pytest.mark.parametrize("parametrisation", ["standard", "ntk"])
@pytest.mark.parametrize("readout", ["dense", "gap", "flatten"])
def test_wide_networks_have_nearly_the_kernel_of_their_limit(parametrisation, readout):
    """Of the mean of eight networks; each is off by about 3/√width."""
    model, data = maker(parametrisation, readout, depth=3, width=512 if readout == "dense" else 128)
    models = [model(jax.random.PRNGKey(seed)) for seed in range(8)]
    problem = Problem.from_model(models[0], data, MSE(), "float64")
    weights = [ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0].astype(float) for model in models]
    finite = [tangent_kernel(problem.objective.apply, w, problem.objective.x) for w in weights]
    place = models[0].limit.readouts.index(readout)
    infinite = kernels(models[0].limit, data.x.astype(float))[1, place, -1]
    assert np.linalg.norm(np.mean(finite, axis=0) - infinite) < 0.1 * np.linalg.norm(infinite)


@pytest.mark.parametrize("parametrisation", ["standard", "ntk"])
@pytest.mark.parametrize("readout", ["dense", "gap", "flatten"])
def test_without_hidden_layers_the_kernel_is_that_of_the_limit(parametrisation, readout):
    """Exactly, whatever the weights are: it has all factors of the output layer."""
    model, data = maker(parametrisation, readout, depth=1)
    model = model(jax.random.PRNGKey(0))
    problem = Problem.from_model(model, data, MSE(), "float64")
    finite = tangent_kernel(problem.objective.apply, problem.w0, problem.objective.x)
    place = model.limit.readouts.index(readout)
    infinite = kernels(model.limit, data.x.astype(float))[1, place, 0]
    np.testing.assert_allclose(finite, infinite, rtol=1e-12)


@pytest.mark.parametrize("rows", [2, 5])
def test_the_tangent_kernel_is_that_of_the_jacobian(rows, monkeypatch):
    """Whether the gradients of all inputs fit into memory, or only those of two at a time."""
    data = dataset(5, 4)
    model = MLP(data, jax.random.PRNGKey(0), widths=(6,))
    problem = Problem.from_model(model, data, MSE(), "float64")
    jacobian = jax.jacobian(lambda w: problem.objective.apply(w, problem.objective.x))(problem.w0)
    wanted = np.einsum("iop,jop->ij", jacobian, jacobian) / 3
    monkeypatch.setattr(empirical, "_LARGEST", rows * problem.num_parameters)
    found = tangent_kernel(problem.objective.apply, problem.w0, problem.objective.x)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("keys", [{"bottleneck": 2}, {"output": "tanh"}])
def test_a_model_that_does_not_become_linear_has_no_limit(keys):
    assert MLP(dataset(4, 3), jax.random.PRNGKey(0), widths=(8, 8), **keys).limit is None


# --- regression -----------------------------------------------------------------------------------


def linear_problem():
    """n = 5 examples of 8 inputs and 2 outputs, and 3 for tests; a linear network's kernel is X Xᵀ."""
    x, x_test, y = RNG.standard_normal((5, 8)), RNG.standard_normal((3, 8)), RNG.standard_normal((5, 2))
    return x, x_test, y


def test_gradient_descent_in_closed_form_is_gradient_descent():
    x, x_test, y = linear_problem()
    w0 = w = jnp.asarray(RNG.standard_normal((8, 2)))
    loss = lambda w: 0.5 * jnp.sum((x @ w - y) ** 2) / len(x)  # noqa: E731
    optimizer = optax.sgd(0.1)
    path, state = [w], optimizer.init(w)
    for _ in range(30):
        step, state = optimizer.update(jax.grad(loss)(w), state)
        w = w + step
        path.append(w)
    found = gradient_descent(x @ x.T, x_test @ x.T, y, x @ w0, x_test @ w0, 0.1, np.arange(31))
    np.testing.assert_allclose(found.outputs, [x @ w for w in path], atol=1e-12)
    np.testing.assert_allclose(found.test_outputs, [x_test @ w for w in path], atol=1e-12)


def test_regression_is_where_gradient_descent_ends():
    x, x_test, y = linear_problem()
    found = regress(x @ x.T, x_test @ x.T, y)
    np.testing.assert_allclose(found.predicted, x_test @ np.linalg.pinv(x) @ y, atol=1e-12)
    assert found.edge_lr == pytest.approx(2 * 5 / np.linalg.eigvalsh(x @ x.T)[-1])


def test_regression_with_a_singular_kernel_takes_the_smallest_solution():
    x, x_test, y = linear_problem()
    x[1] = x[0]  # an example that is there twice, with two targets
    found = regress(x @ x.T, x_test @ x.T, y)
    np.testing.assert_allclose(found.predicted, x_test @ np.linalg.pinv(x) @ y, atol=1e-12)
    np.testing.assert_allclose(found.fitted[0], (y[0] + y[1]) / 2, atol=1e-12)


# --- cflow kernel ---------------------------------------------------------------------------------

SMALL = ["data.n=20", "data.n_test=10", "dtype=float64"]


def execute(folder, *words):
    """What the command does, short of Hydra's part in it."""
    cfg = composing.compose(command._complete(list(words)))
    return runs_kernel.prepare(cfg, {"model": "mlp", "data": "digits"}, folder).execute(folder)


def kernel_at(folder, *words):
    assert execute(folder, *words).status == "done"
    return read_kernel(folder)


def test_the_command_says_what_regression_says(tmp_path, capsys):
    words = ["model=plain_cnn", "model.depth=2", "model.parametrisation=ntk", "model.activation=relu", *SMALL]
    found = kernel_at(tmp_path / "kernel", *words)
    assert found.manifest["status"] == "done" and found.manifest["step"] == found.manifest["steps"] == 410
    table = found.table.set_index(["kind", "readout", "depth"])
    assert sorted(table.index) == sorted(itertools.product(("nngp", "ntk"), ("gap", "flatten"), (1, 2)))
    data = digits(n=20, n_test=10)
    exact = kernels(network_of(found, data).limit, np.concatenate([data.x, data.x_test]).astype(float))
    np.testing.assert_allclose(found.matrices["ntk_gap_2"], exact[1, 0, 1, :20, :20], rtol=1e-12)
    np.testing.assert_allclose(found.matrices["nngp_flatten_2_test"], exact[0, 1, 1, 20:, :20], rtol=1e-12)
    row, values = table.loc["ntk", "gap", 2], np.linalg.eigvalsh(exact[1, 0, 1, :20, :20])
    predicted = exact[1, 0, 1, 20:, :20] @ np.linalg.solve(exact[1, 0, 1, :20, :20], np.eye(10)[data.y] - 0.1)
    assert row.accuracy == 1 and row.test_accuracy == pytest.approx(
        np.mean(predicted.argmax(1) == data.y_test)
    )
    assert row.edge_lr == pytest.approx(40 / values[-1]) and row.condition == pytest.approx(
        values[-1] / values[0]
    )
    assert main(["verify", str(tmp_path)]) == 0 and "1 run: 1 whole" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--format", "csv"]) == 0
    assert len(pd.read_csv(io.StringIO(capsys.readouterr().out))) == 8


def network_of(found, data):
    return building.build(OmegaConf.create(found.config).model, "model", data=data, key=jax.random.PRNGKey(0))


def test_empirical_kernels_and_their_distance_to_the_limit(tmp_path):
    words = ["kernel.kinds=[ntk,empirical]", "kernel.seeds=2", "model.widths=[64]", "data.classes=binary"]
    found = kernel_at(tmp_path, *words, "model.parametrisation=ntk", *SMALL)
    finite, wide = found.matrices["empirical_1"], found.matrices["ntk_dense_2"]
    distance = np.linalg.norm(finite - wide) / np.linalg.norm(wide)
    assert 0.01 < distance < 0.6 and found.value("distance", seed=1) == pytest.approx(distance)


def test_an_interrupted_kernel_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    """By ``cflow resume`` as installed."""
    words = ["model=fc", "model.depth=3", "model.parametrisation=ntk", *SMALL]
    whole = kernel_at(tmp_path / "whole", *words)
    monkeypatch.setattr(recursion, "_BATCH", 100)
    monkeypatch.setattr(runs_kernel, "_BLOCK_SECONDS", 0.0)
    reach = progress.Lines.reach

    def interrupt(self, step, text=""):
        reach(self, step, text)
        if step == 300:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress.Lines, "reach", interrupt)
    folder = tmp_path / "cut"
    assert execute(folder, *words).status == "interrupted"
    assert "at pair 300 of 410" in read_kernel(folder).manifest["reason"] and read_kernel(folder).table.empty
    command = [Path(sys.executable).with_name("cflow"), "resume", folder]
    onward = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert onward.returncode == 0 and "continuing from pair 300 of 410" in onward.stdout, onward.stderr
    resumed = read_kernel(folder)
    for name, matrix in whole.matrices.items():
        np.testing.assert_allclose(resumed.matrices[name], matrix, rtol=1e-13)
    assert not (folder / "unfinished.npz").exists() and main(["verify", str(folder)]) == 0
    (folder / "kernel.npz").write_bytes(b"")
    assert main(["verify", str(folder)]) == 1


def test_the_kernel_where_a_run_has_come_to(tmp_path):
    words = ["model.widths=[8]", "steps=3", "processes=[discrete]", *SMALL]
    run(composing.compose(words), tmp_path / "run")
    manifest = manifests.read(tmp_path / "run")
    manifests.write(tmp_path / "run", manifest | {"overrides": words})  # which Hydra would know
    found = kernel_at(tmp_path / "kernel", f"at={tmp_path / 'run'}@discrete")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*3*")
    weights = snapshot.weights(checkpoints.load(checkpoint).arrays)["discrete"]
    data = digits(n=20, n_test=10)
    problem = Problem.from_model(network_of(found, data), data, MSE(), "float64")
    wanted = tangent_kernel(problem.objective.apply, jnp.asarray(weights), problem.objective.x)
    np.testing.assert_allclose(found.matrices["empirical_0"], wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=vit"], "no infinite-width limit is known here for model=vit"),
        (["model.output=tanh"], "no infinite-width limit"),
        (["loss=cross_entropy"], "loss=mse"),
        (["data=sorting", "model=lstm"], "tokens"),
        (["kernel.kinds=[ntk,empiricall]"], "did you mean empirical?"),
        (["kernel.seeds=3"], "kernel.kinds=[ntk,empirical]"),
        (["model.activation=hardtanh"], "no exact kernel is known here for model.activation=hardtanh"),
        (["at=nowhere@central"], "nowhere is not a run"),
        (["devices=2"], "leave out devices="),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["kernel", "data.n=20", *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and says in told and list(tmp_path.iterdir()) == []


def test_a_kernel_larger_than_memory_is_refused_with_the_n_that_fits(monkeypatch, capsys):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}.get)
    assert main(["kernel", "data.n=1000", "data.n_test=null"]) == 2
    told = capsys.readouterr().err
    (fits,) = re.findall(r"data\.n=(\d+) fits", told)
    # Two kinds at three depths in float32, and four matrices in float64.
    assert (6 * 4 + 32) * int(fits) ** 2 <= 409600 < (6 * 4 + 32) * (int(fits) + 10) ** 2
