# Two commands do everything: `make search` and `make test`. Each sets up .venv first if it has to.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results/digits

.PHONY: search test check format bench clean

search: .venv/installed
	$(BIN)/tune-jobs run digits --out $(RESULTS) --fresh
	$(BIN)/tune-jobs compare $(RESULTS) --html $(RESULTS)/report.html

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

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

# The stamp is written last, so an interrupted installation is taken up again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
