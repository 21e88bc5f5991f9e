import pytest
from omegaconf import OmegaConf

from cflow_cli.config import composing, tree
from cflow_cli.config.building import build
from cflow_cli.config.checking import check
from cflow_cli.config.composing import compose
from cflow_cli.config.settings import SETTINGS, Settings
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.options import Discrete, Midpoint
from cflow_cli.errors import UserError
from cflow_cli.flows.options import Central, Stable

OPTIMIZERS = sorted(tree.groups()["optimizer"])


def test_defaults():
    checked = check(compose())
    assert checked.eigs == EigsOptions()
    assert checked.processes == (Discrete(), Midpoint(), Stable(), Central())
    assert checked.settings.dtype == "float32" and checked.settings.warm_start is None


def test_the_config_file_has_the_keys_and_the_meanings_of_the_table():
    entries = tree.read_entries(tree.conf_dir() / "config.yaml")
    written = {entry.key: entry.comment for entry in entries if not entry.key.startswith("hydra.")}
    assert written == {key: setting.meaning for key, setting in SETTINGS.items()}
    assert set(Settings.__dataclass_fields__) == {key.split(".")[0] for key in SETTINGS}


@pytest.mark.parametrize("group", sorted(set(tree.groups()) - {"launcher", "logger"}))
def test_every_choice_composes(group):
    for choice, path in tree.groups()[group].items():
        cfg = compose([f"{group}={choice}"])
        for key in tree.read_choice(path, group).keys:
            assert "." not in key or key.rsplit(".", 1)[1] in OmegaConf.select(cfg, key.rsplit(".", 1)[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_built_and_descend(name):
    import jax
    import jax.numpy as jnp
    import optax

    cfg = compose([f"optimizer={name}"])
    optimizer = build(cfg.optimizer, "optimizer")
    w, g = jnp.ones(3), jnp.array([1.0, 2.0, 3.0])
    step = jax.jit(optimizer.update)
    updates, _ = step(g, step(g, optimizer.init(w), w)[1], w)  # SOAP's first gradient makes no step
    assert isinstance(optimizer, optax.GradientTransformation)
    assert jnp.all(updates < 0)


def test_rmsprop_is_the_papers():
    import jax.numpy as jnp
    import numpy as np

    optimizer = build(compose(["optimizer=rmsprop", "lr=0.1", "optimizer.eps=0.5"]).optimizer, "optimizer")
    w = jnp.zeros(2)
    state, nu = optimizer.init(w), np.zeros(2)
    for t, g in enumerate([np.array([1.0, -2.0]), np.array([3.0, 0.5])], start=1):
        updates, state = optimizer.update(jnp.asarray(g), state, w)
        nu = 0.99 * nu + 0.01 * g**2
        np.testing.assert_allclose(updates, -0.1 * g / (np.sqrt(nu / (1 - 0.99**t)) + 0.5), rtol=1e-5)


def test_an_optimizer_brings_its_lr_and_the_command_line_wins():
    assert (
        compose(["optimizer=adam"]).lr == compose(["optimizer=adam"]).optimizer.learning_rate != compose().lr
    )
    assert compose(["lr=0.5", "optimizer=adam"]).optimizer.learning_rate == 0.5


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("cosine", {0: 1, 50: 0.5, 100: 0}),
        ("one_cycle", {0: 1 / 25, 30: 1, 100: 1 / 25 / 1e4}),
        ("linear_warmup", {0: 0.1, 25: 0.55, 50: 1, 100: 1}),
        ("step schedule.transition_steps=20", {0: 1, 19: 1, 20: 0.5, 40: 0.25}),
    ],
)
def test_schedules_peak_at_lr(schedule, values):
    cfg = compose(["lr=0.2", "steps=100", *f"schedule={schedule}".split()])
    rate = build(cfg.schedule, "schedule")
    for step, part in values.items():
        assert float(rate(step)) == pytest.approx(0.2 * part, rel=1e-5, abs=1e-8)


def test_a_schedule_reaches_the_optimizer():
    import jax.numpy as jnp

    cfg = compose(["lr=0.2", "steps=2", "schedule=cosine"])
    optimizer = build(cfg.optimizer, "optimizer")
    state, w, taken = optimizer.init(jnp.ones(1)), jnp.ones(1), []
    for _ in range(2):
        updates, state = optimizer.update(jnp.ones(1), state, w)
        taken.append(-float(updates[0]))
    assert taken == pytest.approx([0.2, 0.1], rel=1e-5)
    assert compose(["lr=0.2"]).schedule == 0.2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("lr=-0.1", "lr must be a positive number of at most 1e+15, got -0.1"),
        ("lr=0", "positive"),
        ("lr=nan", "positive"),
        ("lr=fast", "got 'fast'"),
        ("steps=0", "steps must be a whole number from 1 to"),
        ("steps=2.5", "steps must be a whole number"),
        ("seed=-1", "seed must be"),
        ("dtype=float23", "float32 or float64, got 'float23' (did you mean float32?)"),
        ("device=gppu", "did you mean gpu?"),
        ("device=auto:1", "device must be"),
        ("warm_start=251", "from 0 to 250"),
        ("kick=-1", "kick"),
        ("measurements.evaluation.every=0", "measurements.evaluation: every must be at least 1, got 0"),
        ("measurements.coordinates.watch=[1,-2]", "none negative"),
        ("measurements=[evaluation,outpts]", "did you mean outputs?"),
        ("measurements=[outputs] measurements.outputs.trian=2", "did you mean measurements.outputs.train?"),
        ("optimizer=adm", "unknown optimizer 'adm' (did you mean adam?); choose from"),
        ("processes=[discrete,centrl]", "did you mean central?"),
        ("processes=[]", "at least one"),
        ("optimzer=adam", "did you mean optimizer?"),
        ("optimizer.b2=0.9", "optimizer=gd has learning_rate"),
        ("optimizer=adam optimizer.b3=0.9", "did you mean optimizer.b2?"),
        ("b2=0.9 optimizer=adam", "did you mean optimizer.b2?"),
        ("optimizer=adam optimizer.b2=1", "optimizer.b2 must be at least 0 and below 1"),
        ("optimizer=adam optimizer.eps=-1", "not be negative"),
        (
            "optimizer=decayed optimizer.optimizer.decay=1",
            "optimizer.optimizer.decay must be at least 0 and below 1",
        ),
        ("optimizer=adam optimizer.b2=high", "optimizer.b2 must be a number, got 'high'"),
        ("stesp=3", "did you mean steps?"),
        ("+stesp=3", "unknown key 'stesp'"),
        ("~lr", "no lr"),
        ("model/foo=3", "groups are"),
        ("model.widths=64", "model.widths must be a list, as in 'model.widths=[32,32]', got 64"),
        ("eigs.guard_vectors=0", "guard"),
        ("eigs.every=often", "eigs.every must be a whole number"),
        ("eigs.track_above=3", "track_above"),
        ("processes.central.substeps=0", "processes.central"),
        ("processes.central.third_derivatives_every=0", "third_derivatives_every must be at least 1"),
        ("processes.stable.substep=2", "did you mean processes.stable.substeps?"),
        ("schedule.alpha=1", "schedule=constant has no keys"),
        ("lr=0.1,0.2", "add -m"),
        ("lr=[0.1", "cannot read the override"),
        ("lr=${nothing}", "nothing"),
        ("hydra/launcher=slrm", "choose from basic"),
    ],
)
def test_bad_input_is_one_sentence(overrides, words):
    with pytest.raises(UserError) as raised:
        compose(overrides.split(" "))
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_whole_numbers_may_be_written_as_floats():
    assert check(compose(["steps=1e3", "eigs.every=2.0"])).settings.steps == 1000


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_users_own_folder(tmp_path):
    write(
        tmp_path / "optimizer" / "mine.yaml",
        "# @package _global_\nlr: 7\noptimizer:\n  _target_: optax.sgd\n",
    )
    write(
        tmp_path / "experiment" / "short.yaml",
        "# @package _global_\ndefaults:\n  - override /optimizer: adam\nsteps: 3\nlr: 0.5\n",
    )
    assert compose(["optimizer=mine"], tmp_path).lr == 7
    experiment = compose(["experiment=short", "optimizer.b1=0.5"], tmp_path)
    assert (experiment.steps, experiment.lr, experiment.optimizer.b1) == (3, 0.5, 0.5)
    with pytest.raises(UserError, match="optimizer=adam has learning_rate, b1"):
        compose(["experiment=short", "optimizer.b=0.5"], tmp_path)
    write(tmp_path / "model" / "mlp.yaml", "")
    with pytest.raises(UserError, match="rename it"):
        compose([], tmp_path)
    with pytest.raises(UserError, match="not an existing folder"):
        compose([], tmp_path / "absent")


def test_a_target_that_does_not_fit(tmp_path):
    write(tmp_path / "optimizer" / "lost.yaml", "_target_: optax.no_such_thing\n")
    with pytest.raises(UserError, match="no_such_thing"):
        build(compose(["optimizer=lost"], tmp_path).optimizer, "optimizer")
    with pytest.raises(UserError, match=r"unknown key 'optimizer.speed': optax.sgd does not take it"):
        build(compose(["+optimizer.speed=3"]).optimizer, "optimizer")


def test_labels_are_readable_and_safe():
    assert composing.label(None, "gd", []) == "gd"
    overrides = [
        "optimizer=adam",
        "lr=1e-3",
        "model.widths=[64,64]",
        "data.root=/a/b c/",
        "+optimizer.b2=0.9",
    ]
    assert composing.label("my run", "adam", overrides) == "my-run_lr-1e-3_widths-64-64_root-b-c_b2-0.9"
    long = composing.label(None, "gd", [f"key{i}={i}" for i in range(100)])
    assert len(long) <= 80
