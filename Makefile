# make demo      fit the embedded panel and write forecasts and risk to runs/demo/
# make test      run the tests
# make lint      ruff, mypy and the import layers
# make bench     time of a step and its growth with every size; BENCH=tests/benchmarks runs all, for hours
# make bench-compare BASE=REVISION   what became slower since, by a factor of 1.3 or more
# make docs      build the site into docs/_build/html, with the notebooks' stored outputs
#                (NOTEBOOKS=small or NOTEBOOKS=full runs them)
# make notebooks run the notebooks at full size and store their outputs; ONLY="01 04" runs these
# make clean     remove .venv, caches and build output
#
# Each makes .venv with $(PYTHON) and installs what it needs, anew only when pyproject.toml,
# constraints.txt or the package has changed.

PYTHON ?= python3
VENV ?= .venv
NOTEBOOKS ?= stored
ONLY ?=
BENCH ?= tests/benchmarks/test_step.py tests/benchmarks/test_growth.py
BASE ?= HEAD~1
HEAD ?= HEAD
RUN = . "$(VENV)/bin/activate" &&
SOURCES := $(shell find rvrae_pyro -type f ! -name '*.pyc')
INSTALLED_FROM = pyproject.toml constraints.txt $(SOURCES)

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint bench bench-compare docs notebooks clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(RUN) rvrae demo

test: export OMP_NUM_THREADS = 1
test: $(VENV)/.installed-test
	$(RUN) pytest

lint: $(VENV)/.installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

bench: export OMP_NUM_THREADS = 1
bench: $(VENV)/.installed-test
	$(RUN) pytest -n 0 -m benchmark $(BENCH)

bench-compare: $(VENV)/.installed-test
	$(RUN) python -m tests.benchmarks.revisions $(BASE) $(HEAD)

docs: $(VENV)/.installed-docs
	$(RUN) RVRAE_DOCS_NOTEBOOKS=$(NOTEBOOKS) sphinx-build -W -n --keep-going docs docs/_build/html

notebooks: export OMP_NUM_THREADS = 1
notebooks: $(VENV)/.installed-test
	$(RUN) python notebooks/execute.py $(ONLY)

clean:
	rm -rf "$(VENV)" runs/demo build dist docs/_build docs/api docs/notebooks
	rm -rf .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find rvrae_pyro tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(VENV)/.created $(INSTALLED_FROM)
	$(RUN) python -m pip install -c constraints.txt .
	@touch "$@"

$(VENV)/.installed-test: $(VENV)/.created $(INSTALLED_FROM)
	$(RUN) python -m pip install -c constraints.txt ".[test]"
	@touch "$@"

$(VENV)/.installed-dev: $(VENV)/.created $(INSTALLED_FROM)
	$(RUN) python -m pip install -c constraints.txt ".[dev]"
	@touch "$@"

$(VENV)/.installed-docs: $(VENV)/.created $(INSTALLED_FROM)
	$(RUN) python -m pip install -c constraints.txt ".[docs]"
	@touch "$@"

# The checks run when the recipe is read, so that each failure is a single line.
CHECK_PYTHON = import sys; print("ok" if sys.version_info >= (3, 11) else sys.version.split()[0])
CHECK_VENV = import ensurepip, venv; print("ok")
found = $(shell $(PYTHON) -c '$(1)' 2>/dev/null)

$(VENV)/.created:
	$(if $(call found,$(CHECK_PYTHON)),,$(error $(PYTHON) does not run; name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3))
	$(if $(filter ok,$(call found,$(CHECK_PYTHON))),,$(error Python 3.11 or newer is needed and $(PYTHON) is $(call found,$(CHECK_PYTHON)); name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3))
	$(if $(call found,$(CHECK_VENV)),,$(error $(PYTHON) lacks the venv module (Debian and Ubuntu: apt install python3-venv) or name another Python: make $(MAKECMDGOALS) PYTHON=/path/to/python3))
	$(PYTHON) -m venv "$(VENV)"
	@touch "$@"
