# docker build -t tessera . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" tessera run suite.yaml
FROM rust:1.95-slim-bookworm AS build
# A C compiler for libjpeg and TLS; git names the commit in environment.json.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make git && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin bench && strip target/release/bench

FROM debian:bookworm-slim
COPY --from=build /source/target/release/bench /usr/local/bin/bench
COPY --from=build /source/suites /usr/local/share/tessera/suites
COPY --from=build /source/LICENSE-MIT /source/LICENSE-APACHE /usr/local/share/doc/tessera/
RUN useradd --create-home --uid 10001 bench && mkdir /data && chown bench /data
USER bench
# Runs, and the store in runs/.store, are written here.
WORKDIR /data
ENTRYPOINT ["bench"]
CMD ["--help"]
