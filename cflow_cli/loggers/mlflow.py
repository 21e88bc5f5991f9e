"""MLflow: a store on this machine by default, or a server."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from cflow_cli.loggers.base import Ending, Logger, RunInfo

_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# What MLflow takes at once, and of one parameter.
_PARAMS, _METRICS, _LENGTH = 100, 1000, 6000
_SQLITE = "sqlite:///"


@dataclass
class MLflow(Logger):
    """A run of an MLflow experiment: config as parameters, scalars as metrics, the panel as an artifact.

    Parameters
    ----------
    every, wait
        See :class:`~cflow_cli.loggers.base.Logger`.
    uri
        The tracking store: a database as in ``sqlite:///mlflow.db``, or a server as in ``http://localhost:5000``.
    experiment
        Made where it does not exist.
    """

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "cflow"

    def open(self, run: RunInfo) -> dict[str, Any]:
        """Create the run, or go on with the one that there is."""
        for chatty in ("alembic", "mlflow.store.db.utils"):  # of each table that they make
            logging.getLogger(chatty).setLevel(logging.WARNING)
        uri = run.memory.get("uri", _absolute(self.uri))
        self._waiting: list[Metric] = []
        with _alone(uri):
            self._client = MlflowClient(uri)
            experiment = self._experiment(uri)
        if run.memory:
            self._id = run.memory["id"]
            self._client.update_run(self._id, status="RUNNING")
            return dict(run.memory)
        tags = dict.fromkeys(run.tags, "true")
        tags |= {"mlflow.note.content": run.notes} if run.notes else {}
        tags |= {"sweep": run.group} if run.group else {}
        self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = (Param(key, str(value)[:_LENGTH]) for key, value in run.config.items())
        for some in _batches(params, _PARAMS):
            self._client.log_batch(self._id, params=some)
        return {"id": self._id, "uri": uri}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Gather the metrics of a step."""
        now = round(1000 * time.time())
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]

    def flush(self) -> None:
        """Send what was gathered."""
        for some in _batches(iter(self._waiting), _METRICS):
            self._client.log_batch(self._id, metrics=some)
        self._waiting = []

    def close(self, ending: Ending) -> None:
        """Add summary and picture, and say how the run ended."""
        now = round(1000 * time.time())
        numbers = {key: value for key, value in ending.summary.items() if isinstance(value, int | float)}
        self._client.log_batch(
            self._id,
            metrics=[Metric(f"summary/{key}", float(value), now, 0) for key, value in numbers.items()],
            tags=[
                RunTag(f"summary/{key}", str(v)) for key, v in ending.summary.items() if key not in numbers
            ],
        )
        if ending.panel is not None:
            self._client.log_artifact(self._id, str(ending.panel))
        self._client.set_terminated(self._id, _STATUS[ending.status])

    def _experiment(self, uri: str) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        # Beside the database, where MLflow would take the working directory.
        place = Path(uri.removeprefix(_SQLITE)).with_suffix(".artifacts") if uri.startswith(_SQLITE) else None
        return self._client.create_experiment(self.experiment, place and place.as_uri())


def _absolute(uri: str) -> str:
    """The same database from wherever the run is resumed."""
    if not uri.startswith(_SQLITE):
        return uri
    return _SQLITE + str(Path(uri.removeprefix(_SQLITE)).expanduser().resolve())


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One run of a sweep at a time: MLflow does not look whether another makes the tables of a new database, too."""
    if not uri.startswith(_SQLITE):
        yield
        return
    with Path(uri.removeprefix(_SQLITE)).with_suffix(".lock").open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _batches(items: Iterator[Any], size: int) -> Iterator[Sequence[Any]]:
    while some := list(islice(items, size)):
        yield some
