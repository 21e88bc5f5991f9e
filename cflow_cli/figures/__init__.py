"""The figures of the papers, from the runs they need to claims that are checked.

A figure is a folder of ``experiments/`` with a ``figure.py`` that says which runs it needs (``runs``), draws them
(``draw``) and checks what it is there to show (``claims``). This package finds those folders, runs what is missing,
and brings what the figures share: measures and ways to draw.
"""

from cflow_cli.figures.claims import Check, Claim

__all__ = ["Check", "Claim"]
