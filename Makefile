# Two commands do everything: `make search` and `make test`. Each sets up .venv first if it has to.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results/digits

BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome

.PHONY: search test test-slow browser check format bench clean

search: .venv/installed
	$(BIN)/tune-jobs run digits --out $(RESULTS) --fresh
	$(BIN)/tune-jobs compare $(RESULTS) --html $(RESULTS)/report.html

# Without a Chromium, and without the right to install one, the tests in a browser are left out.
test: .venv/installed
	@$(MAKE) --silent browser || echo "No Chromium: tests in a browser are left out."
	if ! ($(BROWSER)) >/dev/null; then export ZSHARP_NO_BROWSER=1; fi; OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-slow: .venv/installed
	@$(MAKE) --silent browser || echo "No Chromium: tests in a browser are left out."
	if ! ($(BROWSER)) >/dev/null; then export ZSHARP_NO_BROWSER=1; fi; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

browser:
	@($(BROWSER)) >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/optimizer_step.py
	$(BIN)/python benchmarks/search_overhead.py
	$(BIN)/python benchmarks/ledger.py --out benchmarks/results/ledger-cpu.json
	$(BIN)/python benchmarks/scale.py --out benchmarks/results/scale-cpu.json

# The stamp is written last, so an interrupted installation is taken up again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
