# Everything a developer or a user runs. Each target installs what it needs and says what it does.

PYTHON := .venv/bin/python
UNIT := $(wildcard tests/planner tests/operator tests/worker tests/gateway tests/chart tests/sandbox)
STAMP := .venv/.complete

.DEFAULT_GOAL := help
.PHONY: help setup fmt lint types test test-all test-real demo crds images bench bench-operator bench-density clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install what is missing: Debian packages, a virtual environment, wa-js

$(STAMP): pyproject.toml constraints.txt package-lock.json scripts/setup.sh
	@scripts/setup.sh
	@touch $@

demo: setup ## The main job, shown: a cluster, three sessions, a QR code, a message (DEMO_ONCE=1: then end)
	@$(PYTHON) -m sandbox demo

test: setup ## Unit and property tests, then end-to-end in real Chromium
	$(PYTHON) -m pytest $(UNIT) tests/e2e -m "not real"

test-real: setup ## The tests of APIs and the end-to-end tests on a real control plane (KUBEBUILDER_ASSETS or KUBECONFIG)
	@if [ -z "$$KUBEBUILDER_ASSETS$$KUBECONFIG" ]; then \
		echo "test-real: skipped. Set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver, or KUBECONFIG."; \
	else $(PYTHON) -m pytest tests -m real; fi

test-all: lint types test test-real ## Everything that can be checked here

fmt: setup ## Format the code
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix-only .

lint: setup ## Style, import directions, generated files
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	.venv/bin/lint-imports
	@$(PYTHON) -m whatsapp_operator.crds --check crds
	@$(PYTHON) scripts/chart.py --check

types: setup ## mypy, strict
	$(PYTHON) -m mypy

crds: setup ## Write crds/ and what the chart takes from them
	$(PYTHON) -m whatsapp_operator.crds crds
	$(PYTHON) scripts/chart.py

bench: setup ## Speed, as ratios against a baseline in the same run
	$(PYTHON) -m bench

bench-operator: setup ## The operator at SESSIONS=1000 with simulated workers; a real API server with KUBEBUILDER_ASSETS
	$(PYTHON) -m bench.operator --sessions $(or $(SESSIONS),1000)

bench-density: setup ## Memory, CPU and time of a session against a default launch (needs Debian's chromium, too)
	$(PYTHON) -m bench.density

images: ## Build the three images (podman or docker)
	@scripts/images.sh

clean: ## Remove what the targets above have made
	rm -rf .venv node_modules .sandbox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
