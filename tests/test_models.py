"""Every model in conf/model: shapes, determinism, smoothness, and three derivatives in double precision."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra.utils import instantiate
from jax.flatten_util import ravel_pytree
from omegaconf import ListConfig, OmegaConf

from cflow_cli.cli import main
from cflow_cli.computing import as_for
from cflow_cli.config import building, composing
from cflow_cli.datasets import Dataset
from cflow_cli.datasets.chebyshev import chebyshev
from cflow_cli.datasets.completion import completion
from cflow_cli.datasets.copying import copying
from cflow_cli.datasets.digits import digits
from cflow_cli.datasets.gaussian import gaussian
from cflow_cli.datasets.planar import circles, moons
from cflow_cli.datasets.sensing import sensing
from cflow_cli.datasets.sorting import sorting
from cflow_cli.datasets.text import text
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.losses import cross_entropy, mse
from cflow_cli.models import check_pair
from cflow_cli.models.activations import ACTIVATIONS
from cflow_cli.models.base import Linear
from cflow_cli.models.convolution import patches
from cflow_cli.models.deep_linear import DeepLinear
from cflow_cli.models.mamba import Mamba
from cflow_cli.models.mlp import MLP
from cflow_cli.models.tokens import Embedding
from cflow_cli.problem import Problem
from cflow_cli.runs.run import run

CONF = Path(__file__).parents[1] / "conf" / "model"
PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
MODELS = sorted(path.stem for path in CONF.glob("*.yaml"))
# Sizes that keep a test short; a model that is not named here is tested at its default size.
TINY = {
    "mlp": {"widths": [4, 3]},
    "fc": {"depth": 4, "width": 3},
    "cnn": {"channels": [2, 3], "dense": 4},
    "resnet": {"width": 2, "stages": [1, 1], "pool": 2},
    "vit": {"width": 4, "depth": 1, "heads": 2, "head_width": 2, "hidden": 5},
    "transformer": {"width": 4, "depth": 1, "heads": 2, "hidden": 5},
    "lstm": {"width": 3, "hidden": 4},
    "mamba": {"width": 4, "depth": 1, "states": 3},
    "deep_linear": {"width": 3},
    "matrix_factorisation": {"width": 2, "init_scale": 1.0},
    "plain_cnn": {"depth": 3, "width": 2},
}
CONVOLUTIONAL = ("cnn", "plain_cnn", "resnet")
TOKEN_MODELS = ("transformer", "lstm", "mamba")
# Without LLVM's expensive passes: these programs run a handful of times.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def images(n=3, size=8, classes=3):
    rng = np.random.default_rng(0)
    return Dataset(
        x=rng.normal(size=(n, size, size, 2)),
        y=(np.arange(n) % classes).astype(np.int32),
        task="classification",
        input_shape=(size, size, 2),
        num_outputs=classes,
        name="images",
    )


def strings():
    return sorting(n=3, vocabulary=3, length=3)


def build(name, data, seed=0, **options):
    cfg = OmegaConf.load(CONF / f"{name}.yaml")
    options = TINY.get(name, {}) | options
    assert set(options) <= set(cfg)
    return instantiate(cfg, data=data, key=jax.random.key(seed), **options)


def data_for(name):
    if name == "matrix_factorisation":
        return completion(rows=4, columns=3, rank=1, n=5)
    return strings() if name in TOKEN_MODELS else images()


def inputs(data, dtype):
    return jnp.asarray(data.x) if data.x.dtype.kind in "iu" else jnp.asarray(data.x, dtype)


def flat(model, dtype=jnp.float64):
    params, static = eqx.partition(model, eqx.is_inexact_array)
    w, unravel = ravel_pytree(jax.tree.map(lambda a: a.astype(dtype), params))
    return w, lambda w: eqx.combine(unravel(w), static)


@pytest.mark.parametrize("name", MODELS)
def test_shape_dtype_and_determinism(name):
    data = data_for(name)
    first, again, other = (build(name, data, seed) for seed in (0, 0, 1))
    check_pair(first, data, mse())
    w, w_again, w_other = (flat(m, jnp.float32)[0] for m in (first, again, other))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(eqx.filter(first, eqx.is_array)))
    np.testing.assert_array_equal(w, w_again)
    assert not np.array_equal(w, w_other)
    assert first.smooth


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_lower_for_cuda_without_what_is_slow_there(name):
    """Products and sums alone: no gather, scatter or sort, and no call into a library or back into Python.

    But the entries of a matrix that are known are picked out of it.
    """
    problem = Problem.from_model(build(name, data_for(name)), data_for(name), mse(), "float32")
    w = problem.w0
    rows = jnp.stack([w, w])
    for derivative in (lambda w: problem.linearize(w).hvp(rows), lambda w: problem.third(w, w, w)):
        with as_for("gpu"):
            text = str(jax.export.export(jax.jit(derivative), platforms=["cuda"])(w).mlir_module())
        assert "dot_general" in text and ("convolution" in text) == (name in CONVOLUTIONAL)
        slow = r"custom_call|stablehlo\.\w*(gather|scatter|sort)"
        assert bool(re.search(slow, text)) == (name == "matrix_factorisation")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "resnet" else ()) for n in CONVOLUTIONAL]
)
def test_both_forms_of_a_convolution_have_the_same_derivatives(name):
    """Patches times a matrix, which a CPU gets, and XLA's convolution, which others get."""
    problem = Problem.from_model(build(name, data_for(name)), data_for(name), mse(), "float64")
    w, (u, v) = problem.w0, np.random.default_rng(0).normal(size=(2, problem.num_parameters))

    def derivatives(w):
        linear = problem.linearize(w)
        return linear.loss, linear.gradient, linear.hvp(jnp.stack([u, v])), problem.third(w, u, v)

    found = {}
    for kind in ("cpu", "gpu"):
        with as_for(kind):
            found[kind] = (
                jax.jit(lambda w: derivatives(w)).lower(w).compile(QUICK)(w)
            )  # a new one: traced anew
    for one, other in zip(found["cpu"], found["gpu"]):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * np.abs(one).max())


@pytest.mark.parametrize("name", MODELS)
def test_examples_do_not_meet(name):
    """The outputs of an example are the same whatever else is in the batch: no statistic of the batch."""
    data = data_for(name)
    w, rebuild = flat(build(name, data))
    x = inputs(data, w.dtype)
    w = w + 0.1 * jax.random.normal(jax.random.key(1), w.shape)
    apply = jax.jit(lambda x: rebuild(w)(x)).lower(x).compile(compiler_options=QUICK)
    every = apply(x)
    for i in range(len(x)):
        np.testing.assert_allclose(apply(x[jnp.full(len(x), i)])[0], every[i], rtol=1e-12, atol=1e-12)


def derivatives(loss):
    """(w, u, v) -> L, ∇L, H v, ∇(uᵀHv), in one program."""

    def along_v(w, v):
        return jax.jvp(jax.value_and_grad(loss), (w,), (v,))

    @jax.jit
    def run(w, u, v):
        ((value, gradient), (_, hv)), (_, (_, third)) = jax.jvp(lambda w: along_v(w, v), (w,), (u,))
        return value, gradient, hv, third

    def compiled(w, u, v):
        key = w.shape
        if key not in cache:
            cache[key] = run.lower(w, u, v).compile(compiler_options=QUICK)
        return cache[key](w, u, v)

    cache = {}
    return compiled


@pytest.mark.parametrize("name", MODELS)
def test_three_derivatives_against_finite_differences(name):
    data = data_for(name)
    w, rebuild = flat(build(name, data))
    # Away from the special initial values (zero heads, zero residual branches), where much vanishes.
    w = w + 0.2 * jax.random.normal(jax.random.key(1), w.shape)
    x = inputs(data, w.dtype)
    mask = None if data.mask is None else jnp.asarray(data.mask)
    criterion = mse() if data.task == "entries" else cross_entropy()
    run = derivatives(lambda w: criterion(rebuild(w)(x), jnp.asarray(data.y), mask))
    u, v = jax.random.normal(jax.random.key(2), (2, w.size))
    u, v = u / jnp.linalg.norm(u), v / jnp.linalg.norm(v)
    _, gradient, hv, third = run(w, u, v)
    h = 1e-3
    points = {k: run(w + k * h * u, u, v) for k in (-2, -1, 1, 2)}

    def slope(which):
        """Five-point difference along u, error O(h⁴)."""
        at = {k: point[which] for k, point in points.items()}
        return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)

    for difference, exact in (
        (slope(0), gradient @ u),
        (slope(1) @ v, hv @ u),
        (slope(2), third),
    ):
        assert jnp.linalg.norm(exact) > 1e-6
        assert jnp.linalg.norm(difference - exact) < 1e-6 * jnp.linalg.norm(exact)


def test_deep_linear_third_derivative_in_closed_form():
    """Two matrices A, B and one example: L = ½‖BᵀAᵀx − y‖², a quartic with hand-made derivatives."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1, 3)), rng.normal(size=(1, 2))
    data = Dataset(x=x, y=y, task="regression", input_shape=(3,), num_outputs=2, name="one")
    w, rebuild = flat(DeepLinear(data, jax.random.key(0), depth=2, width=4))
    run = derivatives(lambda w: mse()(rebuild(w)(jnp.asarray(x)), jnp.asarray(y)))
    u, v = jax.random.normal(jax.random.key(1), (2, w.size))
    matrices = [np.asarray(m) for m in rebuild(w).matrices]
    along_u, along_v = ([np.asarray(m) for m in rebuild(d).matrices] for d in (u, v))
    (a, b), (au, bu), (av, bv) = matrices, along_u, along_v
    # ∇(uᵀHv) of L = ½‖r‖², r = xAB − y: uᵀHv = r_u·r_v + r·r_uv, differentiated in A and in B.
    r, r_u, r_v, r_uv = x @ a @ b - y, x @ (au @ b + a @ bu), x @ (av @ b + a @ bv), x @ (au @ bv + av @ bu)
    by_a = x.T @ (r_v @ bu.T + r_u @ bv.T + r_uv @ b.T)
    by_b = (x @ au).T @ r_v + (x @ av).T @ r_u + (x @ a).T @ r_uv
    np.testing.assert_allclose(run(w, u, v)[3], np.concatenate([by_a.ravel(), by_b.ravel()]), rtol=1e-10)
    # Here r·∇r_uv vanishes: r_uv does not depend on A or B.
    assert np.abs(r).max() > 0.1


def test_parametrisations_of_a_fully_connected_network():
    """Standard: PyTorch's layers, each with its own key. NTK: N(0, 1) weights with fixed factors, by hand."""
    data, key = images(size=4), jax.random.key(5)
    sizes = (32, 7, 5, 3)
    keys = jax.random.split(key, 3)
    wanted = [Linear(a, b, k) for a, b, k in zip(sizes[:-1], sizes[1:], keys)]
    standard = MLP(data, key, [7, 5])
    for one, other in zip(jax.tree.leaves(standard), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(one, other)
    ntk = MLP(data, key, [7, 5], "tanh", parametrisation="ntk", sigma_w=1.5, sigma_b=0.3)
    h = np.asarray(data.x, np.float32).reshape(3, -1)
    for i, layer in enumerate(ntk.layers):
        h = 1.5 / np.sqrt(sizes[i]) * (h @ np.asarray(layer.weight)) + 0.3 * np.asarray(layer.bias)
        h = np.tanh(h) if i < 2 else h
    np.testing.assert_allclose(ntk(jnp.asarray(data.x, jnp.float32)), h, rtol=1e-5)
    wide = np.concatenate(
        [leaf.ravel() for leaf in jax.tree.leaves(MLP(data, key, [99], parametrisation="ntk"))]
    )
    assert abs(wide.std() - 1) < 5 / np.sqrt(2 * wide.size) and abs(wide.mean()) < 5 / np.sqrt(wide.size)


def test_bottleneck_and_output_of_a_fully_connected_network():
    data = images(size=2)
    narrow = build("fc", data, depth=4, width=6, bottleneck=1)
    assert [layer.weight.shape for layer in narrow.layers] == [(8, 6), (6, 1), (1, 6), (6, 3)]
    x = jnp.asarray(data.x, jnp.float32)
    plain = build("mlp", data)(x)
    np.testing.assert_allclose(
        build("mlp", data, output="tanh", output_scale=2)(x), 2 * np.tanh(plain), rtol=1e-6
    )
    likely = build("mlp", data, output="softmax")(x)
    np.testing.assert_allclose(likely.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(likely.argmax(axis=1), plain.argmax(axis=1))


@pytest.mark.parametrize("size, stride, pixels", [(3, 1, 8), (3, 2, 8), (3, 2, 7), (5, 1, 6), (2, 1, 6)])
def test_patches_times_a_matrix_is_a_convolution(size, stride, pixels):
    x = jax.random.normal(jax.random.key(0), (2, pixels, pixels, 3))
    w = jax.random.normal(jax.random.key(1), (size * size * 3, 2))
    padding = ((size - 1) // 2, size // 2)
    wanted = jax.lax.conv_general_dilated(
        x,
        w.reshape(size, size, 3, 2),
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(patches(x, size, stride) @ w, wanted, rtol=1e-12, atol=1e-12)


def test_both_scans_of_mamba_agree():
    data = strings()
    options = TINY["mamba"]
    w, sequential = flat(Mamba(data, jax.random.key(0), **options, scan="sequential"))
    _, associative = flat(Mamba(data, jax.random.key(0), **options, scan="associative"))
    x = jnp.asarray(data.x)
    np.testing.assert_allclose(sequential(w)(x), associative(w)(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_smoothness_of_an_activation_is_what_it_says(name):
    """A function called smooth has a second derivative without jumps; one called rough has a jump."""
    function, roughness = ACTIVATIONS[name]
    x = jnp.linspace(-3, 3, 6001)
    jump = jnp.abs(jnp.diff(jax.vmap(jax.grad(jax.grad(function)))(x))).max()
    slope_jump = jnp.abs(jnp.diff(jax.vmap(jax.grad(function))(x))).max()
    assert (max(jump, slope_jump) > 0.1) == (roughness is not None)
    model = MLP(images(), jax.random.key(0), [2], name)
    assert model.smooth == (roughness is None)
    assert (model.smoothness_warning is None) == model.smooth


def test_max_pooling_is_not_smooth():
    model = build("cnn", images(), pooling="max")
    assert not model.smooth
    assert "max-pooling" in model.smoothness_warning


def test_causal_models_do_not_see_the_future():
    data = strings()
    x = jnp.asarray(data.x)
    changed = x.at[:, -1].set((x[:, -1] + 1) % 3)
    for name in TOKEN_MODELS:
        w, rebuild = flat(build(name, data))
        w = w + 0.2 * jax.random.normal(jax.random.key(1), w.shape)
        before, after = rebuild(w)(x), rebuild(w)(changed)
        np.testing.assert_allclose(before[:, :-1], after[:, :-1], rtol=1e-12, atol=1e-12)
        assert jnp.abs(before[:, -1] - after[:, -1]).max() > 1e-6


@pytest.mark.parametrize(
    "name, data, options, says",
    [
        ("cnn", strings(), {}, "works on images"),
        ("vit", strings(), {}, "works on images"),
        ("resnet", chebyshev(), {}, "works on images"),
        ("mlp", strings(), {}, "made of tokens"),
        ("lstm", images(), {}, "sequences of tokens"),
        ("mlp", images(), {"activation": "gulu"}, "must be one of gelu"),
        ("mlp", images(), {"widths": [4, 0]}, "at least 1"),
        ("fc", images(), {"init_scale": "big"}, "init_scale must be a finite number"),
        ("fc", strings(), {}, "model fc works on numbers"),
        ("cnn", images(), {"channels": [2, 2, 2, 2]}, "use fewer"),
        ("vit", images(), {"patch": 3}, "must divide"),
        ("transformer", strings(), {"heads": 3}, "multiple of model.heads"),
        ("mamba", strings(), {"scan": "parallel"}, "sequential, associative"),
        ("mlp", images(), {"parametrisation": "nkt"}, "(did you mean ntk?)"),
        ("fc", images(), {"sigma_w": 1.4}, "add model.parametrisation=ntk"),
        ("mlp", images(), {"parametrisation": "ntk", "sigma_b": -1}, "must not be negative"),
        ("mlp", images(), {"widths": [4], "bottleneck": 1}, "two or more"),
        ("mlp", images(), {"bottleneck": 0}, "bottleneck must be"),
        ("fc", images(), {"output": "tan"}, "(did you mean tanh?)"),
        ("mlp", chebyshev(), {"output": "softmax"}, "choose model.output=tanh"),
        ("matrix_factorisation", images(), {}, "choose data=completion or data=sensing"),
        ("matrix_factorisation", sensing(), {"init": "zeros"}, "must be one of gaussian, orthogonal"),
        ("matrix_factorisation", sensing(), {"init_scale": 0}, "above 0"),
        ("matrix_factorisation", sensing(), {"width": 0}, "at least 1"),
    ],
)
def test_a_pair_or_option_that_makes_no_sense_is_one_sentence(name, data, options, says):
    with pytest.raises(Exception) as raised:
        build(name, data, **options)
    error = raised.value
    # Hydra wraps what a constructor raises.
    error = error if isinstance(error, UserError) else error.__cause__
    assert isinstance(error, UserError) and says in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["model=vit", "data=sorting"], "or model=transformer"),
        (["model=cnn", "data=moons"], "or model=mlp"),
        (["model=mamba"], "choose data=sorting"),
        (["model=mlp", "data=copying"], "choose model=transformer"),
        (["data=chebyshev", "loss=cross_entropy"], "choose loss=mse"),
        (["data=completion"], "choose model=matrix_factorisation"),
        (["data=sensing", "model=lstm"], "or model=matrix_factorisation"),
        (["data=sensing", "model=cnn"], "or model=matrix_factorisation"),
        (["data=completion", "model=matrix_factorisation", "loss=cross_entropy"], "choose loss=mse"),
    ],
)
def test_a_pair_that_makes_no_sense_ends_a_run_before_any_compilation(overrides, says, capsys, monkeypatch):
    monkeypatch.setattr(Problem, "from_model", lambda *_, **__: pytest.fail("went on to the loss"))
    assert main(["run", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_outputs_that_do_not_fit_are_one_sentence():
    data = images()
    for model, says in (
        (lambda x: x, r"must be one array of shape \(3, 3\), got \(3, 8, 8, 2\)"),
        (lambda x: (x, x), "got tuple"),
        (lambda x: x @ jnp.ones(3), "cannot act on data images"),
        (lambda x: x.reshape(7), "cannot act on data images"),
    ):
        with pytest.raises(UserError, match=says):
            check_pair(model, data, mse())


@pytest.mark.parametrize(
    "overrides, phrase",
    [
        (["model=cnn", "model.channels=[2]", "model.pooling=max", "processes=[stable]"], "max-pooling"),
        (["model.activation=relu", "processes=[stable]"], "relu is piecewise linear"),
        (["model.activation=relu", "processes=[discrete]"], None),
    ],
)
def test_a_flow_on_a_model_that_is_not_smooth_warns_once(
    overrides, phrase, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(Simulation, "__iter__", lambda _: iter(()))  # what is said before the first step
    small = ["data.n=10", "data.n_test=null", "steps=1", "device=cpu"]
    small += [] if "model=cnn" in overrides else ["model.widths=[2]"]
    with caplog.at_level("INFO", "cflow_cli"):
        run(composing.compose([*small, *overrides]), tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_text())["warning"]
    assert (recorded is None) == (phrase is None)
    for said in (capsys.readouterr().out, caplog.text):
        assert said.count("warning: ") == (phrase is not None)
        assert phrase is None or (phrase in said and recorded in said)


def masked():
    """Sorted strings with a different number of targets in each, so that slices have different counts."""
    data = sorting(n=5, n_test=3, vocabulary=3, length=3)
    return replace(data, mask=data.mask & (np.random.default_rng(0).random(data.mask.shape) < 0.6))


def labelled():
    data = images(5)
    return replace(data, x_test=data.x[:3], y_test=data.y[:3])


class Letters(eqx.Module):
    """The next letter from the last one alone."""

    embedding: Embedding
    head: Linear

    def __call__(self, x):
        return self.head(jnp.tanh(self.embedding(x)))


@pytest.mark.parametrize("tokens", [False, True])
def test_slices_give_the_same_derivatives(tokens):
    """Slices that do not divide the examples, and targets that do not count."""
    data, key, loss = (masked() if tokens else labelled()), jax.random.key(0), cross_entropy()
    model = Letters(Embedding(3, 4, key, 1.0), Linear(4, 3, key)) if tokens else build("mlp", data)
    whole = Problem.from_model(model, data, loss, jnp.float64)
    sliced = Problem.from_model(model, replace(data, microbatch=2), loss, jnp.float64)
    u, v = jax.random.normal(jax.random.key(1), (2, whole.num_parameters))

    def figures(problem):
        def run(w):
            line = problem.linearize(w)
            by_loss = jax.value_and_grad(problem.loss)(w)
            return line[:2], by_loss, line.hvp(v[None])[0], problem.third(w, u, v), problem.evaluate(w)

        return jax.jit(run).lower(problem.w0).compile(compiler_options=QUICK)(problem.w0)

    for one, other in zip(jax.tree.leaves(figures(whole)), jax.tree.leaves(figures(sliced)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14)


def test_memory_of_slices_does_not_grow_with_the_examples():
    def peak(n, microbatch):
        data = replace(images(n), microbatch=microbatch)
        problem = Problem.from_model(build("mlp", data, widths=[200]), data, mse())

        def run(w):
            return problem.linearize(w).hvp(w[None]), problem.third(w, w, w)

        compiled = jax.jit(run).lower(problem.w0).compile(compiler_options=QUICK)
        return compiled.memory_analysis().temp_size_in_bytes

    small, large, at_once = peak(40, 10), peak(160, 10), peak(160, None)
    assert large < 1.5 * small
    assert large < 0.5 * at_once


# --- the page for users --------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONF.parent.glob("model/*")) + sorted(CONF.parent.glob("data/*")))
def test_the_page_lists_every_choice_with_its_keys_and_defaults(path):
    lists = PAGE.split("## Losses")[0]
    (row,) = (line for line in lists.splitlines() if line.startswith(f"| `{path.stem}` |"))
    for key, value in OmegaConf.load(path).items():
        if key not in ("_target_", "microbatch"):
            shown = json.dumps(value if not isinstance(value, ListConfig) else list(value)).strip('"')
            assert f"`{key}` {shown.removesuffix('.0')}" in row


KINDS = {
    "images": [digits(n=20), digits(n=4, classes="binary")],
    "vectors": [moons(n=4), circles(n=4), gaussian(n=4), chebyshev(n=4)],
    "tokens": [sorting(n=2), copying(n=2), text(str(CONF.parents[1] / "README.md"), n=2)],
    "matrices": [completion(rows=4, columns=3, rank=2), sensing(n=2)],
}


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_what_goes_together_is_true(name):
    """Every model with every data set, by shapes alone."""
    table = PAGE.split("## What goes together")[1].split("\n## ")[0]
    (row,) = re.findall(rf"^\| .*`{name}`.* \|$", table, re.MULTILINE)
    answers = [cell.strip() for cell in row.split("|")[2:6]]
    cfg = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), TINY[name])
    for (kind, examples), answer in zip(KINDS.items(), answers, strict=True):
        for data in examples:
            try:
                model = eqx.filter_eval_shape(
                    lambda key, data=data: building.build(cfg, "model", data=data, key=key), jax.random.key(0)
                )
                check_pair(model, data, mse())
            except UserError:
                assert answer == "no", (kind, data.name)
            else:
                assert answer == "yes", (kind, data.name)


def test_a_model_and_a_data_set_of_ones_own_as_the_page_says(tmp_path):
    for name, content in re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    check = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    cflow = "from cflow_cli.cli import main; raise SystemExit(main())"
    words = shlex.split(command)
    assert words[:2] == ["PYTHONPATH=.", "cflow"]
    for program in (["-c", cflow, *words[2:]], ["-W", "error", "-c", check]):
        done = subprocess.run(
            [sys.executable, *program],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f".{os.pathsep}{CONF.parents[1]}", "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "relative error" in done.stdout
    (manifest,) = tmp_path.glob("outputs/*/*/manifest.json")
    assert json.loads(manifest.read_text())["choices"]["model"] == "gated"


@pytest.mark.slow
def test_the_zoo_takes_a_model_through_the_edge_and_goes_on_where_it_stopped(tmp_path):
    """The smallest of its models; the others differ by minutes, not by code."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.zoo",
        "--only",
        "fc",
        "--budget",
        "0.1",
        "--out",
        str(tmp_path),
    ]
    path, figures = tmp_path / "fc.json", []
    for _ in range(2):
        done = subprocess.run(
            command,
            cwd=CONF.parents[1],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "| fc | 593 |" in done.stdout, done.stderr + done.stdout
        figures.append(path.read_bytes())
    assert figures[0] == figures[1]  # measured once
    found = json.loads(figures[0])["run"]
    assert 50 < found["edge"] < 250 and found["critical"] >= 1 and found["distance_ratio"] < 0.5
