# The image of the operator; docs/image.md says how to build it. Both bases are named by digest, which the build gives:
# the same source and the same arguments make the same image.
ARG RUST_DIGEST
ARG RUNTIME_DIGEST

# Compiler and C compiler, and the glibc of the runtime below.
FROM docker.io/library/rust:1.95-slim-trixie@${RUST_DIGEST} AS build
WORKDIR /build
ENV CARGO_TARGET_DIR=/cache
COPY Cargo.toml Cargo.lock ./
COPY src src
# A folder for each architecture: platforms are built at the same time and share the mount. What is in a mount is not in
# the layer, so the binary is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/cache \
    cargo build --locked --release --bin virtual-account-operator --target-dir "$CARGO_TARGET_DIR/$(uname -m)" \
    && install -D "$CARGO_TARGET_DIR/$(uname -m)/release/virtual-account-operator" out/virtual-account-operator

# glibc and libgcc, no shell.
FROM gcr.io/distroless/cc-debian13:nonroot@${RUNTIME_DIGEST}
ARG VERSION=unreleased
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="virtual-account-operator" \
      org.opencontainers.image.description="Kubernetes operator that mints, delivers, rotates and verifies the tokens of virtual accounts" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian13:nonroot" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
# Every TLS client in the operator reads this file, and none has certificates of its own.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE /usr/share/doc/virtual-account-operator/LICENSE
COPY --from=build /build/out/virtual-account-operator /usr/local/bin/virtual-account-operator
# By number: Kubernetes cannot see whether a name is root.
USER 65532:65532
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/virtual-account-operator"]
CMD ["run"]
