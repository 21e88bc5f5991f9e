"""Optimizers as differentiable maps, and those that optax lacks."""

from cflow_cli.optimizers.adam_uncorrected import adam_uncorrected, scale_by_adam_uncorrected
from cflow_cli.optimizers.muon_smoothed import muon_smoothed, scale_by_smoothed_msign
from cflow_cli.optimizers.norms import clipped, normalised_gd
from cflow_cli.optimizers.operator_map import OperatorMap
from cflow_cli.optimizers.probing import map_of, operator_map_of
from cflow_cli.optimizers.scalar_adam import scalar_adam, scale_by_scalar_adam
from cflow_cli.optimizers.scalar_rmsprop import scalar_rmsprop, scale_by_global_rms
from cflow_cli.optimizers.shampoo import scale_by_shampoo, shampoo
from cflow_cli.optimizers.soap import scale_by_soap, soap
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.optimizers.weight_decay import with_weight_decay

__all__ = [
    "OperatorMap",
    "UpdateMap",
    "adam_uncorrected",
    "clipped",
    "map_of",
    "muon_smoothed",
    "normalised_gd",
    "operator_map_of",
    "scalar_adam",
    "scalar_rmsprop",
    "scale_by_adam_uncorrected",
    "scale_by_global_rms",
    "scale_by_scalar_adam",
    "scale_by_shampoo",
    "scale_by_smoothed_msign",
    "scale_by_soap",
    "shampoo",
    "soap",
    "with_weight_decay",
]
