"""Bringing the programs together that compute one run, through ``jax.distributed``; imported where it has several."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from cflow_cli import together
from cflow_cli.config.settings import DistributedSettings
from cflow_cli.errors import LOST, UserError
from cflow_cli.runs import aborted

# How long a program may be silent until the others take it for gone. Compiling does not silence one.
_SILENCE_SECONDS = 60
# How long the first waits for the last.
_PATIENCE_SECONDS = 300
# What is decided is mostly a word; what is longer takes a second message.
_WORD = 256


def meet(wanted: DistributedSettings) -> None:
    """Wait for the other programs of the run, and be one of them; before any array is made.

    Parameters
    ----------
    wanted
        Where they meet.

    Raises
    ------
    UserError
        If nothing says where and how many they are, or they do not come together.
    """
    _tell_of_aborts(wanted)
    if wanted.process_id == 0:
        print(f"waiting for the other programs of the run at {wanted.coordinator}", flush=True)
    if jax.config.jax_cpu_collectives_implementation is None:  # type: ignore[attr-defined]
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would listen to SIGTERM, which the run does.
    jax.config.update("jax_enable_preemption_service", False)
    address, host = (None, None) if wanted.coordinator == "auto" else (wanted.coordinator, _host(wanted))
    given = wanted.num_processes is not None and wanted.process_id is not None
    try:
        with _without_output():
            jax.distributed.initialize(
                address,
                wanted.num_processes,
                wanted.process_id,
                # A cluster's programs have one GPU each: the one that the cluster shows, or of several the one that
                # has the program's number on its node.
                local_device_ids=[0] if _sees_one_gpu() and not given else None,
                cluster_detection_method="deactivate" if given else None,
                coordinator_bind_address=address if host in ("127.0.0.1", "localhost") else None,
                initialization_timeout=_PATIENCE_SECONDS,
                heartbeat_timeout_seconds=_SILENCE_SECONDS,
            )
            count, index = jax.process_count(), jax.process_index()
    except ValueError as error:
        raise UserError(
            f"distributed.coordinator={wanted.coordinator}: nothing here says how many programs the run has (SLURM's "
            "srun or Open MPI would); say it to each of them, as in distributed.coordinator=HOST:PORT "
            "distributed.num_processes=2 distributed.process_id=0"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"distributed.coordinator={wanted.coordinator}: the programs of the run do not come together there: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    if count > 1:
        together.join(together.Group(count, index, _hear, _any_of))
    if index > 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        logging.disable()


def _host(wanted: DistributedSettings) -> str:
    return str(wanted.coordinator).rpartition(":")[0]


def _sees_one_gpu() -> bool:
    return len(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")) == 1 and bool(
        os.environ.get("CUDA_VISIBLE_DEVICES")
    )


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Without what libraries write onto the terminal by themselves when they connect."""
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def _tell_of_aborts(wanted: DistributedSettings) -> None:
    """Have a sentence told where XLA ends this program because another one is gone: nothing within it is asked then."""
    apart = (
        f"distributed.coordinator={wanted.coordinator}: the programs of the run did not come together within "
        f"{_PATIENCE_SECONDS} s; start as many as distributed.num_processes= says, each with the address of the first"
    )
    with contextlib.suppress(OSError):
        told = subprocess.Popen(
            [sys.executable, "-I", str(Path(aborted.__file__)), LOST, apart],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert told.stdin is not None
        sys.stderr.flush()
        os.dup2(told.stdin.fileno(), 2)


def _hear(said: bytes) -> bytes:
    """What the first program says."""
    word = np.zeros(_WORD, np.uint8)
    head = len(said).to_bytes(8, "little") + said[: _WORD - 8]
    word[: len(head)] = np.frombuffer(head, np.uint8)
    heard = np.asarray(multihost_utils.broadcast_one_to_all(word), np.uint8).tobytes()
    length, begun = int.from_bytes(heard[:8], "little"), heard[8:]
    if length <= len(begun):
        return begun[:length]
    rest = np.zeros(length, np.uint8)
    rest[: len(said)] = np.frombuffer(said, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(rest), np.uint8).tobytes()


def _any_of(switches: tuple[bool, ...]) -> tuple[bool, ...]:
    gathered = np.asarray(multihost_utils.process_allgather(np.asarray(switches, np.int32)))
    return tuple(map(bool, np.max(gathered.reshape(-1, len(switches)), axis=0)))
