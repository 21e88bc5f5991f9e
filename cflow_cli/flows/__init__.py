"""Models of the optimizer's dynamics."""
