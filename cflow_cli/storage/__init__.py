"""A run on disk: Parquet parts, a manifest, the resolved config. Nothing here imports JAX."""

from cflow_cli.storage.manifest import environment
from cflow_cli.storage.reader import Run, find_runs, read_run
from cflow_cli.storage.writer import RunWriter

__all__ = ["Run", "RunWriter", "environment", "find_runs", "read_run"]
