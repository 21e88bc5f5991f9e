"""Bad configs and bad data files, as strategies of hypothesis: what may come from a slip of the hand or from elsewhere."""

import copy
import io
import struct
import zipfile

import numpy as np
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cflow_cli.config.tree import flatten

# --- configs --------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(
    [0, -1, 1.5, 1e308, -1e308, 1e-320, 2**31, 2**63, 10**30, 10**400, float("inf"), float("nan"), True]
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            "null",
            "abc",
            "???",
            "${lr}",
            "${steps}${steps}",
            "${nothing}",
            "${",
            "${oc.env:HOME}",
            "${..lr}",
            "${oc.create:'{_target_: os.system}'}",
            "${a.${b}}",
            "\x1b[2J",
            "a\nb",
            "%s",
            "../..",
            "/dev/zero",
            "=1+1",
        ]
    ),
)
TARGETS = st.sampled_from(
    [
        "os.system",
        "builtins.dict",
        "builtins.eval",
        "subprocess.run",
        "pandas.read_pickle",
        "numpy.load",
        "joblib.load",
        "hydra.utils.get_method",
        "optax.global_norm",
        "optax",
        "optax.no_such",
        "cflow_cli.datasets.fetch.download",
        "cflow_cli.datasets.npz.np.load",
        "cflow_cli.cli.main",
        "no_such_module.X",
        "",
        ".",
        "a..b",
        3,
        None,
        "é.ü",
    ]
)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS, st.integers(), st.floats()),
    lambda inside: st.one_of(
        st.lists(inside, max_size=3),
        st.dictionaries(st.text(max_size=8), inside, max_size=3),
        st.fixed_dictionaries({"_target_": TARGETS}, optional={"_args_": inside, "_partial_": st.just(True)}),
    ),
    max_leaves=6,
)


def nodes(config, prefix=()):
    """Every key of a nested config, as a path."""
    for key, value in config.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from nodes(value, (*prefix, key))


@st.composite
def configs(draw, good):
    """A good config with one to three values replaced, removed or added."""
    config = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(sorted(nodes(config), key=str)))
        node = config
        for key in path[:-1]:
            node = node[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add", "retarget"]))
        if action == "remove":
            del node[path[-1]]
        elif action == "add":
            node[
                draw(st.text(min_size=1, max_size=10) | st.sampled_from(["_target_", "_recursive_", "lr"]))
            ] = draw(VALUES)
        elif action == "retarget" and isinstance(node[path[-1]], dict):
            node[path[-1]]["_target_"] = draw(TARGETS)
        else:
            node[path[-1]] = draw(VALUES)
        if not config:
            break
    return config


@st.composite
def overrides(draw, good):
    """Words as on a command line, most of them with a key that there is."""
    keys = (
        sorted(flatten(good))
        + sorted(good)
        + ["hydra.run.dir", "hydra.searchpath", "hydra/launcher", "launcher"]
    )
    words = []
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(keys) | st.text(max_size=8))
        value = draw(
            st.one_of(
                TEXTS,
                NUMBERS.map(str),
                TARGETS.map(lambda target: f"{{_target_:{target}}}"),
                st.integers(1, 4000).map(lambda n: "[" * n),
                st.integers(1, 4000).map(lambda n: "[" * n + "]" * n),
                st.integers(1, 9000).map(lambda n: "9" * n),
                st.sampled_from(
                    ["null", "[]", "{}", "1,2", "range(1,9)", "glob(*)", "[a,b]", "{a:{b:c}}", "'", '"', "\\"]
                ),
            )
        )
        words.append(
            draw(st.sampled_from(["", "", "+", "++", "~"]))
            + key
            + draw(st.sampled_from(["=", "=", "", "._target_="]))
            + value
        )
    return words


YAML_BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi")
    ),
    "merges": "a: &a {k: 1}\n"
    + "".join(
        f"{b}: &{b} {{x: *{a}, y: *{a}}}\n" for a, b in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst")
    ),
    "brackets": "a: " + "[" * 20_000 + "]" * 20_000,
    "unclosed": "a: " + "{b: " * 20_000,
    "indented": "".join(" " * n + f"k{n}:\n" for n in range(600)),
    "dashes": "- " * 20_000 + "x",
    "itself": "a: &a [*a]",
    "large": "a: " + "x" * 2_000_000,
    "many": "a: [" + "1," * 150_000 + "1]",
    "python": "a: !!python/object/apply:os.system ['touch MARKER']",
    "digits": "lr: " + "9" * 10_000,
    "date": "lr: 2001-99-99",
    "binary": "a: \x00\x01",
    "twice": "interpolated:\n"
    + "".join(f"  k{n}: ${{.k{n + 1}}}${{.k{n + 1}}}\n" for n in range(60))
    + "  k60: x\n",
}

# --- data files -----------------------------------------------------------------------------------------


def npy(header, content=b"\0" * 64, version=b"\x01\x00"):
    """A file of one array with any header."""
    text = header.encode("latin1", "replace")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    length = struct.pack("<H", len(text)) if version == b"\x01\x00" else struct.pack("<I", len(text))
    return b"\x93NUMPY" + version + length + text + content


HEADERS = st.one_of(
    st.builds(
        "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}, }}".format,
        st.sampled_from(
            ["<f8", "<i8", "|O", "<U9", "|V8", ">c16", "<M8[s]", "nonsense", "", "|S0", "<f8,<i8", "<f99"]
        ),
        st.sampled_from(["False", "True", "3", "None"]),
        st.sampled_from(
            [
                "(8,)",
                "()",
                "(0,)",
                "(-1,)",
                "(10**9,)",
                f"({2**62},)",
                f"({2**40}, {2**40})",
                "(2.5,)",
                "'a'",
                "(8",
                "(" * 200 + ")" * 200,
                "(None,)",
                "(1,) * 99",
                f"({'1,' * 70})",
                "(9" + "9" * 5000 + ",)",
            ]
        ),
    ),
    st.sampled_from(
        ["", "{}", "[" * 9000, "__import__('os').system('touch MARKER')", "{'descr': '<f8'}", "\0" * 50]
    ),
    st.text(max_size=60),
)
ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.zeros(()),
        np.zeros((8, 0)),
        np.full((8, 3), np.nan),
        np.full((8, 3), np.inf),
        np.full(8, 1e308),
        np.full(8, 2**32),
        np.full(8, -1),
        np.full(8, 2**63, np.uint64),
        np.full(8, 2.0**70),
        np.full(8, 10**6),
        np.arange(8) + 0.5,
        np.zeros(8, complex),
        np.array(["a"] * 8),
        np.zeros(8, "M8[s]"),
        np.zeros(8, [("a", float)]),
        np.zeros((8, 2, 2, 2, 2, 2)),
        np.zeros(7, int),
        np.ones(8, bool),
        np.zeros((8, 3), np.float16),
        np.zeros((8, 3), np.longdouble),
    ]
)


def packed(members):
    """An .npz of members given as bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def as_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@st.composite
def files(draw):
    """Bytes that may be an .npz, and are damaged, deceitful, or hold arrays that fit no task."""
    good = {"x.npy": as_bytes(np.arange(24.0).reshape(8, 3)), "y.npy": as_bytes(np.arange(8) % 2)}
    route = draw(st.sampled_from(["arrays", "header", "bits", "bits", "cut", "flags", "bytes", "single"]))
    if route == "bytes":
        return draw(st.binary(max_size=200) | st.binary(max_size=99).map(lambda tail: b"PK\x03\x04" + tail))
    if route == "single":
        return draw(
            st.sampled_from(
                [*good.values(), b"\x80\x04cos\nsystem\n(S'touch MARKER'\ntR.", b"\x1f\x8b" + b"\0" * 40]
            )
        )
    name = draw(st.sampled_from(["x.npy", "y.npy"]))
    if route == "arrays":
        extra = draw(st.sampled_from([name, "x_test.npy", "y_test.npy", "mask.npy", "z.npy"]))
        return packed({**good, extra: as_bytes(draw(ARRAYS))})
    if route == "header":
        version = draw(st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"]))
        return packed({**good, name: npy(draw(HEADERS), version=version)})
    whole = bytearray(packed(good))
    if route == "cut":
        return bytes(whole[: draw(st.integers(0, len(whole) - 1))])
    if route == "flags":
        # Method, flags (encrypted among them) and sizes, in the local header or in the central one.
        start = draw(
            st.sampled_from(
                [
                    6,
                    8,
                    18,
                    22,
                    whole.find(b"PK\x01\x02") + 8,
                    whole.find(b"PK\x01\x02") + 10,
                    whole.find(b"PK\x01\x02") + 24,
                ]
            )
        )
        whole[start] = draw(st.integers(0, 255))
        return bytes(whole)
    for _ in range(draw(st.integers(1, 3))):
        whole[draw(st.integers(0, len(whole) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(whole)


def plain(cfg):
    """A composed config as plain values, resolved."""
    return OmegaConf.to_container(cfg, resolve=True)
