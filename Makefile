# The commands of this project. `make` alone lists them.
#
# Everything happens below this folder: the Python environment in .venv, state in .stage. Caches (of pip, uv and of empty
# Postgres clusters) aside nothing is written elsewhere, no root is needed and nothing is installed on the machine.

PYTHON ?= python3
UV_VERSION := 0.13.9# installs the lock several times faster than pip does, and compiles it: that halves every start of Prefect
READY := .venv/ready
RUN := .venv/bin/python
PYTEST := $(RUN) -m pytest
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder# the long files first
RINGS := tests/flows tests/blocks tests/decide tests/shape
E2E := $(patsubst %,tests/e2e/test_%.py,releases_live release_kill_matrix ui kill_matrix)# waiting beside working
E2E += $(filter-out $(E2E),$(wildcard tests/e2e/test_*.py))

# No telemetry, no ~/.prefect, and never a server that somebody's profile names.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_HOME := $(CURDIR)/.venv/prefect
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PYTHON_DOWNLOADS := never
unexport PREFECT_API_URL PREFECT_API_KEY PREFECT_PROFILE VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-e2e bench lint lock

help: ## list these commands
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY) ## install what the lock names into .venv (the others do this by themselves)

demo: $(READY) ## a real database backed up, proven, lost and restored through the Prefect UI
	@$(RUN) -m deployments demo $(DEMO)

test: $(READY) ## shape, decisions, blocks, flows: under 8 minutes
	@$(PYTEST) -n 4 $(SIDE_BY_SIDE) $(RINGS) $(ARGS)

test-e2e: $(READY) ## the whole local stage, with server and worker; things are killed
	@$(PYTEST) -n 3 $(SIDE_BY_SIDE) $(E2E) $(ARGS)

bench: $(READY) ## times and memory against pg_dump and the original pipeline
	@$(RUN) -m tests.bench $(ARGS); status=$$?; \
		SLOW_RELEASE=1 $(PYTEST) tests/e2e/test_releases_live.py -k slow_one -q && exit $$status

lint: $(READY) ## ruff and pyright
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyright --warnings

lock: $(READY) ## pin the dependencies of pyproject.toml anew, with hashes and without hosts
	@.venv/bin/uv pip compile pyproject.toml --extra local --extra dev --universal --generate-hashes --quiet \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file requirements.lock $(ARGS)

# Made again only when the lock changes. The last line but one puts this folder on the path of every process started
# with .venv/bin/python: that is how a worker's run finds the packages.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "shipkeeper needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1): name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) has no venv module: install it (Debian: apt-get install python3-venv)"; exit 1; }
	@[ "$$(uname -s)" = Linux ] \
		|| echo "This is $$(uname -s), not Linux: the local stage and the tests that need it will not run, the others will."
	@echo "Setting up .venv: once, about a minute ..."
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet uv==$(UV_VERSION) \
		|| { echo "pip could not fetch uv $(UV_VERSION): is there a way to the package index from here?"; exit 1; }
	@.venv/bin/uv pip sync --quiet --python $(RUN) --require-hashes --compile-bytecode requirements.lock \
		|| { echo "uv could not install requirements.lock: its lines above say why; run the same command again"; exit 1; }
	@pwd > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shipkeeper.pth"
	@touch $@ && echo "Ready: $$($(RUN) --version), Prefect $$($(RUN) -c 'from importlib.metadata import version; print(version("prefect"))')."
