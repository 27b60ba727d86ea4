# The image of every process: docker build -t backbeat .
# With the OpenSpiel player that jobs run by default: docker build --build-arg PLAYER=openspiel -t backbeat:openspiel .
# Plain enough for every builder. Built twice from the same base, by whichever, it holds the same files.
ARG SOURCE_DATE_EPOCH=1700000000

FROM python:3.11-slim-bookworm AS build
ARG PLAYER=
ARG SOURCE_DATE_EPOCH
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends elfutils > /dev/null
COPY deploy/requirements*.lock deploy/unused.txt deploy/
RUN python -m venv --without-pip /opt/build \
    && python -m venv --without-pip /opt/backbeat \
    && pip --python /opt/build/bin/python install --quiet --no-compile --require-hashes -r deploy/requirements-build.lock \
    && pip --python /opt/backbeat/bin/python install --quiet --no-compile --require-hashes \
        -r deploy/requirements${PLAYER:+-$PLAYER}.lock \
    && cd /opt/backbeat/lib/python3*/site-packages \
    && rm -r $(grep -v '^#' /src/deploy/unused.txt) \
    && find pygments/lexers -name '[a-z]*.py' ! -name python.py ! -name special.py -delete \
    && find . \( -name '*.pyi' -o -name '*.map' -o -path '*/sboms/*' \) -delete \
    && find . -name '*.so*' -exec eu-strip {} +
COPY pyproject.toml README.md ./
COPY fleet fleet
COPY schedules schedules
COPY tasks tasks
COPY workers workers
ARG IMPORTED="import sys, apprise, numpy, celery.bin.celery, celery.apps.worker, celery.apps.beat, \
celery.concurrency.thread, celery.worker.autoscale, flower.app, kombu.transport.redis, workers.app, workers.entry, \
workers.local, workers.cli; print(*sorted(m.__file__ for m in sys.modules.values() \
if 'site-packages' in str(getattr(m, '__file__', '')) and m.__file__.endswith('.py')), sep='\n')"
COPY deploy/entrypoint.sh /opt/backbeat/bin/
# jobs run in a node's data directory, and find the example player from there
COPY examples /app/examples
COPY config /app/config
# Only what processes import is compiled, which saves 30 MB, and without the sources' times. Neither those nor the modes that
# a clone happens to have differ between builds.
RUN /opt/build/bin/python -m hatchling build -t wheel -d /opt/wheel \
    && pip --python /opt/backbeat/bin/python install --quiet --no-compile --no-deps /opt/wheel/*.whl \
    && cd /opt/backbeat/lib/python3*/site-packages \
    && PYTHONDONTWRITEBYTECODE=1 /opt/backbeat/bin/python -c "$IMPORTED" > /tmp/imported \
    && /opt/backbeat/bin/python -m compileall -q --invalidation-mode unchecked-hash -i /tmp/imported \
    && chmod -R u=rwX,go=rX /opt/backbeat /app \
    && find /opt/backbeat /app -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Backbeat" \
    org.opencontainers.image.description="The background loops of a distributed self-play training cluster"
# useradd notes the day, unless it is told one
ARG SOURCE_DATE_EPOCH
RUN groupadd --gid 10001 backbeat \
    && useradd --uid 10001 --gid backbeat --home-dir /data --no-create-home --shell /usr/sbin/nologin backbeat \
    && install -d -o backbeat -g backbeat /data /store \
    && rm -f /var/log/faillog /var/log/lastlog
COPY --from=build /opt/backbeat /opt/backbeat
COPY --from=build /app /app
ENV PATH=/opt/backbeat/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    BACKBEAT_CONFIG=/app/config/unified_loop.yaml BACKBEAT_DATA=/data BACKBEAT_RUN=/tmp/backbeat
USER backbeat
WORKDIR /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/backbeat/bin/entrypoint.sh"]
CMD ["backbeat", "--help"]
