"""Data sets: what is in them, that bad files and options are one sentence, and that downloads resume."""

import codecs
import contextlib
import hashlib
import http.server
import io
import pickle
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from cflow_cli.commands.data import main
from cflow_cli.config.building import build
from cflow_cli.datasets import Dataset
from cflow_cli.datasets.chebyshev import chebyshev
from cflow_cli.datasets.cifar10 import DEVIATION, MEAN, cifar10, find_folder
from cflow_cli.datasets.completion import completion
from cflow_cli.datasets.copying import copying
from cflow_cli.datasets.digits import _images, digits
from cflow_cli.datasets.fetch import Archive, fetch
from cflow_cli.datasets.gaussian import gaussian
from cflow_cli.datasets.npz import npz
from cflow_cli.datasets.planar import moons
from cflow_cli.datasets.sensing import sensing
from cflow_cli.datasets.sorting import sorting
from cflow_cli.datasets.text import text
from cflow_cli.errors import UserError

CONF = Path(__file__).parents[1] / "conf" / "data"
NEEDS_FILES = ("cifar10", "npz", "text")


def raises(function, *args, says, **options):
    with pytest.raises(UserError) as raised:
        function(*args, **options)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def fake_batches(folder, layout, each=30):
    """CIFAR-10 batches in a published layout, with random pixels and labels 0–9 in turn."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, size=(each, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(each)]
        if layout == "python":
            content = {"data": pixels, "labels": labels, "batch_label": name, "filenames": ["a.png"] * each}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        else:
            records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


@pytest.mark.parametrize("name", sorted(p.stem for p in CONF.glob("*.yaml") if p.stem not in NEEDS_FILES))
def test_every_config_builds_the_same_data_twice(name):
    first, again = (build(OmegaConf.load(CONF / f"{name}.yaml"), "data") for _ in range(2))
    assert isinstance(first, Dataset) and first.name == name
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.y, again.y)
    with_test = build(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), {"n_test": 20}), "data")
    assert len(with_test.x_test) == len(with_test.y_test) == 20
    np.testing.assert_array_equal(with_test.y, first.y)


def test_data_sets_do_not_import_jax():
    code = "import sys, cflow_cli.datasets.cifar10, cflow_cli.datasets.npz, cflow_cli.datasets.sorting, "
    code += "cflow_cli.datasets.digits, cflow_cli.datasets.fetch; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_are_those_of_scikit_learn():
    images, labels = _images()
    expected, classes = load_digits(return_X_y=True)
    assert np.array_equal(images.reshape(len(images), -1), expected) and np.array_equal(labels, classes)


def test_digits_are_the_first_of_each_class_and_test_ones_are_others():
    data = digits(n=40, classes=4, n_test=20)
    assert np.bincount(data.y).tolist() == [10] * 4 and np.bincount(data.y_test).tolist() == [5] * 4
    assert data.x.shape == (40, 8, 8, 1) and data.x.dtype == np.float32
    assert abs(data.x.mean()) < 1e-6 and abs(data.x.std() - 1) < 1e-6
    assert not (data.x_test[:, None] == data.x[None]).all(axis=(2, 3, 4)).any()
    binary = digits(n=10, classes="binary", n_test=None)
    assert set(binary.y.tolist()) == {-1.0, 1.0} and binary.num_outputs == 1 and binary.x_test is None


def test_both_layouts_of_cifar_agree_and_match_the_pixels(tmp_path):
    python = fake_batches(tmp_path / "a" / "cifar-10-batches-py", "python")
    binary = fake_batches(tmp_path / "b" / "cifar-10-batches-bin", "binary")
    first = cifar10(n=40, classes=4, n_test=8, root=str(tmp_path / "a"))
    second = cifar10(n=40, classes=4, n_test=8, root=str(binary))
    for field in ("x", "y", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    batch = pickle.loads((python / "data_batch_1").read_bytes())
    # The first example chosen is the first image of the first batch; channels are stored one after the other.
    red = batch["data"][0][:1024].reshape(32, 32)
    np.testing.assert_allclose(first.x[0, :, :, 0], (red - MEAN[0]) / DEVIATION[0], rtol=1e-5, atol=1e-5)
    halves = [cifar10(n=20, classes=4, skip=skip, root=str(python)).x for skip in (0, 5)]
    np.testing.assert_array_equal(np.sort(np.concatenate(halves).ravel()), np.sort(first.x.ravel()))
    pooled = cifar10(n=40, classes=4, pool=4, root=str(python))
    wanted = first.x.reshape(40, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(pooled.x, wanted, rtol=1e-4, atol=1e-5)


def test_cifar_is_looked_for_in_three_places(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CFLOW_DATA", raising=False)
    raises(find_folder, says="cflow data fetch cifar10")
    folder = fake_batches(tmp_path / "somewhere" / "cifar-10-batches-bin", "binary", each=10)
    monkeypatch.setenv("CFLOW_DATA", str(folder.parent))
    assert find_folder() == folder
    raises(find_folder, str(tmp_path), says=str(tmp_path))


class _Evil:
    def __reduce__(self):
        return eval, ("pytest.fail('the pickle ran code')",)


@pytest.mark.parametrize(
    "content",
    [
        _Evil(),
        {"data": np.array([_Evil()], dtype=object), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [Path("x")]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [11]},
        {"data": np.zeros((1, 3071), np.uint8), "labels": [0]},
        ["not", "a", "batch"],
    ],
)
def test_a_pickle_builds_nothing_but_arrays(tmp_path, content):
    folder = fake_batches(tmp_path / "cifar-10-batches-py", "python", each=10)
    (folder / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    raises(cifar10, n=4, root=str(folder), says="is not a CIFAR-10 batch")


def test_damaged_and_missing_batches(tmp_path):
    folder = fake_batches(tmp_path / "cifar-10-batches-bin", "binary", each=10)
    whole = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(whole[:-1])
    raises(cifar10, n=4, root=str(folder), says="no multiple of 3073")
    (folder / "data_batch_3.bin").unlink()
    raises(cifar10, n=4, root=str(folder), says="cannot read the CIFAR-10 batch")


def test_impossible_numbers_are_refused():
    raises(digits, n=201, classes=4, says="multiple of the 4 classes; got 201, try 200")
    raises(digits, n=100000, classes=10, says="at most")
    raises(digits, classes=11, says="2 to 10")
    raises(digits, microbatch=0, says="data.microbatch")
    raises(digits, microbatch=2.5, says="data.microbatch must be an integer")
    for make in (digits, sorting, chebyshev, gaussian, moons):
        raises(make, n_test=-5, says="data.n_test must be an integer of at least 1")
    raises(cifar10, pool=3, says="1, 2, 4, 8, 16, 32")
    raises(sorting, vocabulary=1, says="data.vocabulary")
    raises(chebyshev, degree=0, says="data.degree")
    raises(gaussian, features=0, says="data.features")


@pytest.mark.parametrize("make, answer", [(sorting, sorted), (copying, list)])
def test_strings_are_followed_by_their_answer(make, answer):
    data = make(n=6, n_test=3, vocabulary=5, length=4)
    for x, y, mask in zip(data.x, data.y, data.mask):
        string = np.append(x, y[-1])
        assert string[4:].tolist() == answer(string[:4].tolist())
        np.testing.assert_array_equal(x[1:], y[:-1])
        # Exactly the targets that follow from the first half count.
        assert mask.tolist() == [False] * 3 + [True] * 4
    assert data.x_test.shape == (3, 7) and data.mask_test.shape == (3, 7)


def test_text_is_cut_into_windows_and_only_its_beginning_is_read(tmp_path):
    path = tmp_path / "book.txt"
    words = "Ein Ä und\r\nein 𝔘 " * 4
    # What comes behind is not even text.
    path.write_bytes(codecs.BOM_UTF8 + words.encode() * 3000 + b"\xff")
    data = text(str(path), length=7, n=5, n_test=2)
    read = words.replace("\r\n", "\n")[:50]
    assert data.vocabulary == data.num_outputs == len(set(read)) and "book.txt" in data.name
    letters = np.array(sorted(set(read)))
    assert "".join(letters[np.concatenate([data.x, data.x_test]).ravel()]) == read[:49]
    assert "".join(letters[np.concatenate([data.y, data.y_test]).ravel()]) == read[1:]
    assert data.x.shape == (5, 7) and data.y_test.shape == (2, 7)
    # Pieces that end within a character of several bytes.
    long = text(str(path), length=1000, n=100)
    assert (
        "".join(np.array(sorted(set(read)))[long.x.ravel()][-10:])
        == (words.replace("\r\n", "\n") * 3000)[99990:100000]
    )


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (None, {}, "does not exist"),
        (b"", {}, "is empty"),
        (b"\x89PNG\r\n\x1a\n", {}, "no text in UTF-8"),
        (b"ab\0\0cd" * 9, {}, "NUL"),
        (b"gr\xfc\xdfe" * 9, {}, "no text in UTF-8"),
        (
            b"abc" * 9,
            {"length": 5, "n": 6},
            "27 characters, too few for 6 windows of data.length=5; at most 5 fit",
        ),
        (b"abc", {"length": 3}, "data.length may be 2 at most"),
        (b"aaaa" * 9, {}, "single character"),
        (b"abc" * 9, {"length": 0}, "data.length must be an integer of at least 1"),
        (b"abc" * 9, {"n": "all"}, "data.n must be"),
    ],
)
def test_what_is_no_text_is_refused(content, options, says, tmp_path):
    path = tmp_path / "book.txt"
    if content is not None:
        path.write_bytes(content)
    raises(text, str(path), **{"length": 4, "n": 2, **options}, says=says)


def test_text_needs_a_file(tmp_path):
    raises(text, says="data.path")
    raises(text, str(tmp_path), says="directory")


def test_chebyshev_polynomials():
    for degree, polynomial in ((3, lambda x: 4 * x**3 - 3 * x), (4, lambda x: 8 * x**4 - 8 * x**2 + 1)):
        data = chebyshev(n=20, degree=degree)
        np.testing.assert_allclose(data.y, polynomial(data.x.astype(np.float64)), atol=1e-6)


def test_npz_round_trip_and_refusals(tmp_path):
    path = tmp_path / "mine.npz"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))
    np.savez(path, x=x, y=np.array([0, 1, 2, 0, 1, 2]), x_test=x[:2], y_test=np.array([0, 1]))
    data = npz(str(path))
    assert (data.task, data.num_outputs, data.name, len(data.y_test)) == ("classification", 3, "mine", 2)
    np.testing.assert_array_equal(data.x, x)
    assert npz(str(path), classes=5).num_outputs == 5
    raises(npz, str(path), classes=2, says="integers 0 to 1")
    raises(npz, str(path), "binary", says="-1 and +1")
    np.savez(path, x=x, y=np.array([0, 1, 1, 0, 1, 0]))
    assert npz(str(path), "binary").y.tolist() == [-1, 1, 1, -1, 1, -1]
    np.savez(path, x=x, y=x[:, :2])
    assert npz(str(path), "regression").num_outputs == 2
    np.savez(path, x=np.array([[0, 1], [2, 1]]), y=np.array([[1, 2], [1, 0]]))
    assert npz(str(path), "tokens").vocabulary == 3
    np.savez(path, x=x, y=np.array(list("abcabc")))
    raises(npz, str(path), says="y must hold numbers")
    np.savez(path, x=x, y=np.zeros(5, int))
    raises(npz, str(path), says="same number of examples")
    np.savez(path, x=x)
    raises(npz, str(path), says="no array named y")
    np.savez(path, x=np.where(x > 1, np.nan, x), y=np.zeros((6, 1)))
    raises(npz, str(path), "regression", says="not finite")
    raises(npz, str(tmp_path / "none.npz"), says="does not exist")
    path.write_bytes(b"not a zip file")
    raises(npz, str(path), says="not an .npz file")
    np.savez(path, x=np.array([_Evil()], dtype=object), y=np.zeros(1))
    raises(npz, str(path), says="not an .npz file")
    raises(npz, says="data.path")


def test_entries_and_measurements_of_one_matrix():
    data = completion(rows=6, columns=4, rank=2, n=10)
    assert np.linalg.matrix_rank(data.truth) == 2 and (data.truth**2).mean() == pytest.approx(1)
    every = np.concatenate([data.x, data.x_test])
    assert len(np.unique(every, axis=0)) == 24  # each entry is in one of the two
    np.testing.assert_array_equal(np.concatenate([data.y, data.y_test])[:, 0], data.truth[tuple(every.T)])
    noisy = completion(rows=40, columns=50, noise=0.5, n_test=100)
    assert len(noisy) == 400 and len(noisy.x_test) == 100
    off = noisy.y[:, 0] - noisy.truth[tuple(noisy.x.T)]
    assert off.std() == pytest.approx(0.5, rel=0.2)
    np.testing.assert_array_equal(noisy.y_test[:, 0], noisy.truth[tuple(noisy.x_test.T)])
    measured = sensing(rows=6, columns=4, rank=2, n=2000, n_test=3)
    np.testing.assert_allclose(measured.y[:, 0], np.einsum("kij,ij->k", measured.x, measured.truth))
    assert measured.y.std() == pytest.approx(1, rel=0.1) and measured.x_test.shape == (3, 6, 4)
    raises(completion, rows=6, columns=4, says="data.rank=5 is above the size of a 6×4 matrix")
    raises(completion, rows=6, columns=4, rank=2, n=20, n_test=5, says="more than the 24 entries")
    raises(completion, noise=-1.0, says="data.noise must be")
    raises(sensing, rank=31, says="data.rank=31 is above")
    raises(sensing, n=0, says="data.n must be an integer of at least 1")


def test_entries_of_ones_own(tmp_path):
    path = tmp_path / "ratings.npz"
    rows, columns, values = np.array([0, 3, 3, 1]), np.array([2, 0, 2, 1]), np.array([5, 3, 4, 1])

    def written(**changes):
        np.savez(path, **{"rows": rows, "columns": columns, "values": values} | changes)

    written()
    data = completion(path=str(path), n=3)
    assert (data.name, data.matrix_shape, data.truth, len(data.x_test)) == ("ratings", (4, 3), None, 1)
    every = dict(zip(map(tuple, np.concatenate([data.x, data.x_test]).tolist()), (5, 3, 4, 1)))
    assert every.keys() == {(0, 2), (3, 0), (3, 2), (1, 1)}
    for (i, j), value in zip(data.x, data.y[:, 0]):
        assert value == values[(rows == i) & (columns == j)]
    assert completion(path=str(path)).x_test is None
    assert completion(path=str(path), rows=9, columns=8).matrix_shape == (9, 8)
    raises(completion, path=str(path), n=5, says="data.n=5 are more than the 4 entries")
    raises(completion, path=str(path), rows=3, says="(3, 0) lies outside the 3×3 matrix of data.rows")
    for changes, says in (
        ({"values": values[:3]}, "must be lists of one length"),
        ({"rows": rows - 1}, "rows must hold whole numbers from 0"),
        ({"columns": columns + 0.5}, "columns must hold whole numbers from 0"),
        ({"values": values * np.nan}, "not finite"),
        ({"values": np.array(list("abcd"))}, "values must hold numbers"),
        ({"rows": rows * 10**8, "columns": columns * 10**8}, "number rows and columns from 0"),
        ({"rows": rows * 0, "columns": columns * 0}, "has the entry (0, 0) 4 times"),
    ):
        written(**changes)
        raises(completion, path=str(path), says=says)
    np.savez(path, rows=rows, columns=columns)
    raises(completion, path=str(path), says="numpy.savez(path, rows=..., columns=..., values=...)")


def test_a_data_set_of_entries_is_checked():
    x, y = np.array([[0, 1], [2, 0]]), np.ones((2, 1))

    def made(x=x, shape=(2,), **options):
        return Dataset(x, y, "entries", shape, 1, "own", **{"matrix_shape": (3, 2)} | options)

    assert len(made()) == 2
    raises(made, matrix_shape=None, says="needs a matrix_shape")
    raises(made, matrix_shape=(2, 2), says="a row below 2 and a column below 2")
    raises(made, truth=np.ones((2, 3)), says="truth must have the shape")
    raises(made, x=x - 1, says="pairs of a row below 3")
    raises(made, x=np.ones((2, 3, 3)), shape=(3, 3), says="a matrix of shape (3, 2)")


@contextlib.contextmanager
def serve(content, cut=None):
    """A server of one file that understands ranges; its first answer stops after ``cut`` bytes."""
    answers = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            answers.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = cut if cut is not None and len(answers) == 1 else len(content)
            self.wfile.write(content[start:stop])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/c.tar.gz", answers
        server.shutdown()


def packed(tmp_path):
    folder = fake_batches(tmp_path / "made" / "cifar-10-batches-py", "python", each=10)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return buffer.getvalue(), tuple(sorted(path.name for path in folder.iterdir()))


def test_a_broken_download_goes_on_where_it_stopped(tmp_path):
    content, files = packed(tmp_path)
    to = tmp_path / "to"
    with serve(content, cut=5000) as (url, answers):
        archive = Archive(url, hashlib.sha256(content).hexdigest(), "cifar-10-batches-py", files)
        raises(fetch, "cifar10", to, archive, says="run the same command again")
        folder = fetch("cifar10", to, archive)
        assert answers == [0, 5000]
        assert fetch("cifar10", to, archive) == folder and len(answers) == 2
    assert len(cifar10(n=8, root=str(to))) == 8
    assert [p.name for p in to.iterdir()] == ["cifar-10-batches-py"]


def test_a_wrong_archive_is_refused_and_leaves_nothing(tmp_path):
    content, _ = packed(tmp_path)
    to = tmp_path / "to"
    with serve(content) as (url, _):
        raises(main, ["fetch", "cifar10", "--to", str(to), "--url", url], says="SHA-256")
    assert list(to.iterdir()) == []


def test_without_a_connection_it_says_what_to_do(tmp_path):
    raises(
        main,
        ["fetch", "cifar10", "--to", str(tmp_path), "--url", "http://127.0.0.1:9/c.tar.gz"],
        says="$CFLOW_DATA",
    )
