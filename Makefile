# Every target makes .venv from nothing when it is missing, and brings it up to date when pyproject.toml changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MIN := .venv-min
# This many files of tests at a time, each from its first test to its last.
JOBS ?= 2
# Folders of images for `make gpu`: without one, what needs it is left out.
CIFAR10 ?=
CUB200 ?=
QUICK = -n $(JOBS) --dist loadfile -m "not slow and not gpu"

.PHONY: quickstart notebook test test-slow test-min gpu coverage mutants check docs wheel clean

quickstart: $(READY)  ## train a teacher and students on digits, through the command line
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/quickstart.py

notebook: $(READY)  ## run examples/digits.py as a notebook, and write it with what it gives to docs/notebook.md
	$(BIN)/python examples/render_notebook.py

test: $(READY)  ## all tests that fit into a few minutes on two cores
	$(BIN)/python -m pytest $(QUICK)

test-slow: $(READY)  ## the rest; those that need a GPU skip themselves without one
	$(BIN)/python -m pytest -m "slow or gpu"

gpu: $(READY)  ## on a machine with a GPU: its tests, the benchmarks and a short run, into docs/performance.md
	$(BIN)/python examples/benchmarks/gpu.py $(if $(CIFAR10),--cifar10 "$(CIFAR10)") $(if $(CUB200),--cub200 "$(CUB200)")

coverage: $(READY)  ## lines and branches of src/ that `make test` does not reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(QUICK)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

mutants: $(READY)  ## breaks the library in every way in tests/mutants, and tells which test notices
	$(BIN)/python tests/run_mutants.py

test-min: $(MIN)/.ready  ## the tests on the lowest versions that pyproject.toml allows, whose own warnings are no errors
	$(MIN)/bin/python -m pytest $(QUICK) -W default --ignore tests/docs/test_documents.py

check: $(READY)  ## lint, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

docs: $(READY)  ## the documentation site, in site/; fails too if a docstring names what its signature has not
	$(BIN)/zensical build --strict --clean > .zensical.log 2>&1 || (cat .zensical.log; exit 1)
	! grep "^griffe" .zensical.log

wheel: $(READY)  ## builds the sdist and from it the wheel, and imports that in an environment of its own
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv dist/clean
	dist/clean/bin/pip install --quiet dist/*.whl
	cd dist && clean/bin/python -c "import tmkd_lightning; print(tmkd_lightning.__version__)" && clean/bin/tmkd --help > /dev/null

clean:  ## everything that was made here
	rm -rf $(VENV) $(MIN) .coverage* .cache .zensical.log dist site runs .pytest_cache .hypothesis .mypy_cache .ruff_cache

# torch and torchvision come from one resolution: a pair that was built apart cannot be imported.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# uv reads the bounds off pyproject.toml itself: the lowest of what is named there, the newest that fits of all else.
# Without the extra `export`, which asks for a newer torch, and without what makes the documentation.
$(MIN)/.ready: pyproject.toml
	test -x $(MIN)/bin/python || $(PYTHON) -m venv $(MIN)
	$(MIN)/bin/python -m pip install --quiet uv
	$(MIN)/bin/uv pip install --quiet --python $(MIN)/bin/python --resolution lowest-direct --editable ".[test]"
	touch $@
