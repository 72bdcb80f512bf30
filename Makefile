# SPDX-License-Identifier: GPL-2.0-or-later
# Two commands matter: "make run" and "make test". Both set the machine up first; the second time that is quick.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PY := .venv/bin/python
# Where mkfs, losetup and modprobe are; "su" without "-" leaves them out.
export PATH := $(PATH):/usr/sbin:/sbin
# What is handed to pytest (make test ARGS="-k lookup -x") or to the benchmarks (make bench ARGS="--figures file")
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test check lint types format unit crash planted fuzz simulate sweep kill bench profile setup clean

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)$$/  make \1\t\2/p' Makefile | expand -t 18

run: setup ## set up, then mount ./run/mnt on ./run/ssd.img in the foreground; Ctrl-C unmounts
	@$(PY) scripts/run.py

test: setup ## set up, then lint, types and every test, real mounts and loop devices included
	@scripts/test.sh $(ARGS)

unit: setup ## only the tests that mount nothing
	@$(PY) -m pytest -m "not mount and not loop" $(ARGS)

crash: setup ## every state that a crash can leave behind short workloads; STATES=100000 SEED=s JOBS=n
	@$(PY) -m lcfs.testing.explore $(if $(STATES),STATES=$(STATES)) $(if $(SEED),SEED=$(SEED)) $(if $(JOBS),JOBS=$(JOBS)) $(ARGS)

planted: setup ## plant the bugs of 2013 one at a time, and tell what finds each
	@$(PY) -m tests.planted $(ARGS)

fuzz: setup ## spoil every field, image, control line, value and option that is read; ROUNDS=1000
	@LCFS_FUZZ_ROUNDS=$(or $(ROUNDS),1000) $(PY) -m pytest -q --timeout=7200 tests/fuzz $(ARGS)

simulate: setup ## days in the life of a mount, with trouble and crashes, in simulated time; ROUNDS=200 SEED=s STRETCHES=8
	@$(PY) -m tests.simulation $(if $(ROUNDS),ROUNDS=$(ROUNDS)) $(if $(SEED),SEED=$(SEED)) $(if $(STRETCHES),STRETCHES=$(STRETCHES))

sweep: setup ## every operation x every call it makes x every fault, and cancelled at every checkpoint; SEED=s SHARE=n
	@$(PY) -m tests.faults.sweep $(if $(SEED),SEED=$(SEED)) $(if $(SHARE),SHARE=$(SHARE))

kill: ## kill the daemon, and cut the power, under file systems and databases; ROUNDS=200 SEED=s
	@scripts/setup.sh kill
	@$(PY) -m tests.kill --rounds $(or $(ROUNDS),20) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: setup ## lcfs beside its peers, report in benchmarks/results; QUICK=1 only sees that everything works
	@$(PY) -m benchmarks $(if $(QUICK),--quick) $(ARGS)

profile: setup ## where the time of a request goes: table and samples in build/profile
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[profile]'
	@$(PY) -m benchmarks.profile

check: lint types ## what can be said without running anything

lint: setup ## ruff: lint and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: setup ## mypy --strict
	@$(PY) -m mypy --strict src

format: setup ## let ruff put imports and layout right
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

setup: ## distribution packages (when root), ./.venv, lcfs in it
	@scripts/setup.sh

clean: ## remove what set-up and the tools made; ./run stays, it holds data
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage dist build
