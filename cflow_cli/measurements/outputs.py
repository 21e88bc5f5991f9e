"""What the network says about some examples, and what flows predict that it says on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.measurements.base import Measurement, Values


@dataclass(frozen=True)
class Outputs(Measurement):
    """Outputs for the first training and test examples.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations.
    train, test
        Number of examples of either split; fewer where there are fewer.
    """

    every: int = 1
    train: int = 2
    test: int = 0

    name: ClassVar[str] = "outputs"
    predicted: ClassVar[bool] = True
    kinds: ClassVar[Mapping[str, str]] = {
        "output": "output of the network for a training example (index: example · outputs of each + output)",
        "test_output": "the same for a test example",
    }

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.train < 0 or self.test < 0:
            raise ValueError(f"train and test must not be negative, got {self.train} and {self.test}")

    def value(self, problem: Any, w: Any) -> Values:
        """Outputs, one example after the other."""
        return {
            "output": problem.outputs(w, self.train),
            "test_output": problem.outputs(w, self.test, split="test"),
        }
