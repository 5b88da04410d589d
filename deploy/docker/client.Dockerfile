# A hospital's side. Build it at the repository's root:
#   docker build -f deploy/docker/client.Dockerfile -t phcc-client:0.1.0 .
# torch: without TORCH_INDEX the default build for Linux is installed, which brings CUDA. TORCH_INDEX names an
# index with another build (CPU, or the CUDA that fits your driver); CONSTRAINTS another file of pins.
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
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 phcc \
    && useradd --uid 10001 --gid 10001 --home-dir /srv/phcc --no-create-home --shell /usr/sbin/nologin phcc \
    && install -d -m 0700 -o phcc -g phcc /srv/phcc
COPY --from=build /opt/phcc /opt/phcc
# The NVIDIA runtime puts driver and nvidia-smi into the container where a GPU is asked for.
ENV PATH=/opt/phcc/bin:$PATH \
    PHCC_CLIENT_HOME=/srv/phcc/home \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/srv/phcc \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /srv/phcc
VOLUME /srv/phcc
STOPSIGNAL SIGTERM
# Unhealthy also means that the coordinator cannot be reached: nothing that a restart here would mend.
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 CMD ["phcc-client", "status"]
ENTRYPOINT ["tini", "--"]
CMD ["phcc-client", "start", "--foreground"]
