# The program with its native kernel, its locked packages and a Python; nothing that builds or installs.
#
# The bases are pinned by their digests, which have to be given, so that whoever builds decides when they change. Without
# them the build stops at the first FROM. Digests are not secret: keep those in use beside your build's configuration.
# The first has Rust, the second a C compiler; the second and the last are of one Python.
#
#   digest() { docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}'; }
#   docker build --build-arg RUST_DIGEST="$(digest rust:1.95-slim-bookworm)" \
#     --build-arg BUILD_DIGEST="$(digest python:3.11-bookworm)" \
#     --build-arg PYTHON_DIGEST="$(digest python:3.11-slim-bookworm)" \
#     --build-arg REVISION="$(git rev-parse HEAD)" --tag bidstream-svc:0.1.0 .
#   docker run --read-only --cap-drop ALL --env-file bidstream.env bidstream-svc:0.1.0
ARG RUST_DIGEST
ARG BUILD_DIGEST
ARG PYTHON_DIGEST

FROM rust:1.95-slim-bookworm@${RUST_DIGEST} AS rust

FROM python:3.11-bookworm@${BUILD_DIGEST} AS build
WORKDIR /src
COPY requirements/build.txt requirements/run.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /build \
    && /build/bin/pip install --no-deps --require-hashes --only-binary :all: -r requirements/build.txt \
    && python -m venv --without-pip /opt/bidstream-svc \
    && /build/bin/pip --python /opt/bidstream-svc install --no-deps --require-hashes --only-binary :all: -r requirements/run.txt \
    && /build/bin/pip --python /opt/bidstream-svc check
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV PATH=/usr/local/cargo/bin:/usr/local/bin:/usr/bin:/bin \
    RUSTUP_HOME=/usr/local/rustup \
    CARGO_HOME=/usr/local/cargo
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    BUILD_KERNEL=1 /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/bidstream-svc install --no-index --no-deps /wheels/*.whl

FROM python:3.11-slim-bookworm@${PYTHON_DIGEST}
# Directories that volumes take their owner from: of the socket, the key cache and the store of opt-outs.
RUN python -m pip uninstall --yes pip setuptools wheel \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    && install -d -o 65532 -g 65532 -m 2770 /run/bidstream-svc /var/cache/bidstream-svc /var/lib/bidstream-svc
COPY --from=build /opt/bidstream-svc /opt/bidstream-svc
ENV PATH=/opt/bidstream-svc/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bidstream-svc" \
      org.opencontainers.image.description="Sidecar that turns UID2/EUID advertising tokens into raw ids for a bidder" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
# A number and no name, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /
EXPOSE 8080 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["bidstream-svc", "health"]
ENTRYPOINT ["bidstream-svc"]
CMD ["serve"]
