# Two commands do everything: `make search` and `make test`. Each sets up .venv first if it has to.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results/digits

BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome
# Without a Chromium, and without the right to install one, the tests in a browser are left out.
TEST_ENV := OMP_NUM_THREADS=1; export OMP_NUM_THREADS; if ! ($(BROWSER)) >/dev/null; then export ZSHARP_NO_BROWSER=1; fi

# uv leaves compiling to the first import. Where this variable forbids keeping the result, every start takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install search test test-slow test-both test-all browser latex check docs reference dist format bench clean

# Sets up .venv to search with, and no more.
install: .venv/runs

search: .venv/runs
	$(BIN)/tune-jobs run digits --out $(RESULTS) --fresh
	$(BIN)/tune-jobs report $(RESULTS)

# Three processes on two cores: the one whose tests run on Ray mostly waits.
test: .venv/installed
	@$(MAKE) --silent browser || echo "No Chromium: tests in a browser are left out."
	$(TEST_ENV); $(BIN)/python -m pytest --numprocesses 3

test-slow: .venv/installed
	@$(MAKE) --silent browser || echo "No Chromium: tests in a browser are left out."
	@$(MAKE) --silent latex || echo "No pdflatex: the test that compiles tables is left out."
	$(TEST_ENV); $(BIN)/python -m pytest -m "slow and not cluster and not faults" --numprocesses 3

# Both at once: the slow tests mostly wait, and each process imports everything only once.
test-both: .venv/installed
	@$(MAKE) --silent browser || echo "No Chromium: tests in a browser are left out."
	@$(MAKE) --silent latex || echo "No pdflatex: the test that compiles tables is left out."
	$(TEST_ENV); $(BIN)/python -m pytest -m "not gpu and not cluster and not faults" --numprocesses 4

# All that needs no GPU, with more of hypothesis's examples: half an hour, most of it for faults and clusters.
test-all:
	HYPOTHESIS_PROFILE=many $(MAKE) test-both
	$(TEST_ENV); $(BIN)/python -m pytest -m "(cluster or faults) and not gpu"

browser:
	@($(BROWSER)) >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null)

latex:
	@command -v pdflatex >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends texlive-latex-base >/dev/null)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/optimizer_step.py
	$(BIN)/python benchmarks/percentile.py
	$(BIN)/python benchmarks/processes.py
	$(BIN)/python benchmarks/search_overhead.py
	$(BIN)/python benchmarks/ledger.py --out benchmarks/results/ledger-cpu.json
	$(BIN)/python benchmarks/scale.py --out benchmarks/results/scale-cpu.json

# Pages that are made from the code; a test says when they are out of date.
reference: .venv/installed
	$(BIN)/python docs/make.py

docs: .venv/installed
	$(BIN)/mkdocs build --strict

dist: .venv/installed
	$(BIN)/python -m build --no-isolation

# uv installs in seconds what takes pip minutes. Where uv cannot be had, or cannot reach the package index that
# pip is set up for, pip does it. A stamp is written last, so that an interrupted installation starts again.
UV := $(shell command -v uv || echo $(BIN)/uv)
INSTALL := sh -c '$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt "$$@" \
	|| $(BIN)/python -m pip install --quiet --constraint constraints.txt "$$@"' install

.venv/python: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(UV) --version 2>/dev/null || $(BIN)/python -m pip install --quiet uv || echo "No uv: pip takes its time."
	$(BIN)/python -m pip --version | grep -qE 'pip (2[5-9]|[3-9][0-9])\.' || $(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	touch $@

.venv/runs: .venv/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

.venv/installed: .venv/runs
	$(INSTALL) --editable . --group dev
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist site
