#!/usr/bin/env bash
# Stands in for PBS, LSF, SGE and HTCondor: queue.sh DIRECTORY puts their commands there. They take the scripts that are
# meant for them and answer as they would; this machine is the queue. A job starts at once, in the home directory as it does on
# many clusters, in a session of its own, whose number is the job's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

start() {
    cd
    setsid "$@" </dev/null >>"$here/output" 2>&1 &
    number=$!
    # Until it has its session there is nothing to cancel.
    while read -r _ _ _ _ _ session _ <"/proc/$number/stat" && [[ $session != "$number" ]]; do
        sleep 0.01
    done 2>/dev/null
    echo "$number" >>"$here/jobs"
}

copy() {
    local script
    script=$(mktemp "$here/script.XXXX")
    cat >"$script"
    echo "$script"
}

# "-c 'command'", in which quotes are doubled.
condor_command() {
    sed -n "s/^Arguments = \"-c '\(.*\)'\"$/\1/p" "$1" | sed -e "s/''/'/g" -e 's/""/"/g'
}

case $(basename "$0") in
queue.sh)
    mkdir "$1"
    touch "$1/jobs"
    for command in qsub qdel bsub bkill condor_submit condor_rm; do
        cp "$0" "$1/$command"
    done
    ;;
qsub)
    script=$(copy <"$1")
    start bash "$script"
    if grep -q '^#PBS' "$script"; then
        echo "$number.server"
    else
        echo "Your job $number (\"hessian\") has been submitted"
    fi
    ;;
bsub)
    start bash "$(copy)"
    echo "Job <$number> is submitted to default queue <normal>."
    ;;
condor_submit)
    start "$(sed -n 's/^Executable = //p' "$1")" -c "$(condor_command "$1")"
    printf 'Submitting job(s).\n1 job(s) submitted to cluster %s.\n' "$number"
    ;;
qdel | bkill | condor_rm)
    kill -- "-${1%%.*}"
    ;;
esac
