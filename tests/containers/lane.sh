#!/usr/bin/env bash
# Runs a command with an engine that has the images: lane.sh COMMAND...
# Starts an engine if none answers and this is root's machine, and stops it again. Where the base images are not
# there and cannot be pulled, they are made of Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! docker info > /dev/null 2>&1 && command -v dockerd > /dev/null && [ "$(id -u)" = 0 ]; then
    folder=$(mktemp -d /var/tmp/backbeat-engine.XXXXXX)
    dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" > "$folder/log" 2>&1 &
    engine=$!
    stop() {
        kill "$engine" 2> /dev/null && wait "$engine" || true
        rm -rf "$folder"
    }
    trap stop EXIT
    for _ in $(seq 100); do
        docker info > /dev/null 2>&1 && break
        kill -0 "$engine" 2> /dev/null || { cat "$folder/log"; break; }
        sleep 0.2
    done
fi

if docker info > /dev/null 2>&1; then
    for image in python:3.11-slim-bookworm redis:7; do
        docker image inspect "$image" > /dev/null 2>&1 || docker pull -q "$image" 2> /dev/null || tests/containers/base_images.sh
    done
    docker build -q -t backbeat .
    docker build -q --build-arg PLAYER=openspiel -t backbeat:openspiel .
fi
"$@"
