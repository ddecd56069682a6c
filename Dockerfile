# One Dockerfile, four images:
#
#   docker build --build-arg SERVICE=events --tag rostrum-events .        events | tickets | media | exports
#
# A release adds --build-arg VERSION=1.2.0 --build-arg REVISION="$(git rev-parse HEAD)".
#
# A container's arguments are a module and its arguments, so one image runs every role of its service:
#
#   docker run … rostrum-events events.api             or events.messenger; media and exports: media.worker
#   docker run … rostrum-events alembic upgrade head   migrates the service's database
#   docker run … rostrum-events shared.messaging …     the operator's command for outbox and dead letters
#
# Needs BuildKit only (the default since Docker 23). Runs as user 10001 and writes to /tmp and, if STORAGE_PLACE is
# `local`, below /var/lib/rostrum: mount a volume there.

ARG PYTHON=3.13-slim-trixie
ARG UV=0.13.9

FROM ghcr.io/astral-sh/uv:${UV} AS uv


FROM python:${PYTHON} AS dependencies
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_PROJECT_ENVIRONMENT=/opt/rostrum/environment \
    UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy
WORKDIR /build
# Only the package lists are copied here, so a change of code reuses this stage.
COPY pyproject.toml uv.lock ./
COPY shared/pyproject.toml shared/
COPY shared/testkit/pyproject.toml shared/testkit/
COPY services/events/pyproject.toml services/events/
COPY services/tickets/pyproject.toml services/tickets/
COPY services/media/pyproject.toml services/media/
COPY services/exports/pyproject.toml services/exports/
ARG SERVICE
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-default-groups --no-install-workspace \
      --package "rostrum-${SERVICE:?is missing: --build-arg SERVICE=events}"
# Remove the debug symbols of extension modules (bundled libraries stay as they are), and the descriptions of all Amazon
# services except S3 and those that issue credentials: a third of the size.
RUN find /opt/rostrum/environment -name '*.cpython-*.so' -exec strip --strip-debug {} + \
 && find /opt/rostrum/environment -path '*/botocore/data/*' -prune -type d \
      ! -name s3 ! -name sts ! -name 'sso*' -exec rm -r {} +


FROM python:${PYTHON} AS code
ARG SERVICE
WORKDIR /opt/rostrum
COPY services/${SERVICE}/alembic.ini ./
COPY services/${SERVICE}/migrations migrations
COPY shared/src services/${SERVICE}/src code/
# Compile here, as the running container cannot write; unchecked, as its sources never change.
RUN python -m compileall -q --invalidation-mode unchecked-hash code migrations
COPY deploy/compose/healthcheck.py ./


FROM python:${PYTHON}
# No installer: neither in the environment nor in the system.
RUN python -m pip uninstall --quiet --yes --root-user-action ignore pip \
 && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/rostrum
COPY --from=dependencies /opt/rostrum/environment /opt/rostrum/environment
COPY --from=code /opt/rostrum /opt/rostrum
# Use the pinned tzdata only (PYTHONTZPATH), one port for the probes of every role, less memory for threads.
ENV PATH=/opt/rostrum/environment/bin:$PATH \
    PYTHONPATH=/opt/rostrum/code \
    PYTHONTZPATH="" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    API_HOST=0.0.0.0 \
    API_PORT=8000 \
    HEALTH_PORT=8000 \
    STORAGE_FOLDER=/var/lib/rostrum
WORKDIR /opt/rostrum
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-IS", "healthcheck.py"]
ENTRYPOINT ["python", "-m"]

ARG SERVICE
ARG PYTHON
ARG VERSION=unreleased
ARG REVISION=unknown
# For the operator's command, and for the metric rostrum_build_info.
ENV SERVICE=${SERVICE} \
    ROSTRUM_VERSION=${VERSION} \
    ROSTRUM_REVISION=${REVISION}
LABEL org.opencontainers.image.title="rostrum-${SERVICE}" \
      org.opencontainers.image.description="The ${SERVICE} service of Rostrum: api, messenger, worker and migrations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:${PYTHON}"
