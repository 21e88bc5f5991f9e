"""The sub-commands of ``cflow``, a module each, imported when it is called.

Every module has ``main(argv) -> int``. Help and completion load neither JAX nor Hydra nor pandas: what a command
needs of them it imports within ``main``.
"""

SUMMARIES: dict[str, str] = {
    "run": "train a network and step its flows beside it; -m for sweeps",
    "kernel": "kernels of infinitely wide networks, and what they predict",
    "resume": "continue an interrupted run or sweep",
    "list": "runs and their status, progress, age and time left, also while they run",
    "verify": "hold the files of runs and sweeps against their digests",
    "report": "summarise runs and sweeps as a table",
    "plot": "draw the standard panel of a run",
    "figures": "make figures of the papers again and check what they claim",
    "compare": "two runs side by side, and where they part",
    "path": "connect two points that runs have reached: barrier of the line, curves around it",
    "data": "download a data set: cflow data fetch cifar10",
    "optimizers": "list the optimizers: state, edge of stability, whether they have flows",
    "completion": "print a script for completion in bash, zsh or fish",
}
"""Name of each sub-command -> what it does, in the order of the help."""
