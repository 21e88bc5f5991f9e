"""Trackers of experiments that a run reports to while it goes on: one module each, imported only where it is chosen."""
