#!/bin/sh
# What a container runs: agent, jobs, beat or flower (further words are options of theirs), or any other command.
#
# A node is an agent and a jobs worker that share a name and a directory, and keep both when their containers are
# made anew. So, unless BACKBEAT_NODE_ID names the node, each takes the first place that no other process of its role
# holds: NODE-1, NODE-2, ... (BACKBEAT_NODE is "node" by default), below BACKBEAT_DATA, which all share. The
# first agent meets the first jobs worker there, however many of each there are.
set -eu

take_a_place() {
    number=1
    while :; do
        BACKBEAT_NODE_ID="${BACKBEAT_NODE:-node}-$number"
        mkdir -p "$BACKBEAT_DATA/$BACKBEAT_NODE_ID"
        # held until the process ends, which keeps the file open
        exec 9>> "$BACKBEAT_DATA/$BACKBEAT_NODE_ID/$1.place"
        flock --nonblock 9 && break
        number=$((number + 1))
    done
    BACKBEAT_DATA="$BACKBEAT_DATA/$BACKBEAT_NODE_ID"
    export BACKBEAT_NODE_ID BACKBEAT_DATA
    # games are gathered, and models trained, on the first node
    if [ $number = 1 ]; then central=,jobs.central; fi
}

role=${1:-}
central=
case $role in
    agent | jobs)
        shift
        if [ -z "${BACKBEAT_NODE_ID:-}" ]; then take_a_place "$role"; fi
        queues=loops
        if [ "$role" = jobs ]; then queues=${BACKBEAT_QUEUES:-jobs.cpu}$central; fi
        if [ "$role" = jobs ]; then set -- -c "${BACKBEAT_SLOTS:-$(nproc)}" "$@"; fi
        set -- celery -A workers.app worker -n "$role@$BACKBEAT_NODE_ID" -Q "$queues" -l INFO "$@"
        ;;
    beat)
        shift
        set -- celery -A workers.app beat -l INFO "$@"
        ;;
    flower)
        shift
        set -- celery -A workers.app flower --address=0.0.0.0 --port="${FLOWER_PORT:-5555}" "$@"
        ;;
esac
exec "$@"
