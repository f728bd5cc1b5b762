# Two commands matter: `make run` and `make test`. Both set up .venv when it is missing or out of date.

PYTHON  ?= python3
WORKERS ?= 2
# Passed on to pytest: make test ARGS="-k requantiser -x"
ARGS    ?=
# The torch that `make lock` pins; nothing else decides it.
TORCH   ?= 2.13.0

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check

# One thread per process: the test workers share the cores instead of fighting for them.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: run test docs cosim-full lint bench lock clean help FORCE

run: $(VENV)/.ready  ## simulate LeNet-5 on the handwritten digits that come along, and show what happened
	@$(BIN)/accelsim run lenet5_digits

test: lint  ## lint, then the whole test suite (ARGS="..." goes to pytest)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

cosim-full: $(VENV)/.ready  ## machine and RTL on 2,016 programs and 24 builds, LeNet-5 on 16x16, every deliberate fault
	$(ONE_THREAD) $(BIN)/python tests/equivalence.py --jobs $(WORKERS)
	$(ONE_THREAD) $(BIN)/python tests/mutations.py

docs: $(VENV)/.ready  ## the documentation as a web site: build/docs/index.html; runs the notebooks, about a minute
	$(ONE_THREAD) $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -c docs/site -d build/doctrees . build/docs
	@echo build/docs/index.html

lint: $(VENV)/.ready  ## ruff (rules, then format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready  ## run every script in benchmarks/, one after another
	@set -e; for script in benchmarks/[!_]*.py; do \
	    test -f "$$script" || { echo "benchmarks/ holds no script"; exit 1; }; \
	    echo "== $$script"; $(ONE_THREAD) $(BIN)/python "$$script"; \
	done

lock:  ## resolve setup.cfg's ranges anew into requirements.lock (needs Python 3.11, the oldest supported)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "make lock: Python 3.11 is needed, so that every pin installs on the oldest supported version; set PYTHON=python3.11")'
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet --dry-run --ignore-installed \
	    --report build/lock/report.json 'setuptools>=77' wheel 'torch==$(TORCH)' '.[all]'
	grep '^#' requirements.lock > build/lock/new
	$(PYTHON) -c 'import json; print(*sorted(("{name}=={version}".format_map(p["metadata"]).split("+")[0] for p in json.load(open("build/lock/report.json"))["install"] if p["metadata"]["name"] != "accelsim"), key=str.lower), sep="\n")' >> build/lock/new
	mv build/lock/new requirements.lock
	rm -rf build/lock

clean:  ## remove .venv, build products and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1\t\2/p' Makefile

# --- set-up ------------------------------------------------------------------------------------------
# .packages is a copy of the lock file that was installed, written last: an interrupted set-up leaves none and the
# next make starts from an empty .venv. Touching the lock without changing it costs nothing.
# .ready comes after accelsim itself; what an interrupted installation left of it is removed before the next, because
# pip refuses to replace a half.
# .checkout names the folder the environment belongs to: a copied or moved one would run the other checkout's code.
ifneq ($(shell cat $(VENV)/.checkout 2>/dev/null),$(CURDIR))
$(VENV)/.packages: FORCE
endif

$(VENV)/.packages: requirements.lock
	@if cmp -s requirements.lock $@ && test "$$(cat $(VENV)/.checkout)" = "$(CURDIR)"; then touch $@; exit; fi; set -e; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Python 3.11 or later is needed, $(PYTHON) is %d.%d; set PYTHON=..." % sys.version_info[:2])'; \
	echo "Setting up $(VENV): a few minutes, once"; \
	$(PYTHON) -m venv --clear $(VENV); \
	$(PIP) install -r requirements.lock; \
	echo "$(CURDIR)" > $(VENV)/.checkout; \
	cp requirements.lock $@

$(VENV)/.ready: $(VENV)/.packages setup.cfg pyproject.toml
	@rm -rf $@ $(VENV)/lib/python*/site-packages/accelsim-* $(VENV)/lib/python*/site-packages/__editable__*accelsim*
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@
