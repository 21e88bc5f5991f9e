"""Running what a config says, one run or many: here Hydra's config, JAX's settings, the disk and the terminal meet."""
