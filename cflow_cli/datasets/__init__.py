"""Data sets: one module each, a function that returns a ``Dataset``. Nothing here imports JAX."""

from cflow_cli.datasets.dataset import TASKS, Dataset

__all__ = ["TASKS", "Dataset"]
