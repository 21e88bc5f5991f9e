"""The optimizer and what is stepped beside it, in compiled chunks; knows nothing of configs, files or terminals."""
