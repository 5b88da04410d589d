# The coordinator's server. Build it at the repository's root:
#   docker build -f deploy/docker/server.Dockerfile -t phcc-server:0.1.0 .
# TORCH_INDEX: an index that has torch's CPU build, which makes the image some gigabytes smaller.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG CONSTRAINTS=constraints.txt
ARG TORCH_INDEX=
WORKDIR /src
COPY . .
RUN python -m venv /opt/phcc \
    && /opt/phcc/bin/pip install --no-cache-dir --constraint "${CONSTRAINTS}" \
       ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} .

FROM python:${PYTHON}
# Debian keeps no older versions of a package, so a pinned one could not be installed after the next repair.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 phcc \
    && useradd --uid 10001 --gid 10001 --home-dir /srv/phcc --no-create-home --shell /usr/sbin/nologin phcc \
    && install -d -m 0700 -o phcc -g phcc /srv/phcc
COPY --from=build /opt/phcc /opt/phcc
ENV PATH=/opt/phcc/bin:$PATH \
    PHCC_SERVER_INSTANCE=/srv/phcc/instance \
    HOME=/srv/phcc \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /srv/phcc
VOLUME /srv/phcc
EXPOSE 8443
STOPSIGNAL SIGTERM
# Says how it is; the supervisor inside starts again what ends, so nothing outside has to.
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 CMD ["phcc-server", "status"]
ENTRYPOINT ["tini", "--"]
CMD ["phcc-server", "start", "--foreground"]
