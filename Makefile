# A fresh clone needs Python 3.11 and make; everything else is installed into .venv, by these targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip reads both: the versions of what is installed, and of what builds it. Relative, so that a path may hold spaces.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# As `twotower` sets it for its commands: threads that wait for work sleep, so that benchmarks measure what users get.
export OMP_WAIT_POLICY := passive

BENCHMARKS := $(filter-out report,$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

.PHONY: help demo docs test test-faults test-kernels test-wheels bench loadtest
.DEFAULT_GOAL := help

help:
	@echo "make demo [ARGS=...]     train on real purchases and serve, in minutes; ARGS=--once exits when it has shown it"
	@echo "make docs                build the documentation into build/site, which can be read from there without a server"
	@echo "make test                install, then every check and test"
	@echo "make test-faults         every fault test, the long ones too"
	@echo "make test-kernels        every kernel: long tests, mutants, and the resources of each configuration on each target"
	@echo "make test-wheels         the packages of a machine with a GPU: they install together, and FAISS takes what it is given"
	@echo "make bench NAME=...      run benchmarks/NAME.py: a table, and build/bench/NAME.json"
	@echo "make loadtest [ARGS=...] load a server for three minutes and judge it: ARGS=smoke, steady, spike or soak; needs what make demo leaves"

demo: $(VENV)/.demo-installed
	$(BIN)/twotower demo $(ARGS)

docs: $(VENV)/.test-installed
	$(BIN)/python -m mkdocs build --strict

test: $(VENV)/.test-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not faults and not kernels and not wheels and not alone"
	$(BIN)/pytest -m "alone and not faults and not kernels and not wheels"

test-faults: $(VENV)/.test-installed
	$(BIN)/pytest -m "faults or not faults" tests/service/faults tests/end_to_end tests/deploy/test_nightly.py tests/embedder_cache/maps

test-kernels: $(VENV)/.test-installed
	$(BIN)/pytest -m "kernels or not kernels" tests/test_interpreter.py tests/twotower/kernels tests/training/kernels tests/service/kernels \
	  tests/benchmarks/test_kernel_mutants.py tests/service/model/test_device_reader.py tests/end_to_end/test_differential.py
	$(BIN)/python -m benchmarks.kernel_resources
	$(BIN)/python -m benchmarks.kernel_mutants
	$(BIN)/python -m benchmarks.kernel_roofline

# Downloads 800 MB once, into build/faiss-gpu. No GPU is needed.
test-wheels: $(VENV)/.test-installed
	$(BIN)/pytest -m wheels tests/deploy tests/twotower/index

bench: $(VENV)/.test-installed
	@test "$(words $(NAME)) $(filter $(BENCHMARKS),$(NAME))" = "1 $(NAME)" || { echo "give NAME= one of: $(BENCHMARKS)" >&2; exit 2; }
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

loadtest: $(VENV)/.test-installed
	$(BIN)/python -m loadtests.run $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is not. Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }

$(VENV)/.demo-installed: EXTRAS := cpu,demo
$(VENV)/.test-installed: EXTRAS := cpu,demo,loadtest,test

# torch first and alone: it is most of the download, and a failure there should not hide among the rest.
# Not compiled: Python does that at the first import, for the small part of all files that is imported.
$(VENV)/.demo-installed $(VENV)/.test-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing torch (the largest download: a minute or more)"
	@$(BIN)/python -m pip install --quiet --no-compile torch
	@echo "installing the rest"
	@$(BIN)/python -m pip install --quiet --no-compile -e '.[$(EXTRAS)]'
	@touch $@
