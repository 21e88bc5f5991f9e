"""What ``cflow kernel`` computes. Without JAX, for a config is checked before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from cflow_cli.errors import UserError, did_you_mean

KINDS = ("nngp", "ntk", "empirical")


@dataclass(frozen=True)
class KernelOptions:
    """Which kernels.

    Parameters
    ----------
    kinds
        ``nngp`` and ``ntk`` of the infinitely wide network; ``empirical``, the tangent kernel of the network itself.
    seeds
        Initialisations whose empirical kernels are taken: ``seed``, ``seed`` + 1, ….

    Raises
    ------
    UserError
        If a value is not allowed.
    """

    kinds: list[str]
    seeds: int

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.kinds, list) or not self.kinds:
            raise UserError(f"kernel.kinds must be a list of {', '.join(KINDS)}, got {self.kinds!r}")
        for kind in self.kinds:
            if kind not in KINDS:
                hint = did_you_mean(str(kind), KINDS)
                raise UserError(f"kernel.kinds must be made of {', '.join(KINDS)}, got {kind!r}{hint}")
        if self.seeds < 1:
            raise UserError(f"kernel.seeds must be at least 1, got {self.seeds}")
        if self.seeds > 1 and "empirical" not in self.kinds:
            raise UserError(
                "kernel.seeds is the number of initialisations of the empirical kernel: "
                "add it to kernel.kinds, as in kernel.kinds=[ntk,empirical]"
            )

    @property
    def infinite(self) -> list[str]:
        """Those of the infinitely wide network."""
        return [kind for kind in ("nngp", "ntk") if kind in self.kinds]
