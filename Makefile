PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pipelines/ and tune/ run from the checkout; only sddusr is installed.
export PYTHONPATH := $(CURDIR)
# Of benchmarks/, what answers other questions than how fast.
NOT_TIMED := benchmarks/ablation.py benchmarks/triplets.py benchmarks/reference.py benchmarks/faulty_refs.py benchmarks/gpu.py benchmarks/serving.py benchmarks/large_pairs.py

.PHONY: setup demo test test-long coverage lint bench ablation docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"error: $(PYTHON) is Python {v[0]}.{v[1]}, need 3.11 or newer; try make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; pip takes one, two minutes
	touch $@

demo: setup
	$(BIN)/python pipelines/demo.py

# Those with Ray one by one: a cluster fills the cores by itself.
test: lint
	$(BIN)/pytest -m 'not ray and not long' --numprocesses 2 --dist worksteal
	$(BIN)/pytest -m 'ray and not long' tests/pipelines

test-long: test  # clusters, kills, searches, studies, exports: three quarters of an hour more
	$(BIN)/pytest -m 'long or ray' --ignore tests/pipelines
	$(BIN)/pytest -m long tests/pipelines

coverage: setup  # what runs within the process takes a third longer
	$(BIN)/pytest --cov=sddusr --cov=pipelines --cov=tune --cov-report=term:skip-covered

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

bench: setup
	set -e; for bench in $(filter-out $(NOT_TIMED), $(wildcard benchmarks/[a-z]*.py)); do \
	    $(BIN)/python $$bench; done

ablation: setup
	$(BIN)/python benchmarks/ablation.py $(ARGS)

docs: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf site $(VENV) runs .pytest_cache .ruff_cache .hypothesis *.egg-info
