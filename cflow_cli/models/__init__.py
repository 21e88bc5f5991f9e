"""Networks: one module and one config each, built as ``Class(data, key, **options)``, called on a batch."""

from cflow_cli.models.base import Model
from cflow_cli.models.pairs import check_pair

__all__ = ["Model", "check_pair"]
