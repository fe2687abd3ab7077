#!/bin/bash
# A Slurm of its own on this machine, for root: mini_slurm.sh start FOLDER [GPUS] | stop FOLDER
# Then: export SLURM_CONF=FOLDER/slurm.conf. Needs Debian's slurm-wlm and munge. Nothing outside FOLDER is written.
set -eu
verb=$1 folder=$(mkdir -p "$2" && cd "$2" && pwd) gpus=${3:-1} host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start() {
    mkdir -p "$folder"/state "$folder"/spool "$folder"/munge
    chmod 0755 "$folder" "$folder/munge"
    (umask 077; head -c 1024 /dev/urandom > "$folder/munge/key")
    # config_overrides: what jobs may ask for, whatever this machine has
    cat > "$SLURM_CONF" <<CONF
ClusterName=mini
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmdPort=$(port)
SlurmUser=root
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
GresTypes=gpu
KillWait=20
NodeName=$host NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000000 Gres=gpu:$gpus State=UNKNOWN
PartitionName=gpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    # a GPU is a file of a device, and has to be one
    printf 'Name=gpu File=%s\n' /dev/null /dev/zero /dev/full /dev/random | head -"$gpus" > "$folder/gres.conf"
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge/seed"
    slurmctld -f "$SLURM_CONF" -c
    slurmd -f "$SLURM_CONF" -N "$host"
    for _ in $(seq 60); do [ "$(sinfo -h -o %t 2> /dev/null)" = idle ] && return; sleep 0.5; done
    sinfo
    return 1
}

stop() {
    for each in slurmd slurmctld munged; do
        pid=$(cat "$folder/$each.pid" 2> /dev/null) || continue
        kill "$pid" 2> /dev/null || continue
        for _ in $(seq 40); do kill -0 "$pid" 2> /dev/null || break; sleep 0.5; done
    done
}

"$verb"
