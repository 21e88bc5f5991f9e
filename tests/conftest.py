"""Tests run in float64, with warnings as errors.

Most of their time is spent on compiling. So programs are compiled without LLVM's expensive passes, but for tests that
are marked ``optimised`` (of bits, and of how well flows predict), all of them by XLA's elder emitters in one piece, which
takes half as long as what users wait for, and shared by all processes of a session, the commands that tests start among
them. This is said in the environment, where other values win: ``make check`` compiles everything as users do, and a folder
in ``JAX_COMPILATION_CACHE_DIR`` serves the next session, too.
"""

import atexit
import os
import shutil
import tempfile

if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    # Made by the process that starts the others.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cflow-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true").lower() in ("1", "true")
if QUICK and "xla_cpu_use_fusion_emitters" not in os.environ.get("XLA_FLAGS", ""):
    quickly = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{quickly} {os.environ.get('XLA_FLAGS', '')}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
compiled_quickly = QUICK


@pytest.fixture(autouse=True, scope="module")
def float64(request):
    """A run inside a test sets JAX up for itself; each module starts afresh."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", None)
    global compiled_quickly
    quick = QUICK and request.node.get_closest_marker("optimised") is None
    if quick != compiled_quickly:
        jax.config.update("jax_disable_most_optimizations", quick)
        jax.clear_caches()  # of programs compiled the other way
        compiled_quickly = quick


@pytest.fixture(autouse=True)
def float64_again(float64):
    jax.config.update("jax_enable_x64", True)


# Files whose tests take longest together, so that no process is left alone with one of them at the end.
LONGEST = (
    "test_resume.py",
    "test_simulation.py",
    "test_measurements.py",
    "test_central.py",
    "test_flows.py",
    "test_models.py",
    "test_cost.py",
    "test_rod.py",
    "test_docs.py",
    "test_stationary.py",
    "test_figures.py",
    "test_devices.py",
    "test_update_map.py",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
