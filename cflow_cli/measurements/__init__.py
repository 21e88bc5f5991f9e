"""What is measured along every process of a run: one module and one YAML file each.

The modules load no JAX when imported, so that a config is checked quickly: what needs it imports it where it computes.
"""
