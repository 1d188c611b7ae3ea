# Both base images can be replaced, for example by copies in your own registry. They must have the same libc.
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
# Distroless: it has libc, libgcc and root certificates, and Kith needs no more (sslmode=verify-full needs the
# certificates). It has no shell and no package manager, so it needs fewer security updates than debian-slim.
ARG BASE=gcr.io/distroless/cc-debian12

FROM ${BUILD_BASE} AS build
WORKDIR /build

# Builds the dependencies in a separate layer, which is rebuilt only when the manifests change. The benchmark and
# the fuzz targets are part of the workspace, so cargo requires their manifests and sources, although they are not built.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
COPY fuzz/Cargo.toml fuzz/
RUN mkdir src benches/throughput && touch src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs build.rs benches/throughput/main.rs fuzz/main.rs \
    && cargo build --profile dist --locked \
    # Removes the placeholder build of Kith: cargo compares times, and the real sources are older.
    && cargo clean --profile dist --package kith \
    && rm -r src build.rs

COPY build.rs ./
COPY proto proto
COPY migrations migrations
COPY src src
RUN cargo build --profile dist --locked --bin kith \
    # The directory of the database. The runtime stage has no shell to create it.
    && mkdir /data

FROM ${BASE}
COPY --from=build /build/target/dist/kith /usr/local/bin/kith
# Owned by the user below, so that a new volume mounted here is too.
COPY --from=build --chown=65532:65532 /data /data
# A number, since Kubernetes' runAsNonRoot cannot check a name.
USER 65532:65532
VOLUME /data
# The default database is a file in this directory. A URL in ENV would exclude KITH_DATABASE_URL_FILE.
WORKDIR /data
ENV KITH_LISTEN=0.0.0.0:50051
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/kith", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/kith"]
