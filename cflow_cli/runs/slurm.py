"""What SLURM says about jobs, through ``squeue``: unlike ``sacct`` it works without accounting."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

# Final states, in which a job neither runs nor will run; squeue shows them for some minutes after the end.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "RECONFIG_FAIL",
    "REVOKED",
    "TIMEOUT",
}


def available() -> bool:
    """Whether this machine can submit to a SLURM cluster."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def queued(ids: Iterable[str]) -> dict[str, str] | None:
    """Ask which jobs are in the queue, waiting or running.

    Parameters
    ----------
    ids
        Job ids, of array tasks as ``12_3``.

    Returns
    -------
    dict or None
        Id to state (``PENDING``, ``RUNNING``, …) of those that wait, run, or are on their way from one to
        the other; None when there is no ``squeue`` here, or it does not answer.
    """
    mains = sorted({job.split("_")[0] for job in ids})
    if not mains or shutil.which("squeue") is None:
        return {} if not mains else None
    # One line per array task, also of those that wait; all states, or jobs being requeued would be absent.
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T",
        f"--jobs={','.join(mains)}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        # SLURM has forgotten the jobs: they ended some minutes ago.
        return {} if "Invalid job id" in done.stderr else None
    pairs = (line.strip().partition("|")[::2] for line in done.stdout.splitlines() if "|" in line)
    return {job: state for job, state in pairs if state not in _ENDED}


def cancel_command(ids: Iterable[str]) -> str:
    """The shell command that cancels jobs, arrays as a whole."""
    return "scancel " + " ".join(sorted({job.split("_")[0] for job in ids}, key=int))
