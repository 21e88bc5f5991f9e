"""The shape of the package, read from its sources: sizes, late imports, circles, and the picture of its rooms."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES = 450
FUNCTION_LINES = 70
LATE_IMPORTS = 40


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture = load(ROOT / "docs" / "architecture.py")
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in architecture.modules().items()}


def fail_for(offenders, rule):
    if offenders:
        pytest.fail("\n".join([rule, *offenders]), pytrace=False)


def functions(name):
    """Functions of a module, by their full name, and how many lines each has without its docstring."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{prefix}.{child.name}"
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = child.end_lineno - child.lineno + 1
                if ast.get_docstring(child) is not None:
                    told = child.body[0]
                    lines -= told.end_lineno - told.lineno + 1
                yield inner, lines
            yield from walk(child, inner)

    return walk(ast.parse(SOURCES[name]), name)


def test_files_are_short():
    lengths = {name: len(text.splitlines()) for name, text in SOURCES.items()}
    long = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > FILE_LINES]
    fail_for(long, f"a file has at most {FILE_LINES} lines")


def test_functions_are_short():
    long = [
        f"{function}: {lines} lines"
        for name in SOURCES
        for function, lines in functions(name)
        if lines > FUNCTION_LINES
    ]
    fail_for(long, f"a function has at most {FUNCTION_LINES} lines without its docstring")


def test_late_imports_are_few():
    """A library that help, lists and reports do without may be imported where it is needed; all else at the top."""
    late = [
        f"{name}, line {node.lineno}: {ast.unparse(node)}"
        for name, text in SOURCES.items()
        for node, in_function in architecture.statements(ast.parse(text))
        if in_function
    ]
    if len(late) > LATE_IMPORTS:
        fail_for(late, f"at most {LATE_IMPORTS} imports stand inside functions; these are {len(late)}")


def test_imports_have_no_circle():
    known = {name: set() for name in SOURCES}
    for found in architecture.imports():
        if not found.late:
            known[found.source].add(found.target)
    # What imports nothing that is left is in no circle, and neither is what nothing left imports.
    while True:
        leaves = {name for name, targets in known.items() if not targets & known.keys()}
        leaves |= known.keys() - {target for targets in known.values() for target in targets}
        if not leaves:
            break
        known = {name: targets for name, targets in known.items() if name not in leaves}
    circle = [
        f"{name} imports {', '.join(sorted(targets & known.keys()))}" for name, targets in known.items()
    ]
    fail_for(circle, "modules import each other in a circle")


def test_rooms_know_only_rooms_below_them():
    fail_for([" imports ".join(pair) for pair in architecture.against()], "imports lead upwards")


def test_the_picture_of_the_rooms_is_up_to_date():
    if architecture.digest() not in architecture.PICTURE.read_text(encoding="utf-8"):
        pytest.fail(
            "docs/assets/architecture.svg shows other rooms or arrows: make architecture", pytrace=False
        )


def test_places_that_the_pages_name_exist():
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:[\w-]+/)+|[\w/-]+\.(?:py|yaml))`", page)
    bases = ("", "cflow_cli/", "conf/", "tests/", "experiments/**/")
    gone = [path for path in paths if not any(next(ROOT.glob(base + path), None) for base in bases)]
    fail_for(sorted(set(gone)), "docs/contributing.md names what is not there")
    assert len(paths) > 30


def test_modules_that_the_picture_s_page_names_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.name for path in (ROOT / "cflow_cli").iterdir() if (path / "__init__.py").exists()]
    named = [(room, name) for room, name in re.findall(r"`(\w+)\.(\w+)[\w.]*`", page) if room in rooms]
    for room, cell in re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", page, re.MULTILINE):
        named += [(room, name) for name in re.findall(r"`(\w+)`", cell)]
    gone = [f"{room}.{name}" for room, name in named if f"cflow_cli.{room}.{name}" not in SOURCES]
    fail_for(sorted(set(gone)), "docs/architecture.md names what is not there")
    assert len(named) > 40
