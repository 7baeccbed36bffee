#!/usr/bin/env bash
# SLURM for one machine, on loopback, without systemd: slurm.sh up DIRECTORY, slurm.sh down DIRECTORY.
# Everything is in that directory; programs find it by SLURM_CONF=DIRECTORY/slurm.conf. Needs root.
set -euo pipefail
action=$1 directory=$2

install_packages() {
    command -v slurmctld slurmd munged >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurm-wlm munge
} >&2

write_configuration() {
    local host port
    host=$(hostname -s)
    port=$((20000 + RANDOM % 10000))
    # Jobs and daemons resolve the name of the machine to loopback through the configuration alone.
    cat >"$directory/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$directory/munge/socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd.pid
SlurmdSpoolDir=$directory/spool
StateSaveLocation=$directory/state
SlurmctldLogFile=$directory/slurmctld.log
SlurmdLogFile=$directory/slurmd.log
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,batch_sched_delay=1
KillWait=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
}

start_munge() {
    install -d -o munge -g munge -m 0711 "$directory/munge"
    head -c 1024 /dev/urandom >"$directory/munge/key"
    chown munge:munge "$directory/munge/key"
    chmod 400 "$directory/munge/key"
    runuser -u munge -- /usr/sbin/munged --socket="$directory/munge/socket" \
        --key-file="$directory/munge/key" --pid-file="$directory/munge/pid" \
        --log-file="$directory/munge/log" --seed-file="$directory/munge/seed"
}

end() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

case $action in
up)
    install_packages
    chmod 755 "$directory"
    mkdir -p "$directory/spool" "$directory/state"
    write_configuration
    start_munge
    export SLURM_CONF=$directory/slurm.conf
    slurmctld -c
    slurmd -c
    for _ in $(seq 3000); do
        sinfo --noheader --format=%T 2>/dev/null | grep -q idle && exit 0
        sleep 0.1
    done
    cat "$directory"/*.log >&2
    exit 1
    ;;
down)
    export SLURM_CONF=$directory/slurm.conf
    scancel --user=root 2>/dev/null || true
    end "$directory/slurmd.pid"
    end "$directory/slurmctld.pid"
    end "$directory/munge/pid"
    ;;
esac
