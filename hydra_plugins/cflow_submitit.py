"""Shows the launchers of :mod:`cflow_cli.runs.submitit` to Hydra, which finds plugins by their place in this package.

Without submitit (``pip install 'cflow-cli[slurm]'``) there are none.
"""

# No deferred annotations here: Hydra loads plugins without putting them among the modules, where dataclasses look.
import importlib.util
from dataclasses import dataclass

if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is not None:
    from hydra.core.config_store import ConfigStore
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

    from cflow_cli.runs import submitit

    class SlurmLauncher(submitit.SlurmLauncher):
        """One job array of SLURM per sweep."""

    class LocalLauncher(submitit.LocalLauncher):
        """Processes on this machine, some at a time."""

    @dataclass
    class SlurmConf(SlurmQueueConf):
        """Settings of ``launcher=slurm``; see conf/launcher/slurm.yaml."""

        _target_: str = "hydra_plugins.cflow_submitit.SlurmLauncher"
        wait: bool = True

    @dataclass
    class LocalConf(LocalQueueConf):
        """Settings of ``launcher=submitit_local``; see conf/launcher/submitit_local.yaml."""

        _target_: str = "hydra_plugins.cflow_submitit.LocalLauncher"
        array_parallelism: int = 256

    for name, node in (("cflow_slurm", SlurmConf), ("cflow_local", LocalConf)):
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="cflow")
