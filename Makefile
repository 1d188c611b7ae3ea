# `make test` is all that a fresh machine needs to run the tests; `make check` is the rest of what CI asks.

BUF_VERSION := 1.75.0
CARGO_CYCLONEDX_VERSION := 0.5.9
CARGO_DENY_VERSION := 0.20.2
CARGO_MACHETE_VERSION := 0.9.2
CARGO_MUTANTS_VERSION := 27.1.0
CARGO_FUZZ_VERSION := 0.13.2
# Where make installs what the machine lacks.
export PATH := $(CURDIR)/.tools/bin:$(PATH)
BUF := $(or $(shell command -v buf 2>/dev/null),.tools/node_modules/.bin/buf)

.PHONY: run dist test examples fixtures soak replicas import-kills timing bench bench-smoke overload rolling failover hostile fuzz status-page check advisories alerts alerts-trial alerts-recorded \
	dashboard sbom breaking mutants mutants-diff image image-test deb-test deploy-check release-check
.DEFAULT_GOAL := check

run:
	cargo run --release --locked

# The files of a release, in target/dist-files: the binary with manual pages and completions as .tar.gz and .deb, the Helm
# chart, the protos and their descriptors, the bill of materials, and SHA256SUMS. PROFILE=dev tries the packaging without the long build.
PROFILE := dist
dist:
	$(if $(filter dist,$(PROFILE)),scripts/install-check-tools cyclonedx $(CARGO_CYCLONEDX_VERSION))
	scripts/dist $(PROFILE)

# Whether this commit can be tagged: clean, with a section of its version in the changelog, and not released before.
release-check:
	scripts/check-release

# Installs the .deb of `make dist` in a Debian of its own, under systemd; starts, calls, upgrades, removes and purges it.
deb-test:
	scripts/test-deb

# Builds the image with buildah, and runs it with podman and a read-only root, without the compilation: the binary is that
# of `make dist`, and the base a Debian.
image-test:
	scripts/test-image

# Checks the files of deploy/ with the tools that use them.
deploy-check:
	scripts/check-deploy

test:
	scripts/install-test-tools
	cargo test --locked

# Runs the examples of clients in LANGUAGES against real servers, and installs what they need with apt-get, pip and npm.
# CI runs those that need no more than it has.
LANGUAGES := python typescript go java rust
examples: $(BUF)
	BUF=$(BUF) scripts/examples $(LANGUAGES)

# The long version of what `make test` does with fewer events and scripts: 100,000 events, a transaction held open for
# 10 s, and ten scripts in each comparison of two worlds.
soak:
	scripts/install-test-tools
	KITH_TEST_FEED_EVENTS=100000 KITH_TEST_WORLDS=10 cargo test --locked --test it -- --nocapture readers:: worlds::

# The long version of the trial of reads right after writes, on a replica whose replay stalls: 100,000 of them.
replicas:
	scripts/install-test-tools
	cargo test --locked --test it -- --nocapture --ignored replicas::

# Makes tests/fixtures/moving-in again: runs django-friendship, and the queries of docs/moving-in on SQLite, PostgreSQL and
# MariaDB. scripts/fixtures says what it needs.
fixtures:
	scripts/fixtures

# Kills imports at twenty moments on each engine; `make test` does so at three.
import-kills:
	scripts/install-test-tools
	KITH_TEST_IMPORT_KILLS=20 cargo test --locked --test it -- --nocapture import::kills::

# On a machine that does nothing else.
timing:
	scripts/install-test-tools
	KITH_TEST_TIMING=10000 KITH_TEST_PATIENCE=7200 cargo test --release --locked --test it -- --nocapture --test-threads=1 timing::

# The benchmark measures the kith that is built beside it.
BENCH = cargo build --profile dist --locked --bin kith && cargo run --profile dist --locked -p kith-bench --

# Measures Kith against SQL and gRPC alone, in about half an hour, and writes docs/performance/latest.md. ARGS=--flat
# and ARGS=--devices ask other questions, ARGS=--against=BINARY compares with another kith, ARGS=--help says what can be chosen. It needs a quiet machine.
bench:
	KITH_TEST_POSTGRES_URL= scripts/install-test-tools
	$(BENCH) $(ARGS)

# Offers many more calls than Kith takes, and writes docs/performance/overload.md: goodput, refusals,
# and the time until all is as before. It needs a quiet machine.
overload:
	KITH_TEST_POSTGRES_URL= scripts/install-test-tools
	$(BENCH) --overload $(ARGS)

# Restarts each of three servers twenty times, under half of the load that they take: behind HAProxy, and behind a
# client-side balancer. In ten minutes it shows that no call fails and that watchers miss and double nothing. tests/it/rolling.rs
# is the short version. ARGS=--help says what can be chosen.
rolling:
	cargo build --profile dist --locked --bin kith
	scripts/rolling --binary=target/dist/kith $(ARGS)

# Kills the primary's machine and its PostgreSQL, changes the primary as planned, and kills its Patroni: 23 failovers
# of a PostgreSQL cluster with synchronous replication (Patroni, etcd and HAProxy, which it installs), under 300 calls a
# second. It takes half an hour. With ARGS=--asynchronous commits are lost, and it shows that they are lost for all in the
# same way, and that all are told. ARGS=--freezes=3 also freezes primaries, and ARGS=--help says what else can be chosen.
# tests/it/failover.rs and tests/it/lost_commits.rs are the short versions, without Patroni.
failover:
	cargo build --profile dist --locked --bin kith
	scripts/failover --binary=target/dist/kith $(ARGS)

# Tests the benchmark itself in a few minutes; its figures mean nothing.
bench-smoke:
	KITH_TEST_POSTGRES_URL= scripts/install-test-tools
	$(BENCH) --smoke --out=target/bench/smoke $(ARGS)

check: $(BUF)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	scripts/install-check-tools deny $(CARGO_DENY_VERSION)
	cargo deny check bans licenses sources
	scripts/check-advisories
	scripts/install-check-tools machete $(CARGO_MACHETE_VERSION)
	cargo machete
	$(BUF) lint
	$(BUF) format --diff --exit-code
	$(MAKE) --no-print-directory alerts

# The alert rules, their tests and the dashboard in deploy/. `make check` asks for it.
alerts:
	scripts/install-prometheus
	scripts/check-alerts

# Writes the dashboard anew from scripts/dashboard.
dashboard:
	scripts/dashboard >deploy/grafana/kith.json

# Lets a real Prometheus scrape a real server through a fault of each kind, and asserts that the right alert fires and no
# other. A minute of the rules is three seconds here. It takes ten minutes; FAULTS="disk_full queue_full" takes some of
# tests/it/alerts/faults.rs.
alerts-trial:
	scripts/install-test-tools
	scripts/install-prometheus
	cargo test --locked --test it -- --ignored --nocapture --test-threads=4 $(or $(FAULTS:%=alerts::faults::%),alerts::faults::)

# Writes deploy/prometheus/tests/recorded.yml anew: what Prometheus sees during nine of these faults, for `make alerts`.
alerts-recorded:
	scripts/install-test-tools
	scripts/install-prometheus
	scripts/record-alerts $(FAULTS)

# As in `make check`, but fails without a copy of the advisory database, or with an old one.
advisories:
	scripts/install-check-tools deny $(CARGO_DENY_VERSION)
	scripts/check-advisories --required

# The bill of materials of the binary, target/sbom/kith.cdx.json (CycloneDX). TARGET=… is for another target triple.
sbom:
	scripts/install-check-tools cyclonedx $(CARGO_CYCLONEDX_VERSION)
	scripts/sbom $(TARGET)

# Against the last release: until there is one, the protos are free to change.
breaking: $(BUF)
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); \
	if [ -n "$$tag" ]; then \
		echo "$(BUF) breaking --against .git#tag=$$tag" && $(BUF) breaking --against ".git#tag=$$tag"; \
	else \
		echo "no release yet (no tag v*): the check for breaking changes of the protos is skipped"; \
	fi

# Changes the rules one by one and runs the tests that should notice: hours. `FILE=src/domain/policy.rs` takes one file,
# `TESTS=--lib` only the unit tests, which are all that it builds then. Survivors are listed in mutants.out/missed.txt;
# with `ARGS=--iterate` the next run takes only these. `ARGS=--in-place` builds in the work tree, which is faster.
TESTS := --lib --test it -- domain:: mapping:: rpc:: conformance::
MUTANTS_FILES := -f src/domain.rs -f 'src/domain/**/*.rs' -f src/mapping.rs -f 'src/mapping/**/*.rs'
MUTANTS = PROPTEST_DISABLE_FAILURE_PERSISTENCE=true cargo mutants --no-shuffle \
	$(if $(FILE),-f $(FILE),$(MUTANTS_FILES)) $(ARGS)
MUTANTS_TESTS = $(if $(filter-out --lib,$(TESTS)),-- $(TESTS),--cargo-arg=--lib)
mutants:
	scripts/install-check-tools mutants $(CARGO_MUTANTS_VERSION)
	$(MUTANTS) $(MUTANTS_TESTS)

# The same for the lines that the last commit changed, or those since `BASE`.
BASE := HEAD~1
mutants-diff:
	scripts/install-check-tools mutants $(CARGO_MUTANTS_VERSION)
	mkdir -p target && git diff $(BASE) -- src > target/mutants.diff
	$(MUTANTS) --in-diff target/mutants.diff $(MUTANTS_TESTS)

# Fuzzes each target for SECONDS, guided by what code it reaches; TARGETS="PageToken CreateUser" takes some. `make test`
# runs the same targets briefly. It needs a nightly toolchain of rustup and a C++ compiler.
SECONDS := 60
fuzz:
	@rustup run nightly rustc --version >/dev/null || { echo "install it: rustup toolchain install nightly" >&2; exit 1; }
	scripts/install-check-tools fuzz $(CARGO_FUZZ_VERSION)
	scripts/fuzz $(SECONDS) $(TARGETS)

# Attacks a release build for SECONDS in each of the ways of tests/it/hostile.rs, and prints what it costs an honest
# client and the server.
hostile:
	KITH_HOSTILE_SECONDS=$(SECONDS) cargo test --release --locked --test it -- --ignored --nocapture --exact hostile::measured::table

# Shows the status page in headless Chromium, light and dark: the pictures are target/status-page/*.png.
status-page:
	scripts/install-test-tools
	scripts/install-browser
	cargo test --locked --test it -- --ignored --nocapture --exact status_page::in_a_browser

# ARGS="$$(scripts/pin-image)" takes the base images by digest.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
image:
	docker build --build-arg=VERSION=$(VERSION) --build-arg=REVISION=$$(git rev-parse --short=12 HEAD) \
		--build-arg=CREATED=$$(date -u -d @$$(git log -1 --format=%ct) +%Y-%m-%dT%H:%M:%SZ) $(ARGS) -t kith:$(VERSION) -t kith .

# Only made when no buf is on the PATH. The binary is part of the npm package, so no install script needs to run.
.tools/node_modules/.bin/buf:
	@command -v npm >/dev/null || { echo "install buf $(BUF_VERSION), or npm, which can" >&2; exit 1; }
	npm install --prefix .tools --no-save --ignore-scripts --no-audit --no-fund @bufbuild/buf@$(BUF_VERSION)
