# make build            every program
# make demo             a management group that can be watched until Ctrl-C; EXIT=1 leaves after the tour,
#                       BREAK=service or BREAK=gateway breaks that for good: the demo must notice
# make test             everything that must hold; T=word: only the tests whose names contain the word
# make bench            figures
# make soak             the seeded tests with SEEDS seeds each (100000 when not said); T=word as above
# make fuzz             the parsers, each for SECONDS seconds (60 when not said), with the nightly toolchain
#
# KEEP=1 keeps the folders of tests.

SEEDS ?= 100000
SECONDS ?= 60
FUZZ := $(wildcard crates/*/fuzz/fuzz_targets/*.rs)

.DEFAULT_GOAL := build
.PHONY: build demo test bench soak fuzz programs setup checks

setup:
	@tools/setup

programs:
	cargo build --workspace --bins --locked

build: setup programs

demo: build
	cargo run --quiet --package wardline-harness --bin demo --locked

ifdef T
test: setup programs
	cargo nextest run --workspace --locked -E 'test($(T))'
else
test: setup checks programs
	cargo nextest run --workspace --locked
endif

checks:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: setup
	cargo build --workspace --bins --release --locked
	cargo run --quiet --release --package wardline-harness --bin bench --locked

# Of a soak only the tests that go through seeds are worth repeating; all of them run, and know how often.
soak: setup programs
	SEEDS=$(SEEDS) cargo nextest run --workspace --locked --profile soak $(if $(T),-E 'test($(T))')

fuzz: setup
	@test -n "$(FUZZ)" || { echo "there is nothing to fuzz: no crates/*/fuzz/fuzz_targets"; exit 1; }
	@cargo fuzz --version >/dev/null 2>&1 || { echo "fuzz: installing cargo-fuzz"; cargo install --locked cargo-fuzz; }
	@set -e; for target in $(FUZZ); do \
		cd "$(CURDIR)/$${target%/fuzz/fuzz_targets/*}"; \
		name=$$(basename "$$target" .rs); \
		mkdir -p "fuzz/target/found/$$name"; \
		cargo +nightly fuzz run "$$name" "fuzz/target/found/$$name" "fuzz/corpus/$$name" -- -max_total_time=$(SECONDS); \
	done
