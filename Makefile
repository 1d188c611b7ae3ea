# `make test` is all that a fresh machine needs to run the tests; `make check` is the rest of what CI asks.

BUF_VERSION := 1.75.0
BUF := $(or $(shell command -v buf 2>/dev/null),.tools/node_modules/.bin/buf)

.PHONY: run test soak bench bench-smoke check breaking image
.DEFAULT_GOAL := check

run:
	cargo run --release --locked

test:
	scripts/install-test-tools
	cargo test --locked

# The long version of what `make test` does with fewer events: 100,000 of them, and a transaction held open for 10 s.
soak:
	scripts/install-test-tools
	KITH_TEST_FEED_EVENTS=100000 cargo test --locked --test it -- --nocapture readers::

# Measures Kith against SQL and gRPC alone, in about half an hour, and writes docs/performance/latest.md. ARGS=--flat
# and ARGS=--devices ask other questions, ARGS=--help says what can be chosen. It needs a quiet machine.
bench:
	KITH_TEST_POSTGRES_URL= scripts/install-test-tools
	cargo bench --locked --bench throughput -- $(ARGS)

# That the benchmark works, within a minute: its numbers mean nothing.
bench-smoke:
	KITH_TEST_POSTGRES_URL= scripts/install-test-tools
	cargo bench --locked --bench throughput -- --smoke --out=target/bench/smoke $(ARGS)

check: $(BUF)
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	$(BUF) lint
	$(BUF) format --diff --exit-code

# Against the last release: until there is one, the protos are free to change.
breaking: $(BUF)
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); \
	if [ -n "$$tag" ]; then \
		echo "$(BUF) breaking --against .git#tag=$$tag" && $(BUF) breaking --against ".git#tag=$$tag"; \
	else \
		echo "no release yet (no tag v*): the check for breaking changes of the protos is skipped"; \
	fi

image:
	docker build -t kith .

# Only made when no buf is on the PATH. The binary is part of the npm package, so no install script needs to run.
.tools/node_modules/.bin/buf:
	@command -v npm >/dev/null || { echo "install buf $(BUF_VERSION), or npm, which can" >&2; exit 1; }
	npm install --prefix .tools --no-save --ignore-scripts --no-audit --no-fund @bufbuild/buf@$(BUF_VERSION)
