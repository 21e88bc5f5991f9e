"""A run as one holds it in a notebook: in memory or on disk, and it shows itself."""
