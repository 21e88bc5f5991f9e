"""Accuracy on the training examples, loss and accuracy on the test examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.measurements.base import Measurement, Values
from cflow_cli.records import Column


@dataclass(frozen=True)
class Evaluation(Measurement):
    """Accuracy and test figures every few steps, and at the last."""

    name: ClassVar[str] = "evaluation"
    at_end: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "accuracy", "float64", "1", "training accuracy; null between evaluations and for user functions"
        ),
        Column("test_loss", "float64", "loss", "loss on the test split; null between evaluations"),
        Column("test_accuracy", "float64", "1", "accuracy on the test split; null between evaluations"),
    )

    def value(self, problem: Any, w: Any) -> Values:
        """As :meth:`cflow_cli.problem.Problem.evaluate` has it."""
        return problem.evaluate(w)._asdict()
