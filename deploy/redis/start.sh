#!/bin/sh
# The server of docker-compose.yml: users.acl with the passwords of the environment, kept as their SHA-256 only.
set -eu
umask 077
for role in agent jobs beat flower operator; do
    name=BACKBEAT_$(echo "$role" | tr a-z A-Z)_PASSWORD
    eval "password=\${$name:?}"
    hash=$(printf %s "$password" | sha256sum)
    set -- "$@" -e "s/^user $role on resetpass/user $role on resetpass #${hash%% *}/"
    unset "$name"
done
sed "$@" /etc/backbeat/users.acl > /tmp/users.acl
exec redis-server --bind 0.0.0.0 --dir /data --aclfile /tmp/users.acl \
    --appendonly yes --appendfsync everysec --maxmemory-policy noeviction
