"""Tables, pages and panels from what runs wrote: reads their files only and never imports JAX."""
