"""The configuration: its files, how Hydra composes them, and what its values may be. Nothing here imports JAX."""
