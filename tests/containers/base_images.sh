#!/usr/bin/env bash
# The base images that the Dockerfile and docker-compose.yml name, made on this machine from Debian's packages.
# For machines that reach Debian's archive, but no registry: CI. On others `docker build` pulls the real ones.
# What is there already is kept. Needs root, mmdebstrap, and an engine that answers.
set -euo pipefail
CA=/etc/ssl/certs/ca-certificates.crt

have() { docker image inspect "$1" > /dev/null 2>&1; }

if ! have debian:bookworm-slim; then
    # the archive that this machine's own apt uses
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' | awk '$2 == "bookworm" { print $1; exit }')
    mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=ca-certificates,usr-is-merged \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/lintian/*' --dpkgopt='path-exclude=/usr/share/bug/*' \
        bookworm - "${mirror:?this machine has no archive of bookworm}" |
        docker import --change 'CMD ["bash"]' - debian:bookworm-slim
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "$CA" "$context/ca.crt" # the authorities this machine trusts: what it downloads may be signed by one of its own

if ! have python:3.11-slim-bookworm; then
    # as the real one: with pip, and without tests and compiled modules of the standard library
    docker build -q -t python:3.11-slim-bookworm -f - "$context" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv \
    && python3 -m venv /opt/pip && ln -s /opt/pip/bin/pip /usr/local/bin/pip && ln -s python3 /usr/bin/python \
    && rm -rf /opt/pip/lib/python3*/site-packages/setuptools* /opt/pip/lib/python3*/site-packages/pkg_resources \
        /usr/share/python-wheels/setuptools* /usr/lib/python3*/lib2to3 \
        /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old \
    && find /usr/lib/python3* /opt/pip -depth -name __pycache__ -exec rm -rf {} +
COPY ca.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
DOCKERFILE
fi

if ! have redis:7; then
    docker build -q -t redis:7 -f - "$context" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && mkdir -p /data && chown redis:redis /data
USER redis
WORKDIR /data
EXPOSE 6379
CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"]
DOCKERFILE
fi
docker images
