# Constructure sync in a container: one process of PID 1, one port, one folder that it writes (/data).
#
#   docker build --tag constructure-sync .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     --volume constructure-data:/data --publish 127.0.0.1:8000:8000 constructure-sync
#
# A package mirror: --build-arg PIP_INDEX_URL=…, or with credentials --secret id=pip.conf,src=…, which no layer keeps.
# The hashes in requirements/runtime.txt decide what is installed, whatever the index says.

ARG PYTHON_VERSION=3.13

# Not the slim image: it has no C compiler, which our own readers of updates are compiled with.
FROM python:${PYTHON_VERSION} AS build
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Wheels only: nothing of a dependency is compiled, and no set-up code of one runs.
COPY requirements/runtime.txt requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip wheel --no-deps --require-hashes --only-binary :all: --requirement requirements/runtime.txt --wheel-dir wheels

# hatchling makes our own wheel, with hatch_build.py, in an environment that stays behind, as does all else of this stage.
RUN python -m venv tools && \
    tools/bin/python -m pip install --no-index --find-links wheels hatchling
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY schemas schemas
COPY storage storage
COPY auth auth
COPY constructure_sync constructure_sync
RUN tools/bin/python -m hatchling build --target wheel --directory wheels

# Without pip, and only what the wheel asks for, out of the wheels whose hashes were compared above.
RUN python -m venv --without-pip /opt/constructure-sync && \
    pip --python /opt/constructure-sync/bin/python install --no-index --find-links wheels wheels/constructure_sync-*.whl


FROM python:${PYTHON_VERSION}-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="constructure-sync" \
      org.opencontainers.image.description="Real-time collaboration server for course graphs" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# A number, so that Kubernetes can see that it is not root. The base image's installer goes: nothing is installed later.
RUN groupadd --gid 10001 constructure && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin constructure && \
    install --directory --owner=10001 --group=10001 --mode=0700 /data && \
    pip uninstall --yes --no-cache-dir --root-user-action=ignore pip
COPY --from=build /opt/constructure-sync /opt/constructure-sync

ENV PATH=/opt/constructure-sync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CONSTRUCTURE_DATA_DIR=/data \
    CONSTRUCTURE_HOST=0.0.0.0 \
    CONSTRUCTURE_PORT=8000

USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['CONSTRUCTURE_PORT']), timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["constructure-sync"]
CMD ["serve"]
