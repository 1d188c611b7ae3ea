# Both bases can be replaced, for example by copies in a registry of your own. They must have the same libc.
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
# Distroless: libc, libgcc and root certificates, which is all that Kith needs (the certificates for a PostgreSQL with
# sslmode=verify-full). It has no shell and no package manager, so there is less to keep patched than in debian-slim.
ARG BASE=gcr.io/distroless/cc-debian12

FROM ${BUILD_BASE} AS build
WORKDIR /build

# The dependencies in a layer of their own: it is made again only when the manifests change. The benchmark is part of the
# workspace, so cargo insists on its manifest and its source, though it is not built.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
RUN mkdir src benches/throughput && touch src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs build.rs benches/throughput/main.rs \
    && cargo build --profile dist --locked \
    # What stood in for Kith must go: cargo compares times, and the real sources are older.
    && cargo clean --profile dist --package kith \
    && rm -r src build.rs

COPY build.rs ./
COPY proto proto
COPY migrations migrations
COPY src src
RUN cargo build --profile dist --locked --bin kith \
    # Where the database lives. The runtime stage has no shell to make it.
    && mkdir /data

FROM ${BASE}
COPY --from=build /build/target/dist/kith /usr/local/bin/kith
# Owned by the user below, so that a volume that is mounted here for the first time is too.
COPY --from=build --chown=65532:65532 /data /data
# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
VOLUME /data
ENV KITH_DATABASE_URL=sqlite:///data/kith.db KITH_LISTEN=0.0.0.0:50051
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/kith", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/kith"]
