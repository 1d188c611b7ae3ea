# The base images. A tag can come to name another image; to build from what you have examined, give digests, as
# scripts/pin-image prints them, or copies in a registry of yours. Both must have the same libc.
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
# Distroless: it has libc, libgcc and root certificates, and Kith needs no more (sslmode=verify-full needs the
# certificates). It has no shell and no package manager, so it needs fewer security updates than debian-slim.
ARG BASE=gcr.io/distroless/cc-debian12

FROM ${BUILD_BASE} AS build
WORKDIR /build

# Builds the dependencies in a separate layer, which is rebuilt only when the manifests change. The benchmark,
# the example and the fuzz targets are part of the workspace, so cargo requires their manifests and sources, although they
# are not built.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
COPY examples/rust/Cargo.toml examples/rust/
COPY fuzz/Cargo.toml fuzz/
RUN mkdir src benches/throughput examples/rust/src && touch src/lib.rs examples/rust/src/lib.rs \
    && for main in src/main.rs build.rs benches/throughput/main.rs fuzz/main.rs; do echo 'fn main() {}' >"$main"; done \
    && cargo build --profile dist --locked \
    # Removes the placeholder build of Kith: cargo compares times, and the real sources are older.
    && cargo clean --profile dist --package kith \
    && rm -r src build.rs

COPY build.rs ./
COPY proto proto
COPY migrations migrations
COPY src src
# Distributing the binary means distributing the licences of its libraries. (The image of Rust has Python.)
COPY scripts/third-party-licenses scripts/
RUN scripts/third-party-licenses >/THIRD-PARTY-LICENSES
# The commit, which the metric kith_build_info has.
ARG REVISION=unknown
RUN KITH_BUILD_REVISION=${REVISION} cargo build --profile dist --locked --bin kith \
    && strip --strip-all -o /kith target/dist/kith \
    # The directory of the database. The runtime stage has no shell to create it.
    && mkdir /data

FROM ${BASE}
ARG BASE
ARG REVISION=unknown
ARG VERSION=0.1.0
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Kith" \
    org.opencontainers.image.description="Connection requests, connections and blocks between users, over gRPC" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.source="https://github.com/kith-rs/kith" \
    org.opencontainers.image.documentation="https://github.com/kith-rs/kith/blob/v${VERSION}/docs/operations.md" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.base.name="${BASE}"
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/kith/
COPY --from=build /THIRD-PARTY-LICENSES /usr/share/doc/kith/
COPY --from=build /kith /usr/local/bin/kith
# Owned by the user below, so that a new volume mounted here is too.
COPY --from=build --chown=65532:65532 /data /data
# A number, since Kubernetes' runAsNonRoot cannot check a name.
USER 65532:65532
# The only directory that Kith writes to: the root may be read-only.
VOLUME /data
# The default database is a file in this directory. A URL in ENV would exclude KITH_DATABASE_URL_FILE.
WORKDIR /data
ENV KITH_LISTEN=0.0.0.0:50051 KITH_METRICS_LISTEN=0.0.0.0:9464
EXPOSE 50051 9464
# Kubernetes ignores it, and has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/usr/local/bin/kith", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/kith"]
