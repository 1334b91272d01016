# BLOOM Runtime. `make up` is all that a user needs; `make help` tells the rest.
# Everything lands in .venv, .build and .bloom below this directory.

PYTHON ?= python3
# Used when there is no uv on PATH; it comes through pip into .venv.
UV_VERSION := 0.13.8
CLAUDE_VERSION := 2.1.197

BIN := .venv/bin
AXE := .build/pages/.installed
CLAUDE := .build/claude/.installed-$(CLAUDE_VERSION)
# What `make` says to its own children is not for ours: a task may call `make` too.
RUN := env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MAKEOVERRIDES

.DEFAULT_GOAL := help
.PHONY: help up dev test test-security test-ha test-scale soak lint bench screenshots lock FORCE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

up: .venv/.installed ## Set everything up and run it: database, runtime, one worker (PORT, BLOOM_DATA_DIR, BLOOM_UP_SLOTS)
	@exec $(RUN) $(BIN)/bloom up

dev: .venv/.installed ## The same without Membridge, starting the runtime again when its code or pages change
	@exec $(RUN) $(BIN)/bloom up --reload

# One process more than a small machine has cores, for tests also wait; neighbours stay together and share what they set up.
test: .venv/.installed .venv/.dev $(CLAUDE) $(AXE) ## Run the tests (PYTEST_ARGS="-k lease")
	@$(RUN) $(BIN)/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS)

test-security: .venv/.installed .venv/.dev ## Attack both services at length, and look for known weaknesses of dependencies (BLOOM_TEST_ATTACKS)
	@$(RUN) BLOOM_TEST_ATTACKS=$${BLOOM_TEST_ATTACKS:-60} $(BIN)/python -m pytest -n 2 tests/security $(PYTEST_ARGS)
	@$(RUN) $(BIN)/python -m tests.security.dependencies

soak: .venv/.installed .venv/.dev $(CLAUDE) ## Crash storm for ten minutes, and fifty killed workers (SOAK_SECONDS, SOAK_SEED)
	@$(RUN) $(BIN)/python -m tests.soak
	@$(RUN) BLOOM_TEST_ORPHAN_ROUNDS=10 $(BIN)/python -m pytest tests/worker/test_no_orphans.py $(PYTEST_ARGS)

test-ha: .venv/.installed .venv/.dev ## Fail-over by Patroni, rolling restart, store, names, disk and clocks away (HA_ROUNDS, HA_ONLY; Debian)
	@$(RUN) $(BIN)/python -m tests.ha

test-scale: .venv/.installed .venv/.bench ## 10,000 connected workers on two replicas while 200 tasks a second flow (docs/scaling.md)
	@$(RUN) $(BIN)/python -m bench --strict scale

lint: .venv/.installed .venv/.dev ## Check style, types and the order of the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

bench: .venv/.installed .venv/.bench ## Measure against PostgreSQL's own limit (BENCH_ARGS="life --quick"; docs/benchmarks.md)
	@$(RUN) $(BIN)/python -m bench $(BENCH_ARGS)

screenshots: .venv/.installed .venv/.dev $(AXE) ## Show every page of a seeded demo, light, dark and narrow (.build/screenshots)
	@$(RUN) $(BIN)/python -m tests.screenshots

LOCK = $(CONFIGURED) $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header pyproject.toml --extra server --extra embedded --extra build

lock: $(UV_READY) .venv/.made ## Resolve the dependencies anew (requirements/*.txt)
	@$(LOCK) -o requirements/runtime.txt
	@$(LOCK) --extra tracing --extra dev --constraint requirements/runtime.txt -o requirements/dev.txt
	@$(LOCK) --extra bench --constraint requirements/dev.txt -o requirements/bench.txt

# --- The virtual environment -----------------------------------------------------------------------------------------

# One that was moved, or whose Python is gone, is made anew: its scripts name their directory and their Python.
ifeq ($(shell grep -sqF '$(CURDIR)/.venv' $(BIN)/activate && $(BIN)/python -c '' 2>/dev/null && echo sound),sound)
VENV_IS_SOUND := yes
else
.venv/.made: FORCE
endif

.venv/.made:
ifndef VENV_IS_SOUND
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Debian: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), and \
	BLOOM needs 3.11 or newer: install one, then say for instance: make up PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no module venv or ensurepip. \
	Debian: apt install python3-venv" >&2; exit 1; }
	@echo "Making a virtual environment in .venv ($$($(PYTHON) -V))"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
endif
	@touch $@

UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := $(BIN)/uv
UV_READY := $(BIN)/uv
# This uv is used in the place of pip, so it gets what pip is configured with: the registries, and a certificate file.
CONFIGURED = list=$$($(BIN)/python -m pip config list); \
	pick() { for from in :env: install global; do value=$$(echo "$$list" | sed -n "s/^$$from\.$$1='\(.*\)'\$$/\1/p"); \
	[ -z "$$value" ] || break; done; echo "$$value" | sed 's/\\n/ /g'; }; \
	value=$$(pick index-url); [ -z "$$value" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$value}"; \
	value=$$(pick extra-index-url); [ -z "$$value" ] || export UV_INDEX="$${UV_INDEX:-$$value}" UV_INDEX_STRATEGY=unsafe-best-match; \
	value=$$(pick find-links); [ -z "$$value" ] || export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(echo "$$value" | tr -s ' ' ,)}"; \
	value=$$(pick cert); [ -z "$$value" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$value}";
endif

$(BIN)/uv: | .venv/.made
	@echo "Getting uv $(UV_VERSION), which installs the rest"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# $(call install,ARGUMENTS): uv's own words without its line per package; the exit code is uv's.
install = @code=$$( { { $(CONFIGURED) $(UV) pip install --python $(BIN)/python $(1) 2>&1; echo $$? >&3; } \
	| grep -v '^ [+~-] ' >&2; } 3>&1 ); exit $$code

.venv/.runtime: requirements/runtime.txt .venv/.made | $(UV_READY)
	@echo "Installing what BLOOM needs (requirements/runtime.txt, into .venv)"
	$(call install,--require-hashes -r requirements/runtime.txt)
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.made | $(UV_READY)
	@echo "Installing what its development needs (requirements/dev.txt, into .venv)"
	$(call install,--require-hashes -r requirements/dev.txt)
	@touch $@

.venv/.bench: requirements/bench.txt .venv/.made | $(UV_READY)
	@echo "Installing what the benchmark compares with (requirements/bench.txt, into .venv)"
	$(call install,--require-hashes -r requirements/bench.txt)
	@touch $@

.venv/.installed: pyproject.toml .venv/.runtime | $(UV_READY)
	@echo "Installing BLOOM itself"
	$(call install,--no-build-isolation --no-deps -e .)
	@touch $@

# --- The Claude CLI that the tests drive, against their own stub of the API ------------------------------------------

$(CLAUDE):
ifneq ($(shell command -v npm 2>/dev/null),)
	@echo "Installing the Claude CLI $(CLAUDE_VERSION) for the tests (.build/claude)"
	@mkdir -p .build/claude
	@npm install --prefix .build/claude --no-fund --no-audit @anthropic-ai/claude-code@$(CLAUDE_VERSION)
	@.build/claude/node_modules/.bin/claude --version
	@touch $@
else ifeq ($(CI),true)
	@echo "npm is missing, and CI runs the tests of the Claude CLI too. Debian: apt install npm" >&2; exit 1
else
	@echo "npm is missing, so the tests that drive the Claude CLI cannot use it. Debian: apt install npm"
endif

# --- What the tests of the pages need: Chromium, and axe-core ----------------------------------------------------------

$(AXE): src/bloom/ui/package.json src/bloom/ui/package-lock.json
	@[ -n "$$BLOOM_TEST_CHROMIUM" ] || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing Chromium, in which the pages are tested" && \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	echo "Chromium is missing, so the pages are not tried in it. Debian: apt install chromium, or set BLOOM_TEST_CHROMIUM"
ifneq ($(shell command -v npm 2>/dev/null),)
	@mkdir -p $(@D)
	@cp $^ $(@D)
	@npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --silent
	@touch $@
else
	@echo "npm is missing, so axe-core cannot look at the pages. Debian: apt install npm"
endif
