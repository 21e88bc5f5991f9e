"""Optimizers as differentiable maps, and those that optax lacks."""

from cflow_cli.optimizers.adam_uncorrected import adam_uncorrected, scale_by_adam_uncorrected
from cflow_cli.optimizers.scalar_adam import scalar_adam, scale_by_scalar_adam
from cflow_cli.optimizers.scalar_rmsprop import scalar_rmsprop, scale_by_global_rms
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.optimizers.weight_decay import with_weight_decay

__all__ = [
    "UpdateMap",
    "adam_uncorrected",
    "scalar_adam",
    "scalar_rmsprop",
    "scale_by_adam_uncorrected",
    "scale_by_global_rms",
    "scale_by_scalar_adam",
    "with_weight_decay",
]
