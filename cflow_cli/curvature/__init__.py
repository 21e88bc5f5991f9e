"""Curvature along a trajectory: the top of the spectrum of D^½ H D^½."""

from .block import RitzPairs, preconditioned, random_rows, refresh, track

__all__ = ["RitzPairs", "preconditioned", "random_rows", "refresh", "track"]
