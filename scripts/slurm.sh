#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, for tests: everything in one folder, loopback only, no systemd,
# no cgroups, no accounting. Debian and Ubuntu have it:
#   apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
#
#   scripts/slurm.sh start FOLDER [CPUS]   starts it; then  export SLURM_CONF=FOLDER/slurm.conf
#   scripts/slurm.sh stop FOLDER           ends it, with its jobs
#
# Two partitions: jobs in "high" preempt those in "low", which are told by SIGUSR2, have GRACE seconds
# (default 10), and are requeued.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[[ $# -ge 2 ]] || usage
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)

stop() {
    # By recorded process ids only: this machine may have a SLURM of its own.
    local name pid
    if [[ -f $folder/slurm.conf ]] && [[ -f $folder/slurmctld.pid ]]; then
        SLURM_CONF=$folder/slurm.conf timeout 10 scancel --quiet --user="$(id -un)" --signal=KILL --full || true
        SLURM_CONF=$folder/slurm.conf timeout 10 scancel --quiet --user="$(id -un)" || true
    fi
    for name in slurmd slurmctld munged; do
        [[ -f $folder/$name.pid ]] || continue
        pid=$(cat "$folder/$name.pid")
        kill "$pid" 2>/dev/null || true
        for _ in {1..10}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
        rm -f "$folder/$name.pid"
    done
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() {
    local cpus=${1:-2} user memory
    user=$(id -un)
    memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    # munge wants its folder to belong to nobody else, and its socket to be reachable by all.
    chmod 755 "$folder"
    mkdir -p "$folder"/{state,spool,munge}
    chmod 755 "$folder"/munge
    (umask 377 && head -c 1024 /dev/urandom > "$folder/munge/key")
    cat > "$folder/slurm.conf" <<CONF
ClusterName=cflow
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# The shorter the credentials live, the sooner a requeued job starts again; below 5 is ignored.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# A job that can never fit is refused; otherwise it would wait for ever, and the sweep with it.
EnforcePartLimits=ALL
ReturnToService=2
# The node has as many cores as it is told here, not as the machine has.
SlurmdParameters=config_overrides
KillWait=5
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=${GRACE:-10}
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
    printf 'CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n' \
        > "$folder/cgroup.conf"
    munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --force
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    slurmd -N localhost
    for _ in {1..100}; do
        if [[ $(timeout 5 sinfo --noheader --partition=low --format=%T 2>/dev/null) == idle ]]; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.1
    done
    echo "error: SLURM did not start; see $folder/slurmctld.log and $folder/slurmd.log" >&2
    stop
    exit 1
}

case $action in
    start) start "${@:3}" ;;
    stop) stop ;;
    *) usage ;;
esac
