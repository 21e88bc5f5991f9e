"""Every measurement that comes with the package, by its name."""

from __future__ import annotations

from cflow_cli.measurements.base import Measurement
from cflow_cli.measurements.batch_sharpness import BatchSharpness
from cflow_cli.measurements.coordinates import Coordinates
from cflow_cli.measurements.distances import Distances
from cflow_cli.measurements.evaluation import Evaluation
from cflow_cli.measurements.imbalance import Imbalance
from cflow_cli.measurements.layer_sharpness import LayerSharpness
from cflow_cli.measurements.output_hessian import OutputHessian
from cflow_cli.measurements.outputs import Outputs
from cflow_cli.measurements.second_moment import SecondMoment
from cflow_cli.measurements.sharpening import Sharpening
from cflow_cli.measurements.sharpness import Sharpness
from cflow_cli.measurements.singular_values import SingularValues
from cflow_cli.measurements.spectrum import Spectrum
from cflow_cli.measurements.stationary_preconditioner import StationaryPreconditioner
from cflow_cli.measurements.step_singular_values import StepSingularValues
from cflow_cli.measurements.step_smoothness import StepSmoothness
from cflow_cli.measurements.tangent_kernel import TangentKernel

BUILT_IN: dict[str, type[Measurement]] = {
    kind.name: kind
    for kind in (
        Evaluation,
        Coordinates,
        Sharpness,
        Outputs,
        SecondMoment,
        Distances,
        StepSmoothness,
        StepSingularValues,
        LayerSharpness,
        Spectrum,
        Sharpening,
        StationaryPreconditioner,
        TangentKernel,
        OutputHessian,
        SingularValues,
        Imbalance,
        BatchSharpness,
    )
}
