# crfs: `make` lists the targets.

PREFIX ?= /usr/local
# Warnings are errors, and a module imports only what it declares (see the rows in Package.swift).
SWIFT_FLAGS ?= -Xswiftc -warnings-as-errors --explicit-target-dependency-import-check error
# The release binary carries the Swift library, so that it runs where there is no toolchain.
# One test after the other: many wait for servers and mounts, and a test that waits holds one of the few threads that
# tasks run on.
TEST_FLAGS = $(SWIFT_FLAGS) --skip-build --disable-xctest --no-parallel
RELEASE_FLAGS ?= $(SWIFT_FLAGS) -c release --product crfs --static-swift-stdlib
SECONDS_PER_FUZZ_TARGET ?= 60
FORMATTED = Sources Tests Benchmarks Package.swift

RELEASE_BINARY = $(shell swift build -c release --show-bin-path)/crfs
DEBUG_BINARY = $(shell swift build --show-bin-path)/crfs

.DEFAULT_GOAL := help
.PHONY: help deps build build-debug test test-unit demo lint format fuzz-smoke bench-deps bench-image bench-quick bench \
	bench-full bench-check bench-metadata bench-settings bench-micro install clean print-release-binary print-debug-binary

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install the packages that crfs needs (apt-get; says which where it may not)
	@.ci/deps

build: deps ## build the release binary
	swift build $(RELEASE_FLAGS)
	@echo "built $(RELEASE_BINARY)"

build-debug: deps
	swift build $(SWIFT_FLAGS) --build-tests

test: build-debug ## build and run all tests (mount tests need root and /dev/fuse, else they are skipped)
	swift test $(TEST_FLAGS)

test-unit: build-debug ## run the tests that need neither root nor FUSE
	swift test $(TEST_FLAGS) --skip MountTests

demo: build ## push an image into a private registry, mount it and run Python out of it (needs root)
	@CRFS_BINARY="$(RELEASE_BINARY)" Tests/Demo/demo.sh

lint: ## check the format of the sources
	swift format lint --strict -r $(FORMATTED)
	@for script in .ci/run .ci/deps Benchmarks/deps $$(git ls-files '*.sh'); do bash -n "$$script" || exit 1; done
	@python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' $$(git ls-files '*.py')

format: ## format the sources in place
	swift format -i -r $(FORMATTED)

fuzz-smoke: deps ## run each fuzz target for a minute
	Tests/Fuzz/run.sh $(SECONDS_PER_FUZZ_TARGET)

# The comparison keeps images and results in $CRFS_BENCH_DIR (default /var/tmp/crfs-bench); OPTIONS="--scenarios python" narrows it.
COMPARE = cd Benchmarks && CRFS_BINARY="$(RELEASE_BINARY)" python3 -m compare

bench-deps: build ## install the packages that the benchmarks need
	@Benchmarks/deps

bench-image: bench-deps ## build the images and contenders of the comparison, once (needs root; up to 30 minutes, 12 GB)
	$(COMPARE) images $(OPTIONS)

bench-quick: bench-deps ## compare crfs with its peers in at most 10 minutes (needs root and bench-image)
	$(COMPARE) quick $(OPTIONS)

bench: bench-deps ## the same with three runs of each cell, in about 45 minutes
	$(COMPARE) bench $(OPTIONS)

bench-full: bench-deps ## the same with everything: hours
	$(COMPARE) full $(OPTIONS)

bench-check: bench-deps ## check the comparison itself: a small matrix, and runs that are interrupted (needs root)
	$(COMPARE) --self-check

bench-metadata: build ## measure metadata speed and memory of a tree of this machine's /usr (needs root)
	CRFS_BINARY="$(RELEASE_BINARY)" python3 Benchmarks/metadata.py

bench-settings: build ## measure each kernel setting against its other values (needs root; keeps 3 GB in /var/tmp/crfs-settings)
	CRFS_BINARY="$(RELEASE_BINARY)" python3 Benchmarks/settings.py $(OPTIONS)

bench-micro: deps ## measure the inner pieces of crfs, in memory only (the first time builds for several minutes)
	swift package --package-path Benchmarks -c release benchmark --target Micro --no-progress

install: build ## install crfs and its shell completions into PREFIX (default /usr/local)
	install -D -m 0755 "$(RELEASE_BINARY)" "$(DESTDIR)$(PREFIX)/bin/crfs"
	install -d "$(DESTDIR)$(PREFIX)/share/bash-completion/completions" "$(DESTDIR)$(PREFIX)/share/zsh/site-functions" \
		"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d"
	"$(RELEASE_BINARY)" --generate-completion-script bash >"$(DESTDIR)$(PREFIX)/share/bash-completion/completions/crfs"
	"$(RELEASE_BINARY)" --generate-completion-script zsh >"$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_crfs"
	"$(RELEASE_BINARY)" --generate-completion-script fish >"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/crfs.fish"

clean: ## remove what was built
	rm -rf .build

print-release-binary:
	@echo "$(RELEASE_BINARY)"

print-debug-binary:
	@echo "$(DEBUG_BINARY)"
