"""Paths between two points: closed forms, permuted copies, networks of half their units, and the command as installed."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from cflow_cli import Problem, connect, load
from cflow_cli.cli import main
from cflow_cli.config import path_settings
from cflow_cli.config.path_settings import PATH_SETTINGS, PathSettings
from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.figures import connections
from cflow_cli.losses import MSE
from cflow_cli.models.cnn import CNN
from cflow_cli.models.deep_linear import DeepLinear
from cflow_cli.models.mlp import MLP
from cflow_cli.models.plain_cnn import PlainCNN
from cflow_cli.paths import curves, dropout
from cflow_cli.paths.connecting import plane, units_of
from cflow_cli.paths.fit import losses
from cflow_cli.paths.matching import match, permuted
from cflow_cli.storage import checkpoints, paths

RNG = np.random.default_rng(0)


def dataset(*shape):
    x, y = RNG.standard_normal(shape), RNG.integers(0, 3, shape[0]).astype(np.int32)
    return Dataset(x, y, "classification", shape[1:], 3, "toy")


VECTORS, IMAGES = dataset(12, 4), dataset(6, 6, 6, 2)


def problem_of(model, data):
    return Problem.from_model(model, data, MSE(), jnp.float64)


def mlp(**options):
    return problem_of(MLP(VECTORS, jax.random.PRNGKey(0), **{"widths": (7, 6), **options}), VECTORS)


NETS = {
    "mlp": mlp,
    "no bias": lambda: mlp(bias=False, widths=(5,)),
    "deep": lambda: mlp(widths=(6, 5, 4)),
    "linear": lambda: problem_of(DeepLinear(VECTORS, jax.random.PRNGKey(0), depth=3, width=6), VECTORS),
    "plain cnn": lambda: problem_of(PlainCNN(IMAGES, jax.random.PRNGKey(0), depth=3, width=4), IMAGES),
    "flattened": lambda: problem_of(
        PlainCNN(IMAGES, jax.random.PRNGKey(0), depth=2, width=4, readout="flatten"), IMAGES
    ),
    "cnn": lambda: problem_of(CNN(IMAGES, jax.random.PRNGKey(0), channels=(4, 6), dense=6), IMAGES),
}


def random_point(problem, seed, scale=0.6):
    return scale * np.random.default_rng(seed).standard_normal(problem.num_parameters)


# --- curves -----------------------------------------------------------------------------------------


def test_a_bezier_whose_bend_is_in_the_middle_is_the_line():
    a, b = RNG.standard_normal((2, 5))
    t = np.linspace(0, 1, 11)
    line = curves.coefficients("line", 2, t) @ np.stack([a, b])
    for kind in ("bezier", "chain"):
        points = np.stack([a, (a + b) / 2, b])
        assert np.allclose(curves.coefficients(kind, 3, t) @ points, line, atol=1e-15)
        assert np.allclose(curves.lengths(kind, points, t), t * np.linalg.norm(b - a))


def test_the_length_of_a_parabola():
    points = np.array([[0.0, 0.0], [0.5, 1.0], [1.0, 0.0]])  # y = 2x(1 − x)
    exact = math.sqrt(5) / 2 + math.asinh(2) / 4
    assert curves.lengths("bezier", points, np.array([0.0, 1.0]))[1] == pytest.approx(exact, rel=1e-6)
    assert curves.lengths("chain", points, np.array([0.5]))[0] == pytest.approx(math.hypot(0.5, 1))


def test_the_quartic_of_a_scalar_deep_linear_network():
    """L = ½(uv − 1)² on the line from (p, q) to (r, s) is ½ of the square of a quadratic in t."""
    scalar = Problem.from_function(lambda w: 0.5 * (w[0] * w[1] - 1) ** 2, jnp.array([1.0, 1.0]))
    p, q, r, s = 2.0, 0.5, -0.5, -1.5
    path = connect(scalar, [p, q], [r, s], "line", points=41)
    t = path.t
    quartic = 0.5 * (p * q - 1 + t * (p * (s - q) + q * (r - p)) + t**2 * (r - p) * (s - q)) ** 2
    assert np.allclose(path.values.loss, quartic, atol=1e-14)
    chord = (1 - t) * quartic[0] + t * quartic[-1]
    assert path.barrier == pytest.approx((quartic - chord).max()) and path.barrier > 0.3
    assert path.excess == pytest.approx(quartic.max() - max(quartic[0], quartic[-1]))


def test_a_convex_loss_has_no_barrier():
    curvature = jnp.array([3.0, 1.0, 1e-3])
    bowl = Problem.from_function(lambda w: 0.5 * jnp.sum(curvature * (w - 1) ** 2), jnp.zeros(3))
    for seed in range(5):
        a, b = np.random.default_rng(seed).standard_normal((2, 3))
        path = connect(bowl, a, b, "line")
        assert path.barrier == 0 and path.excess == 0


def test_fitted_curves_go_around_a_wall():
    """Between the minima ±1 of (x² + y² − 1)² the line has the barrier 1; a circle has none."""
    ring = Problem.from_function(lambda w: (w[0] ** 2 + w[1] ** 2 - 1) ** 2, jnp.array([1.0, 0.1]))
    a, b = np.array([-1.0, -0.02]), np.array([1.0, 0.1])
    line, bezier, chain = (
        connect(ring, a, b, kind, lr=0.1, steps=200) for kind in ("line", "bezier", "chain")
    )
    assert line.barrier > 0.95
    # The best parabola through (−1, 0), (0, h), (1, 0), and the best corner, on a grid.
    h, t = np.linspace(0.5, 2.5, 401)[:, None], np.linspace(0, 1, 401)
    parabola = ((2 * t - 1) ** 2 + (2 * t * (1 - t) * h) ** 2 - 1) ** 2
    corner = ((2 * t - 1) ** 2 + (np.minimum(2 * t, 2 - 2 * t) * h) ** 2 - 1) ** 2
    for path, best in ((bezier, parabola), (chain, corner)):
        assert np.mean(path.values.loss) == pytest.approx(best.mean(axis=1).min(), abs=0.02)
        assert path.points[0] == pytest.approx(a) and path.points[-1] == pytest.approx(b)
        assert path.length[-1] > 1.05 * np.linalg.norm(b - a)


def test_the_plane_goes_through_its_three_points():
    problem = mlp()
    a, b, c = (random_point(problem, seed) for seed in range(3))
    found = plane(problem, a, b, c, size=5, margin=0.0)
    here = found.project(np.stack([a, b, c]))
    assert np.allclose(here[:2], [[0, 0], [np.linalg.norm(b - a), 0]])
    corner = a + found.x[-1] * found.axes[0] + found.y[-1] * found.axes[1]
    assert found.loss[-1, -1] == pytest.approx(float(problem.loss(jnp.asarray(corner))))
    assert np.allclose(a + here[2] @ found.axes, c)


# --- permutations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_units_change_places_without_a_trace(name):
    """Every layer of every model: the function is the same; matching finds the way back, and then there is no barrier."""
    problem = NETS[name]()
    units = units_of(problem)
    a = random_point(problem, 1)
    orders = [np.random.default_rng(2).permutation(len(layer.incoming)) for layer in units]
    b = permuted(units, a, orders)
    assert not np.allclose(a, b)
    one, two = losses(problem, np.stack([a, b]))
    assert one == pytest.approx(two, rel=1e-13)
    matched, found = match(units, a, b)
    assert np.array_equal(matched, a)
    assert all(np.array_equal(order[back], np.arange(len(order))) for order, back in zip(orders, found))


def test_a_permuted_copy_with_noise_is_found():
    problem = mlp()
    units = units_of(problem)
    a = random_point(problem, 1)
    orders = [np.random.default_rng(2).permutation(len(layer.incoming)) for layer in units]
    b = permuted(units, a + 0.05 * random_point(problem, 3), orders)
    apart, together = (connect(problem, a, b, "line", match=match, points=11) for match in (False, True))
    assert together.barrier < 0.02 * apart.barrier and not apart.matched
    assert [list(order[back]) for order, back in zip(orders, together.orders)] == [
        list(range(7)),
        list(range(6)),
    ]


# --- dropout ------------------------------------------------------------------------------------------


def masked_loss(problem, w, kept):
    """Loss of a network without some hidden units, those kept counted twice; independently of the path."""
    widths = (7, 6)
    places = problem.places
    x, y = jnp.asarray(VECTORS.x), VECTORS.y
    for number, layer in enumerate(places.layers):
        x = x @ w[layer.weight] + w[layer.bias]
        if number < len(widths):
            x = jax.nn.gelu(x, approximate=False)
            if kept[number] is not None:
                x = 2 * x * jnp.zeros(widths[number]).at[kept[number]].set(1)
    return float(MSE()(x, y))


def test_a_dropout_path_needs_a_loss_convex_in_the_output_layer():
    problem = mlp(output="tanh")
    with pytest.raises(UserError, match=r"model\.output=tanh after it; choose another kind"):
        connect(problem, random_point(problem, 1), random_point(problem, 2), "dropout")


@pytest.mark.parametrize(("name", "refit"), [("mlp", False), ("mlp", True), ("deep", False), ("cnn", True)])
def test_a_dropout_path_is_convex_or_constant_and_below_its_bound(name, refit):
    problem = NETS[name]()
    units = units_of(problem)
    a, b = random_point(problem, 1), random_point(problem, 2)
    halves = dropout.random_halves(units, 0)
    corners = dropout.corners(units, a, b, halves, problem if refit else None)
    segments = 4 * len(units) + 1
    path = connect(problem, a, b, "dropout", refit=refit, halves=1, points=8 * segments + 1)
    assert np.array_equal(path.points, corners.points) and len(corners.convex) == segments
    assert np.array_equal(path.points[0], a) and np.array_equal(path.points[-1], b)
    loss = path.values.loss
    for number, convex in enumerate(corners.convex):
        along = loss[8 * number : 8 * number + 9]
        if convex:
            assert np.diff(along, 2).min() > -1e-12 * along.max()
        else:
            assert np.ptp(along) < 1e-12 * along.max()
    assert loss.max() <= path.bound * (1 + 1e-12)
    scaled = dropout.corners(units, a, b, halves)
    at_corners, at_scaled = losses(problem, corners.points), losses(problem, scaled.points)
    assert path.bound == pytest.approx(at_corners.max())
    if refit:
        assert np.all(at_corners <= at_scaled) and at_corners.mean() < 0.9 * at_scaled.mean()


def test_corners_of_a_dropout_path_are_networks_of_half_their_units():
    problem = mlp()
    a, b = random_point(problem, 1), random_point(problem, 2)
    one, two = halves = dropout.random_halves(units_of(problem), 0)
    path = dropout.corners(units_of(problem), a, b, halves)
    other_one, other_two = np.setdiff1d(np.arange(7), one)[:3], np.setdiff1d(np.arange(6), two)
    found = losses(problem, path.points)
    expected = [masked_loss(problem, a, kept) for kept in ([None, None], [None, two], [one, two])]
    back = [
        masked_loss(problem, b, kept) for kept in ([other_one, other_two], [None, other_two], [None, None])
    ]
    assert np.allclose(found[[0, 1, 3]], expected) and np.allclose(found[[5, 7, 9]], back)


# --- what is refused ------------------------------------------------------------------------------------


def test_what_cannot_be_connected_is_one_sentence():
    bowl = Problem.from_function(lambda w: jnp.sum(w**2), jnp.ones(2))
    for arguments, words in (
        (([0.0, 1.0], [1.0, 0.0], "beziers"), "did you mean bezier"),
        (([0.0], [1.0], "line"), "has the shape"),
        (([0.0, 1.0], [jnp.inf, 0.0], "line"), "not finite"),
        (([0.0, 1.0], [1.0, 0.0], "dropout"), "no hidden units"),
    ):
        with pytest.raises(UserError, match=words):
            connect(bowl, *arguments)
    narrow = mlp(widths=(1,))
    with pytest.raises(UserError, match="two or more"):
        connect(narrow, narrow.w0, -narrow.w0, "dropout")
    assert curves.KINDS == path_settings.KINDS
    assert list(PATH_SETTINGS) == list(PathSettings.__dataclass_fields__)
    for values, words in (
        ({"kind": "bezzier"}, "kind must be one or several of line"),
        ({"pionts": 3}, "did you mean points"),
        ({"points": 2}, "from 3"),
        ({"match": 1}, "true or false"),
    ):
        with pytest.raises(UserError, match=words):
            PathSettings.of(values)


# --- runs and files -------------------------------------------------------------------------------------

QUICK = (
    "experiment=quick",
    "steps=8",
    "model.widths=[6,6]",
    "processes=[discrete]",
    "measurements=[]",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, the first with what a flow leaves in a checkpoint, and one of another model."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in (("a", ["seed=1"]), ("b", ["seed=2"]), ("wide", ["model.widths=[7]"])):
        assert main(["run", *QUICK, "lr=0.1", *words, f"hydra.run.dir={folder / name}"]) == 0
    last = checkpoints.at_step(folder / "a", None)
    flow = {"central.process.weights": np.float32(0.9) * last.arrays["discrete.weights"]}
    checkpoints.write(last.path, last.header, last.arrays | flow)
    return folder


@pytest.fixture(scope="module")
def found(runs):
    """Folder and words of ``cflow path``, as installed."""
    folder = runs / "path"
    words = ["kind=line,bezier", "match=true", "points=11", "steps=20", f"out={folder}"]
    cflow = str(Path(sys.executable).parent / "cflow")
    done = subprocess.run(
        [cflow, "path", f"{runs / 'a'}@central", f"{runs / 'b'}@discrete@8", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_path_between_runs_as_installed(runs, found):
    folder, shown = found
    assert {path.name for path in folder.iterdir()} == {"path.json", "path.parquet", "path.npz", "path.png"}
    about = json.loads((folder / "path.json").read_text(encoding="utf-8"))
    assert [(end["process"], end["step"]) for end in about["ends"]] == [("central", 8), ("discrete", 8)]
    table = pd.read_parquet(folder / "path.parquet")
    assert table["matched"].all()
    for kind in ("line", "bezier"):
        rows = table[table["kind"] == kind]
        assert len(rows) == 11 and kind in shown
        numbers = about["paths"][kind]
        assert numbers["max_loss"] == rows["loss"].max()
        assert numbers["max_test_error"] == pytest.approx(1 - rows["test_accuracy"].min())
    # The ends are those of the runs, and matching changes no function.
    start = checkpoints.at_step(runs / "a", 8).arrays["central.process.weights"]
    assert about["ends"][0]["weights_sha256"] == hashlib.sha256(start.tobytes()).hexdigest()
    before = load(runs / "b").metrics.query("step == 7")["loss"].iloc[0]  # a step before the checkpoint
    assert 0.8 * before < table["loss"].iloc[-1] < before


def test_a_run_starts_from_a_point_of_a_curve(runs, found, tmp_path, capsys):
    folder, _ = found
    words = [*QUICK, "steps=2", f"init.from={folder}", f"hydra.run.dir={tmp_path / 'from'}"]
    assert main(["run", *words, "init.process=bezier", "init.t=0.5"]) == 0
    assert f"weights only of the curve at t = 0.5 in {folder}" in capsys.readouterr().out
    metrics = load(tmp_path / "from").metrics
    table = pd.read_parquet(folder / "path.parquet").set_index(["kind", "t"])["loss"]
    first = metrics[(metrics["process"] == "discrete") & (metrics["step"] == 0)]["loss"].iloc[0]
    assert first == pytest.approx(table["bezier", 0.5], rel=1e-5)
    for more, sentence in (
        ([], "curves line, bezier;"),
        (["init.process=chain", "init.t=0.5"], "as in init.process=line init.t=0.5"),
        (["init.process=bezier", "init.t=2"], "init.t must be a number from 0 to 1"),
    ):
        assert main(["run", *words[:-1], *more]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["run", *QUICK, f"init.from={runs / 'a'}", "init.t=0.5"]) == 2
    assert "is for a folder of cflow path" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    content = bytearray((damaged / "path.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "path.npz").write_bytes(content)
    assert main(["run", *QUICK, f"init.from={damaged}", "init.process=bezier", "init.t=0.5"]) == 2
    assert "damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="changed after it was written"):
        paths.read(damaged)


def test_runs_that_have_no_path_are_one_sentence(runs, tmp_path, capsys):
    a, b = str(runs / "a"), str(runs / "b")
    foreign = tmp_path / "foreign"
    shutil.copytree(runs / "a", foreign)
    config = (
        (foreign / "config.yaml").read_text(encoding="utf-8").replace("cflow_cli.losses.mse", "os.system")
    )
    (foreign / "config.yaml").write_text(config, encoding="utf-8")
    manifest = json.loads((foreign / "manifest.json").read_text(encoding="utf-8"))
    for key in ("sha256", "config_sha256"):
        manifest.pop(key, None)
    (foreign / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for words, sentence in (
        ([a], "takes two ends, got 1"),
        ([a, f"{b}@stable"], "has no stable process; it has discrete"),
        ([a, f"{b}@central@3"], "no checkpoint of step 3, only of 8"),
        ([a, f"{b}@central@x"], "as in RUN@central@200"),
        ([a, str(runs / "c")], "not an existing folder"),
        ([a, str(runs / "wide")], "model.widths is [6, 6] in one and [7] in the other"),
        ([a, a], "the same point"),
        ([a, b, "kind=beziers"], "kind must be one or several of line, bezier, chain, dropout"),
        ([a, b, "point=3"], "did you mean points"),
        ([a, b, f"out={runs}"], "a folder with other files"),
        ([str(foreign), b], "os.system; if it is your own, add --config-dir"),
    ):
        assert main(["path", *words]) == 2, words
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, error


def test_a_comparison_has_the_barrier_of_the_straight_line(runs, capsys):
    assert main(["compare", str(runs / "a"), str(runs / "b"), "--barrier"]) == 0
    line = r"between the optimizers' ends: barrier [\d.e-]+, excess [\d.e-]+, distance [\d.]+"
    assert re.search(line, capsys.readouterr().out)


def test_a_figure_makes_its_paths_once(runs, tmp_path, capsys):
    folders = {"one": runs / "a", "two": runs / "b"}
    plan = ("one@central", "two", {"kind": "line", "points": 5})
    first = connections.obtain(plan, folders, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in first.paths.folder.iterdir()}
    again = connections.obtain(plan, folders, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in again.paths.folder.iterdir()} == written
    assert capsys.readouterr().out.count("path ") == 1
    loss = first.loss()
    assert list(loss.index) == [0, 0.25, 0.5, 0.75, 1] and first.end_loss == max(loss.iloc[0], loss.iloc[-1])
    assert first["line"]["max_loss"] == loss.max()
    (first.paths.folder / "path.json").unlink()  # as after an interrupt
    assert connections.obtain(plan, folders, tmp_path)["line"]["barrier"] == first["line"]["barrier"]
    with pytest.raises(UserError, match="its runs are one, two"):
        connections.obtain(("one", "three", {}), folders, tmp_path)
