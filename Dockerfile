# Build: docker build -t outrelay .
FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY tests tests
RUN cargo build --release --locked --bin outrelay

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent outrelay \
    && install -d -o outrelay -g outrelay -m 0750 /run/outrelay /var/lib/outrelay
COPY --from=build /src/target/release/outrelay /usr/local/bin/outrelay
USER outrelay
# QUIC
EXPOSE 7443/udp
# SIGTERM stops the relay in order.
STOPSIGNAL SIGTERM
ENTRYPOINT ["outrelay"]
CMD ["relay", "--config", "/etc/outrelay/relay.toml"]
