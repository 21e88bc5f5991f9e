"""Infinitely wide networks, exactly: their kernels, and what regression with these predicts. No files, no config."""
