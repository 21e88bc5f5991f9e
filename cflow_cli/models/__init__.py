"""Networks: one module and one config each, built as ``Class(data, key, **options)``, called on a batch."""

from cflow_cli.models.base import Model

__all__ = ["Model"]
