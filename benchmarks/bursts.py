"""How fast sharpness may rise for a flow to describe an optimizer: ``python -m benchmarks.bursts``.

On the valley L = ½(a + b y)x² − c y the flow is known: the average of S_eff stays at 2 with the variance σ² = 2c/b of
x, at any rate at which S_eff would rise if x did not oscillate. The optimizer itself is run in two numbers, with kicks
of 1e-6, for several rates and momenta. The second table has the rates of the study of accuracy (seed 0): how much S_eff
of the optimizer's midpoints rises per step, over the steps before the edge in which it goes from 1.7 to 1.98.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from cflow_cli.report.tables import markdown

LR, STIFFENING, KICK = 0.1, 4.0, 1e-6
MOMENTA = (
    ("gradient descent", 0.0, False),
    ("heavy ball 0.5", 0.5, False),
    ("Nesterov 0.5", 0.5, True),
    ("heavy ball 0.9", 0.9, False),
    ("Nesterov 0.9", 0.9, True),
)
RATES = (1e-2, 1e-3, 1e-4, 1e-5)
STUDIED = ("gd", "momentum_0.5", "nesterov_0.5", "momentum", "nesterov")


def on_the_valley(beta: float, nesterov: bool, rise: float) -> tuple[float, float, float] | None:
    """Mean and standard deviation of S_eff, and mean x² over the flow's; None where the optimizer leaves the valley."""
    edge = (2 * (1 + beta) / (1 + 2 * beta) if nesterov else 2 + 2 * beta) / LR
    slope = rise * (1 - beta) * edge / (2 * STIFFENING * LR)
    steps = int(np.clip(40 / rise, 2e4, 4e5))
    kicks = KICK * np.random.default_rng(0).standard_normal(steps)
    x, y, m_x, m_y = KICK, 0.0, 0.0, 0.0
    sharpness, squares = np.zeros(steps), np.zeros(steps)
    for t in range(steps):
        s = 0.9 * edge + STIFFENING * y
        g_x, g_y = s * x, STIFFENING / 2 * x * x - slope
        m_x, m_y = beta * m_x + g_x, beta * m_y + g_y
        sharpness[t], squares[t] = 2 * s / edge, x * x
        move = (beta * m_x + g_x, beta * m_y + g_y) if nesterov else (m_x, m_y)
        x, y = x - LR * move[0] + kicks[t], y - LR * move[1]
        if not abs(x) < 1e6:
            return None
    late = slice(steps // 4, None)
    predicted = 2 * slope / STIFFENING
    return sharpness[late].mean(), sharpness[late].std(), squares[late].mean() / predicted


def rises(root: str | None) -> list[list[str]]:
    """Rows of the second table."""
    from benchmarks import accuracy_cases as study
    from cflow_cli import simulate
    from cflow_cli.curvature.options import EigsOptions
    from cflow_cli.report import definitions as define

    rows = []
    for where in ("digits", "cifar10"):
        for name in STUDIED:
            setting = study.CASES[name].on.get(where)
            if setting is None:
                continue
            lr, steps = setting
            result = simulate(
                study.problem(where, 0, root),
                study.optimizer(name, lr),
                steps=steps,
                kick=study.KICK,
                processes=("discrete", "midpoint"),
                eigs=EigsOptions(block=4),
                measurements=(),
            )
            seen = define.series(result.metrics, "midpoint", "effective_sharpness")
            over = seen.index[seen > 1.98]
            cell = "–"
            if len(over):
                before = seen.loc[: over[0]]
                below = before.index[before < 1.7]
                first = below[-1] if len(below) else before.index[0]
                cell = f"{(seen[over[0]] - seen[first]) / max(over[0] - first, 1):.2g}"
            rows.append([where, name, f"{lr:g}", cell])
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of CIFAR-10; else $CFLOW_DATA or the cache folder")
    parser.add_argument("--valley", action="store_true", help="the first table only")
    args = parser.parse_args(argv)
    rows = []
    for name, beta, nesterov in MOMENTA:
        cells = []
        for rate in RATES:
            found = on_the_valley(beta, nesterov, rate)
            cells.append("leaves the valley" if found is None else "{:.3f} ± {:.3f}, {:.2f}".format(*found))
        rows.append([name, *cells])
    print(markdown(["optimizer", *(f"{rate:g} per step" for rate in RATES)], rows), flush=True)
    if not args.valley:
        print(markdown(["problem", "optimizer", "lr", "rise per step"], rises(args.data)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
