# Every target sets up VENV when it is missing or stale, and does nothing about it when it is fresh.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Every module of ocuseg, but for those of extras that are not installed, and the libraries that it imports only where they are used.
define IMPORT_ALL
import contextlib, importlib, pkgutil, pipeline
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module.name)
for name in ("accelerate", "mlflow", "matplotlib.pyplot", "nibabel", "pydicom", "tifffile", "safetensors.torch", "faster_coco_eval",
             "skimage.measure", "scipy.ndimage", "rich.progress"):
    importlib.import_module(name)
endef
export IMPORT_ALL

.PHONY: setup demo test matrix lint bench clean

setup: $(VENV)/.core  ## ocuseg and what it needs, in VENV

demo: $(VENV)/.core  ## photographs and phantoms: segment -> train -> evaluate -> predict -> report
	$(BIN)/ocuseg demo demo

test: $(VENV)/.dev  ## everything; no network, no GPU
	@# What is installed for tests alone is compiled by the first process that imports it, also where PYTHONDONTWRITEBYTECODE is set.
	OMP_NUM_THREADS=1 env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n 3 --dist worksteal -q

matrix:  ## the tests under each Python from 3.11 to 3.14 on the PATH, each with a .venv-3.N of its own
	@failed=; for version in 3.11 3.12 3.13 3.14; do \
	  python$$version -c '' 2>/dev/null || { echo "no python$$version here"; continue; }; \
	  echo "Python $$version"; $(MAKE) -s test PYTHON=python$$version VENV=.venv-$$version || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "the tests fail under Python$$failed"; exit 1; }

lint: $(VENV)/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## speed, each as a ratio to a named peer; needs ../shared/data (or OCUSEG_SHARED); of a GPU: workflows/benchmarks/gpu.py
	$(BIN)/python workflows/benchmarks/loading.py
	$(BIN)/python workflows/benchmarks/memory.py
	$(BIN)/python workflows/benchmarks/index.py
	$(BIN)/python workflows/benchmarks/time_to_dice.py
	$(BIN)/python workflows/benchmarks/detectors.py
	$(BIN)/python workflows/benchmarks/detector_speeds.py

clean:  ## what the targets made; never a run of yours
	rm -rf .venv .venv-3.* build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# Compiled at set-up is what ocuseg imports, which is far less than all that is installed (--no-compile); left to the first run it
# would be compiled in every process where PYTHONDONTWRITEBYTECODE is set, as it often is in containers.
$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ocuseg needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@# A .venv of an older Python, or one that was moved here with its folder, is made anew.
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && $(BIN)/pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e .
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -W ignore -c "$$IMPORT_ALL"
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	@touch $@
