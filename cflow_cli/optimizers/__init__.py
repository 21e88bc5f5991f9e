"""Optimizers as differentiable maps, and the one that optax lacks."""

from .scalar_rmsprop import scalar_rmsprop, scale_by_global_rms
from .update_map import UpdateMap

__all__ = ["UpdateMap", "scalar_rmsprop", "scale_by_global_rms"]
