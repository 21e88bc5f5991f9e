"""Bad configs and bad data files end in one sentence, soon, and run nothing: the short forms of `make chaos`."""

import functools
import os
import time
from collections import Counter

import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cflow_cli.config import composing, yaml_files
from cflow_cli.config.building import build
from cflow_cli.config.checking import check
from cflow_cli.config.composing import compose
from cflow_cli.config.interpolation import check_interpolations
from cflow_cli.datasets.dataset import Dataset
from cflow_cli.datasets.npz import npz
from cflow_cli.errors import UserError, printable

GOOD = strategies.plain(compose())
SECONDS = 10


def outcome(function, *arguments, **options):
    """What comes of a call: the sentence, or ``accepted``; anything else it raises is an error of this test."""
    began = time.monotonic()
    try:
        function(*arguments, **options)
        said = "accepted"
    except UserError as error:
        said = str(error)
        assert said and "\n" not in printable(said) and "Traceback" not in said
        assert len(said) < 2000, said
    assert time.monotonic() - began < SECONDS, said
    return said


def many(strategy, number, use):
    """Use that many examples, the same ones each time; how many were accepted and refused."""
    counted = Counter()

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def go(example):
        counted["accepted" if use(example) == "accepted" else "refused"] += 1

    go()
    return counted


def checked(config, *, with_data=False):
    """Everything of a run that is checked before JAX is needed, the making of its data or not."""
    try:
        cfg = OmegaConf.create(config)
    except Exception:  # no config, and none that composing could make
        return "refused"

    def prepare():
        check(cfg)
        if with_data:
            build(cfg.data, "data")

    return outcome(prepare)


def read_data(folder, content, task, classes):
    path = folder / "data.npz"
    path.write_bytes(content)

    def read():
        assert isinstance(npz(str(path), task, classes), Dataset)

    return outcome(read)


def data_files():
    return st.tuples(
        strategies.files(),
        st.sampled_from(["classification"] * 4 + ["binary", "regression", "tokens", "nonsense"]),
        st.sampled_from([None] * 12 + [2, 3.5, -1, True, "a", 10**30]),
    )


@pytest.fixture
def nothing_runs(tmp_path, monkeypatch):
    """A folder to work in; commands of the strategies would leave a file MARKER in it."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.rglob("MARKER"))


def test_bad_configs(nothing_runs):
    counted = many(strategies.configs(GOOD), 60, checked)
    assert counted["refused"] > counted["accepted"]


def test_bad_overrides(nothing_runs):
    many(strategies.overrides(GOOD), 8, lambda words: outcome(compose, words))


def test_bad_data_files(nothing_runs):
    counted = many(data_files(), 60, lambda example: read_data(nothing_runs, *example))
    assert counted["refused"] > counted["accepted"]


@pytest.mark.slow
def test_300_bad_configs_and_200_bad_data_files(nothing_runs, capsys):
    told = {
        "configs": many(strategies.configs(GOOD), 200, functools.partial(checked, with_data=True)),
        "overrides": many(strategies.overrides(GOOD), 100, lambda words: outcome(compose, words)),
        "data files": many(data_files(), 200, lambda example: read_data(nothing_runs, *example)),
    }
    with capsys.disabled():
        print("", *(f"{what}: {dict(counted)}" for what, counted in told.items()), sep="\n")


@pytest.mark.parametrize("name", sorted(set(strategies.YAML_BOMBS) - {"twice"}))
def test_files_of_yaml_that_are_bombs(name, nothing_runs):
    path = nothing_runs / "experiment" / "bad.yaml"
    path.parent.mkdir()
    path.write_text(strategies.YAML_BOMBS[name])
    said = outcome(yaml_files.load, path)
    assert str(path) in said and len(said) < 400


def test_a_folder_of_configs_with_a_bomb_is_refused_before_hydra_reads_it(nothing_runs):
    path = nothing_runs / "experiment" / "bad.yaml"
    path.parent.mkdir()
    path.write_text(strategies.YAML_BOMBS["aliases"])
    assert "stands for more than" in outcome(compose, ["experiment=bad"], nothing_runs)
    path.write_text("# @package _global_\nmodel:\n  x: ${.y}\n  y: ${model.x}\n")
    assert "refers to itself" in outcome(compose, ["experiment=bad"], nothing_runs)
    path.write_text(
        "# @package _global_\nmodel:\n  more:" + strategies.YAML_BOMBS["twice"].replace("\n", "\n    ")[12:]
    )
    assert "once its ${…} are replaced" in outcome(compose, ["experiment=bad"], nothing_runs)


def test_references_that_every_config_has_are_small():
    check_interpolations(
        {
            "lr": 0.1,
            "a": ["${lr}", "${.[0]}", "${cflow.times:${lr},2}"],
            "b": {"c": "${..lr}", "d": "${oc.select:e,3}"},
        }
    )
    with pytest.raises(UserError, match="too many values"):
        check_interpolations({f"k{n}": f"${{k{n + 1}}}" for n in range(3000)})


FOLDERS = [
    "ü",
    "é 1",
    "it's",
    "lr=0.1",
    "a(1)",
    "b)",
    "#1",
    "50%",
    "1e3",
    "null1",
    "a,b",
    "[x]",
    "{y}",
    "a:b",
    "~x",
    "a\\b",
]
FOLDERS += ['say "hi"', "tab\tin", "-x", "+x", "@x", "a$b", "true", "日本", "0x10"]


@pytest.mark.parametrize("name", FOLDERS)
def test_names_of_folders_are_text(name):
    (word,) = composing.paths_as_text([f"hydra.run.dir={name}"])
    assert OmegaConf.create({"dir": composing.parse(word).value()}).dir == name
    assert composing.paths_as_text([word]) == [word]  # what is quoted stays


def test_a_folder_s_name_reaches_the_run_as_it_was_typed(tmp_path):
    folder = str(tmp_path / "ü (1)=#%")
    with composing.hydra_session() as hydra:
        cfg = composing.composed(
            hydra, [f"hydra.run.dir={folder}", "data=npz", "data.path=1e3", f"init.from={folder}"]
        )
    assert (cfg.hydra.run.dir, cfg.data.path, cfg.init["from"]) == (folder, "1e3", folder)
    assert composing.paths_as_text(["data.path=a,b (1)"], multirun=True) == ["data.path='a','b (1)'"]
    assert composing.paths_as_text(["data.path=a,b"], multirun=True) == ["data.path=a,b"]


def test_labels_and_classes_that_no_data_has(tmp_path):
    import numpy as np

    path = tmp_path / "data.npz"
    for labels, said in (
        (np.array([0, 2**32]), "4294967296"),
        (np.array([0, 2**31 - 1]), "number them from 0"),
        (np.array([0, -(2**40)]), "number the classes from 0"),
        (np.array([0, 2.0**70]), "number the classes from 0"),
    ):
        np.savez(path, x=np.zeros((2, 3)), y=labels)
        assert said in outcome(npz, str(path))
    np.savez(path, x=np.zeros((2, 3)), y=np.array([0, 1]))
    for classes in (3.5, 0, True, "many"):
        assert "data.classes must be a whole number" in outcome(npz, str(path), classes=classes)


def test_a_file_larger_than_memory_and_a_pipe_are_not_read(tmp_path, monkeypatch):
    import numpy as np

    from cflow_cli.datasets import npz as module

    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((2000, 50)), y=np.zeros(2000))
    monkeypatch.setattr(module, "memory", lambda: 100_000)
    assert "of memory" in outcome(npz, str(path))
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in outcome(npz, str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    ("data", "option", "power"),
    [
        ("gaussian", "n", 12),
        ("gaussian", "features", 12),
        ("sorting", "n", 12),
        ("copying", "length", 11),
        ("chebyshev", "n", 12),
        ("moons", "n_test", 12),
        ("sensing", "n", 10),
        ("completion", "rows", 12),
    ],
)
def test_data_larger_than_memory_are_not_made(data, option, power):
    node = compose([f"data={data}", f"data.{option}={10**power}"]).data
    said = outcome(build, node, "data")
    assert f"data.{option}={10**power}" in said and "of memory; ask for fewer" in said
