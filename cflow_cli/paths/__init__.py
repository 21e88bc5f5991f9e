"""Paths between two points of one landscape: whether the loss has a wall between them, and ways around it."""
