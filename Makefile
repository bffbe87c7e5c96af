# `make` alone lists what can be made. Everything is installed into $(VENV), nothing outside it.

PYTHON ?=            # a Python 3.10-3.12; empty: the first one found
VENV   ?= .venv
OUT    ?= out
SEED   ?= 0

PY      := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet -c constraints.txt -e

# The releases that `make lock` pins by hand; everything else follows from them and setup.py.
TORCH_PINS := torch==2.14.1 torchvision==0.29.1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup sample test test-all lint train-sample lock clean

help:  ## this list
	@echo "LocDiffusion: geotag photo archives, and say how sure each geotag is."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Start with 'make sample'. Settings: PYTHON=python3.12 VENV=.venv OUT=out"

setup: $(VENV)/.sample  ## create .venv with what the pipeline and the sample need

sample: $(OUT)/sample-archive.stamp  ## geotag 1,000 overhead patches: table, out/sample/map.png
	rm -rf $(OUT)/sample
	$(PY) -m pipelines.geotag --input '$(OUT)/sample-archive/*.tar' --output $(OUT)/sample

test: $(VENV)/.test  ## run the tests (a few minutes)
	$(PY) -m pytest

test-all: $(VENV)/.test  ## run the tests, the slow ones too
	$(PY) -m pytest -m ''

lint: $(VENV)/.dev  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The recipe of the shipped checkpoint. CI runs it small: these can be set on the command line.
TRAIN       := $(OUT)/train-sample
PLAIN       := 30000
SPLITS      := train:60000 val:4000 seen:2000 unseen:2000
TRAIN_FLAGS :=

train-sample: $(VENV)/.sample  ## train the shipped checkpoint again, from nothing (an hour or two)
	$(PY) -m locdiffusion.overhead --split train --no-augment --count $(PLAIN) \
	  --output $(TRAIN)/plain --seed $(SEED) --workers 2
	for split in $(SPLITS); do \
	  $(PY) -m locdiffusion.overhead --split $${split%%:*} --count $${split##*:} \
	    --output $(TRAIN)/$${split%%:*} --seed $(SEED) --workers 2 || exit; \
	done
	$(PY) -m locdiffusion.train --train '$(TRAIN)/train/*.tar' '$(TRAIN)/plain/*.tar' \
	  --val '$(TRAIN)/val/*.tar' \
	  --test seen='$(TRAIN)/seen/*.tar' unseen='$(TRAIN)/unseen/*.tar' --output $(TRAIN) \
	  --answer-base land --about locdiffusion/checkpoints/overhead/ABOUT.md --seed $(SEED) $(TRAIN_FLAGS)

lock: $(VENV)/.dev  ## resolve constraints.txt anew (newest releases that fit together)
	$(PY) -m pip install --quiet uv
	{ sed -n '/^#/p' constraints.txt; \
	  printf '%s\n' $(TORCH_PINS) | $(PY) -m uv pip compile setup.py --universal \
	    --python-version 3.10 --all-extras --constraints - --no-header --no-annotate --quiet; \
	} > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

clean:  ## remove .venv, out and every cache
	rm -rf $(VENV) $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Rebuilt when the code that cuts the patches changes.
$(OUT)/sample-archive.stamp: $(VENV)/.sample $(wildcard locdiffusion/overhead/*.py locdiffusion/overhead/*.json)
	rm -rf $(OUT)/sample-archive
	$(PY) -m locdiffusion.overhead --split sample --output $(OUT)/sample-archive
	touch $@

# One stamp per set of extras; a changed setup.py or constraints.txt installs again.
$(VENV)/.sample: setup.py constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): some minutes and 7 GB the first time (torch)"
	$(INSTALL) '.[overhead]'
	touch $@

$(VENV)/.test: $(VENV)/.sample
	$(INSTALL) '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) '.[dev]'
	touch $@

# ensurepip is looked for as well: Debian's python3 comes without it and cannot make an environment.
USABLE = import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
$(VENV)/bin/python:
	@for python in $(or $(strip $(PYTHON)),python3.12 python3.11 python3.10 python3 python); do \
	  if $$python -c '$(USABLE)' >/dev/null 2>&1; then \
	    echo "$$python -m venv $(VENV)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "found no Python 3.10, 3.11 or 3.12 with venv" \
	  "$(if $(strip $(PYTHON)),(tried: $(strip $(PYTHON))),on the PATH);" \
	  "install one (on Debian: python3 and python3-venv) or name it: make PYTHON=/path/to/python3.11" >&2; \
	exit 2
