"""What a run records: the columns of its two tables and the status of a process.

This module imports neither JAX nor pyarrow; the simulation, the storage, the report and the
documentation all take names, meanings and units from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name
        Its name in the Parquet file.
    type
        ``int32``, ``float64``, ``float32`` or ``string`` (dictionary-encoded).
    unit
        What one unit of it is; ``1`` for pure numbers.
    meaning
        One sentence for the reader of the file.
    """

    name: str
    type: str
    unit: str
    meaning: str


class Status(IntEnum):
    """State of a process at a step; written on every row of the metrics as its lower-case name."""

    OK = 0
    EIGENPAIRS_NOT_CONVERGED = 1
    SDCP_NOT_CONVERGED = 2
    OFF_THE_EDGE = 3
    DIVERGED = 4
    TOO_SHARP = 5
    TOO_MANY_TRACKED = 6
    NOT_POSITIVE = 7

    @property
    def label(self) -> str:
        """The name written in the ``status`` column."""
        return self.name.lower()

    @property
    def stops(self) -> bool:
        """Whether a process with this status takes no further step."""
        return self >= Status.DIVERGED

    @property
    def sentence(self) -> str:
        """What happened and what helps."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.OK: "nothing to report",
    Status.EIGENPAIRS_NOT_CONVERGED: (
        "the tracked eigenpairs missed their tolerance within the allowed iterations; "
        "raise eigs.max_iterations or eigs.tolerance"
    ),
    Status.SDCP_NOT_CONVERGED: (
        "the oscillation covariance does not meet its complementarity conditions; "
        "raise the flow's substeps, as in processes.central.substeps=2 (elementwise optimizers), or lower lr"
    ),
    Status.OFF_THE_EDGE: (
        "the effective sharpness left 2 although the step was to hold it there: curvature changes too much in one "
        "step; raise the flow's substeps, as in processes.central.substeps=8 (elementwise optimizers), or lower lr"
    ),
    Status.DIVERGED: "the loss became non-finite or exploded; try a smaller lr",
    Status.TOO_SHARP: "the effective sharpness passed eigs.max_sharpness and the process was stopped",
    Status.TOO_MANY_TRACKED: "more eigenvalues than eigs.max_tracked exceed eigs.track_above; raise eigs.max_tracked",
    Status.NOT_POSITIVE: "the effective preconditioner lost positivity, so no flow is defined there",
}


METRICS: tuple[Column, ...] = (
    Column("step", "int32", "optimizer steps", "number of optimizer steps taken when the row was measured"),
    Column("process", "string", "", "what was stepped: discrete, midpoint, stable, central, …"),
    Column("loss", "float64", "loss", "training loss L(w)"),
    Column("grad_norm_sq", "float64", "loss²/weight²", "squared gradient norm ‖∇L(w)‖²"),
    Column(
        "effective_sharpness",
        "float64",
        "1",
        "S_eff = λ_max(D^½ H D^½) at the current learning rate; the edge of stability is 2",
    ),
    Column(
        "num_critical",
        "int32",
        "1",
        "number of effective eigenvalues at the edge (above eigs.critical_above)",
    ),
    Column("num_tracked", "int32", "1", "number of effective eigenpairs tracked at this step"),
    Column(
        "predicted_loss",
        "float64",
        "loss",
        "flow's prediction of the optimizer's time-averaged loss, L(w) + ½⟨H, Σ⟩",
    ),
    Column(
        "predicted_grad_norm_sq",
        "float64",
        "loss²/weight²",
        "flow's prediction of the time-averaged squared gradient norm, ‖∇L‖² + tr(UᵀH²U X)",
    ),
    Column("x_trace", "float64", "loss", "tr X, the variance of the oscillation in the D^-1 norm"),
    Column("sigma_trace", "float64", "weight²", "tr Σ, the variance of the oscillation of the weights"),
    Column("distance_to_discrete", "float64", "weight", "‖w − w_discrete‖ at the same step"),
    Column("learning_rate", "float64", "1", "learning rate η of the step that starts here"),
    Column("effective_step_size", "float64", "1", "harmonic mean of the effective step sizes: n / Σ 1/D"),
    Column(
        "eigen_residual", "float64", "1", "largest residual ‖A v − λ v‖ of a critical pair, as a part of λ"
    ),
    Column("sdcp_residual", "float64", "1", "largest violated complementarity condition after scaling"),
    Column(
        "substeps",
        "int32",
        "1",
        "sub-steps that a flow took in this optimizer step; 0 where there is no flow",
    ),
    Column("gradients", "int32", "1", "gradients spent on this row"),
    Column("hvps", "int32", "1", "Hessian-vector products spent on this row"),
    Column("third_derivatives", "int32", "1", "third derivatives ∇(uᵀHv) spent on this row"),
    Column("status", "string", "", "ok, or what went wrong at this step (see the manifest for the sentence)"),
)

EIGENVALUES: tuple[Column, ...] = (
    Column("step", "int32", "optimizer steps", "as in metrics"),
    Column("process", "string", "", "as in metrics"),
    Column("kind", "string", "", "which spectrum, see KINDS"),
    Column("index", "int32", "1", "0 is the largest; for coordinates the index into the flat weight vector"),
    Column("value", "float64", "see kind", "the value"),
)

KINDS: dict[str, str] = {
    "effective": "tracked eigenvalues of D^½ H D^½, largest first",
    "sigma": "eigenvalues of X: predicted variance of the oscillation along each eigenvector of Σ",
    "sigma_measured": "squared displacement (uᵀD⁻¹(w_discrete − w))² along the same eigenvectors",
    "displacement": "displacement uᵀD^-½(w_discrete − w) of the optimizer from a flow along its critical eigenvectors",
}
