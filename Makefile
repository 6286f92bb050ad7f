# kvmha: failover-safe KVM guests for Pacemaker clusters. `make help` lists what can be made.

DESTDIR ?=
PREFIX  ?= /usr
SBINDIR ?= $(PREFIX)/sbin
DOCDIR  ?= $(PREFIX)/share/doc/kvmha
MANDIR  ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
MANUAL   = docs/policy.yaml $(sort $(wildcard docs/*.md docs/*.svg))
PAGES    = kvmha.8 ocf_kvmha_KvmGuest.7 ocf_kvmha_KvmWatch.7
# Pacemaker looks for agents here, whatever PREFIX is.
OCF_ROOT ?= /usr/lib/ocf
AGENTDIR  = $(OCF_ROOT)/resource.d/kvmha
# Without systemd these files are of no effect: the watcher as a service, for who does not want it as a resource, and
# the order of Pacemaker and libvirt when a node shuts down.
UNITDIR  ?= /usr/lib/systemd/system
DEPSDIR   = $(UNITDIR)/resource-agents-deps.target.d
TMPFILESDIR ?= /usr/lib/tmpfiles.d
# Where packages and releases are written.
DISTDIR  ?= build/dist
RELEASE   = kvmha-$(VERSION)-linux-$(shell uname -m)
VERSION   = $(shell sed -n 's/^  "version": "\(.*\)",$$/\1/p' package.json)

# Everything runs with the Node.js and the tools that package-lock.json names; only npm itself runs with the
# distribution's Node.js.
SYSTEM_PATH := $(subst $(CURDIR)/node_modules/.bin:,,$(PATH))
export PATH := $(CURDIR)/node_modules/.bin:$(SYSTEM_PATH)

# What makes the binary: pkg, which is what is packaged and released, or bun (docs/performance.md).
RUNTIME ?= pkg

MODULES = node_modules/.package-lock.json
# What is installed, for the nodes of the lab.
TREE    = build/tree/usr/sbin/kvmha
SOURCES = $(shell find agent lib -name '*.ts' -o -name '*.xml') ocf-metadata.xml package.json \
          $(shell find scripts/build scripts/build.ts -name '*.ts')

# Unit tests need neither root nor the binary; the others need both.
UNIT_TESTS = $(sort $(shell find test/unit -name '*.test.ts'))
TESTS      = $(UNIT_TESTS) $(sort $(shell find test -path test/unit -prune -o -name '*.test.ts' -print))
NODE_TEST  = node --test --test-reporter=spec --test-timeout=600000
# How many files of tests run at a time. Three are faster on two processors, and leave little time to what waits.
CONCURRENCY ?= 2
# How often make bench lets each fault come.
RUNS ?= 3
# What make bench compares build/kvmha with, where it can be built.
ALSO = $(if $(wildcard node_modules/@oven/bun-linux-x64/bin/bun),--also 'built with Bun=build/bun/kvmha')
# How long make soak goes on, in seconds, and how many rounds each of its clusters has.
SECONDS ?= 3600
ROUNDS  ?= 10
# At which of the moments of an action make crash-points interrupts it (every one, from the first on), and with how many
# guests at a time.
EVERY ?= 1
FROM  ?= 0
JOBS  ?= 2

.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: unconditional help setup modules build install uninstall deb release lint audit format test-quick test demo bench soak crash-points lab lab-down clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

setup: ## Install all that is needed (as root, on Debian or Ubuntu; asks nothing)
	@scripts/packages.sh
	@$(MAKE) -s modules

modules: $(MODULES)

$(MODULES): package-lock.json
	@echo 'npm ci: installing the tools and libraries of package-lock.json'
	@PATH='$(SYSTEM_PATH)' npm ci --include=dev --ignore-scripts=false --no-audit --no-fund --loglevel=error
	@node -e '' || { echo 'node_modules/node holds no working Node.js: did npm run its install script?' >&2; exit 1; }
	@touch $@

build: build/kvmha build/man/.made ## Build build/kvmha, and its manual pages in build/man

build/kvmha: $(MODULES) $(SOURCES) build/.runtime
	node scripts/build.ts $@ $(RUNTIME)

# For comparing, whatever RUNTIME is.
build/bun/kvmha: $(MODULES) $(SOURCES)
	@mkdir -p build/bun
	node scripts/build.ts $@ bun

# Changes when RUNTIME does, and only then.
build/.runtime: unconditional
	@mkdir -p build
	@echo '$(RUNTIME)' | cmp -s - $@ || echo '$(RUNTIME)' >$@

build/man/.made: $(MODULES) $(SOURCES) README.md scripts/man.ts scripts/release-date.ts packaging/debian/changelog
	node scripts/man.ts build/man
	@touch $@

# The binary is replaced by a rename: on a node of a live cluster the agent may be called at any moment.
install: build/kvmha build/man/.made ## Install the binary, the agents and the documentation [DESTDIR= PREFIX=/usr]
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(AGENTDIR) $(DESTDIR)$(DOCDIR) $(DESTDIR)$(DEPSDIR)
	install -m 755 build/kvmha $(DESTDIR)$(SBINDIR)/.kvmha.new
	mv -f $(DESTDIR)$(SBINDIR)/.kvmha.new $(DESTDIR)$(SBINDIR)/kvmha
	for agent in KvmGuest KvmWatch; do \
	  ln -srfn $(DESTDIR)$(SBINDIR)/kvmha $(DESTDIR)$(AGENTDIR)/$$agent; \
	done
	install -m 644 README.md COPYING $(DESTDIR)$(DOCDIR)
	install -d $(DESTDIR)$(DOCDIR)/docs
	install -m 644 $(MANUAL) $(DESTDIR)$(DOCDIR)/docs
	install -m 644 build/kvmha.licenses $(DESTDIR)$(DOCDIR)/third-party-licenses
	install -d $(DESTDIR)$(MANDIR)/man7 $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(COMPLETIONDIR)
	install -m 644 $(addprefix build/man/,$(filter %.7,$(PAGES))) $(DESTDIR)$(MANDIR)/man7
	install -m 644 $(addprefix build/man/,$(filter %.8,$(PAGES))) $(DESTDIR)$(MANDIR)/man8
	build/kvmha completion bash >$(DESTDIR)$(COMPLETIONDIR)/kvmha
	chmod 644 $(DESTDIR)$(COMPLETIONDIR)/kvmha
	install -m 644 agent/systemd/resource-agents-deps.conf $(DESTDIR)$(DEPSDIR)/kvmha.conf
	sed 's|@SBINDIR@|$(SBINDIR)|' agent/systemd/kvmha-watch.service >$(DESTDIR)$(UNITDIR)/kvmha-watch.service
	chmod 644 $(DESTDIR)$(UNITDIR)/kvmha-watch.service
	install -d $(DESTDIR)$(TMPFILESDIR)
	install -m 644 agent/systemd/kvmha.tmpfiles $(DESTDIR)$(TMPFILESDIR)/kvmha.conf

$(TREE): build/kvmha build/man/.made README.md COPYING $(MANUAL)
	@rm -rf build/tree
	@$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/build/tree

uninstall: ## Remove what install installed [DESTDIR= PREFIX=/usr]
	rm -f $(addprefix $(DESTDIR)$(AGENTDIR)/,KvmGuest KvmWatch) $(DESTDIR)$(SBINDIR)/kvmha
	rm -f $(DESTDIR)$(UNITDIR)/kvmha-watch.service $(DESTDIR)$(DEPSDIR)/kvmha.conf $(DESTDIR)$(TMPFILESDIR)/kvmha.conf
	rm -f $(addprefix $(DESTDIR)$(DOCDIR)/,README.md COPYING third-party-licenses)
	rm -f $(addprefix $(DESTDIR)$(DOCDIR)/,$(MANUAL)) $(DESTDIR)$(COMPLETIONDIR)/kvmha
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man7/,$(PAGES)) $(addprefix $(DESTDIR)$(MANDIR)/man8/,$(PAGES))
	for directory in $(DESTDIR)$(AGENTDIR) $(DESTDIR)$(DOCDIR)/docs $(DESTDIR)$(DOCDIR) $(DESTDIR)$(DEPSDIR); do \
	  [ ! -d $$directory ] || rmdir --ignore-fail-on-non-empty $$directory; \
	done

deb: build/kvmha build/man/.made ## Build a Debian package [DISTDIR=build/dist]
	@rm -rf build/deb
	@$(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/deb PREFIX=/usr
	scripts/deb.sh build/deb $(DISTDIR)

# Below one folder, so that it can be unpacked anywhere; the package is for Debian and Ubuntu, this for all others.
release: deb ## Build a release: archives, Debian package, SBOM and checksums [DISTDIR=build/dist]
	@[ -z "$$(git status --porcelain)" ] || { echo 'a release is built from what is committed, and there is more here' >&2; exit 1; }
	@rm -rf build/release
	@$(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/release/$(RELEASE) PREFIX=/usr
	@SBOM=$(DISTDIR)/$(RELEASE).cdx.json; \
	  PATH='$(SYSTEM_PATH)' npm sbom --sbom-format cyclonedx --omit dev --omit optional >build/release/npm.json || \
	    { echo 'npm 10 or newer is needed to list what is in the release' >&2; exit 1; }; \
	  node scripts/sbom.ts <build/release/npm.json >$$SBOM
	tar --create --directory build/release --sort=name --owner=0 --group=0 --numeric-owner \
	  --mtime="@$$(dpkg-parsechangelog --file packaging/debian/changelog --show-field Timestamp)" $(RELEASE) | \
	  gzip -9n >$(DISTDIR)/$(RELEASE).tar.gz
	git archive --format=tar --prefix=kvmha-$(VERSION)/ HEAD | gzip -9n >$(DISTDIR)/kvmha-$(VERSION).tar.gz
	cd $(DISTDIR) && sha256sum $(RELEASE).tar.gz kvmha-$(VERSION).tar.gz $(RELEASE).cdx.json kvmha_$(VERSION)-*.deb >SHA256SUMS
	@ls -l $(DISTDIR)

lint: $(MODULES) ## Check formatting, style and types
	biome check --error-on-warnings
	tsc

audit: ## Ask the npm registry for known vulnerabilities of the libraries in the binary
	@PATH='$(SYSTEM_PATH)' scripts/audit.sh

format: $(MODULES) ## Format the sources
	biome check --write

# Kept compiled, these take a third less of the processor. Not so the others: a build that finds its own scripts
# compiled gives other bytes.
test-quick: $(MODULES) ## Run the unit tests (no root, no cluster, under a minute)
	NODE_COMPILE_CACHE=$(CURDIR)/build/compile-cache $(NODE_TEST) --test-concurrency=2 $(UNIT_TESTS)

test: setup build ## Run all tests, with guests and clusters in a lab on this machine (as root)
	$(NODE_TEST) --test-concurrency=$(CONCURRENCY) $(TESTS)

demo: setup build ## Show a guest fail over without fencing in a cluster on this machine, in a minute (as root)
	node test/demo/demo.ts

bench: setup build ## Measure start-up, monitors, watcher and failovers, beside VirtualDomain's, in an hour (as root) [RUNS=3]
	@[ -z "$(ALSO)" ] || $(MAKE) --no-print-directory build/bun/kvmha
	node test/bench/start-up.ts build/kvmha
	node test/bench/monitor.ts $(ALSO) --json build/bench-monitor.json --svg build/bench-monitor.svg
	node test/bench/monitors.ts $(ALSO) --json build/bench-monitors.json
	node test/bench/watcher.ts --json build/bench-watcher.json
	node test/bench/pressure.ts --json build/bench-pressure.json
	node test/bench/proof.ts --runs $(RUNS) --json build/bench-proof.json --svg build/bench-proof.svg
	node test/bench/failover.ts --runs $(RUNS) --json build/bench-failover.json --svg build/bench-failover.svg

soak: setup build ## Torment guests of clusters in the lab at random (as root) [SECONDS=3600 SEED= ROUNDS= WATCHER= ONLY= STROKES= TRIES=]
	node test/nemesis/soak.ts --seconds '$(SECONDS)' --seed '$(SEED)' --rounds '$(ROUNDS)' --watcher '$(WATCHER)' \
	  --only '$(ONLY)' --strokes '$(STROKES)' --tries '$(TRIES)'

crash-points: setup build ## Interrupt each action at each moment (as root) [ACTION= FATE= EVERY=1 FROM=0 JOBS=2 PROGRESS=]
	node test/nemesis/crash-points.ts --every '$(EVERY)' --from '$(FROM)' --only '$(ACTION)' --fate '$(FATE)' \
	  --jobs '$(JOBS)' $(if $(PROGRESS),--progress '$(PROGRESS)')

lab: setup $(TREE) ## Start the lab: a cluster of nodes on this machine, with kvmha installed (as root)
	node test/lab/lab.ts up --install build/tree

lab-down: $(MODULES) ## Stop the lab
	node test/lab/lab.ts down

clean: ## Remove what was built
	rm -rf build
