#!/bin/sh
# Prints deploy/compose.env.example with passwords of chance.
set -eu
chance() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
while IFS= read -r line; do
    case $line in
        BACKBEAT_WEB_LOGIN=) echo "${line}admin:$(chance)" ;;
        BACKBEAT_*_PASSWORD=) echo "$line$(chance)" ;;
        *) printf '%s\n' "$line" ;;
    esac
done < "$(dirname "$0")/compose.env.example"
