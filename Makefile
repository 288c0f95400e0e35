# `make demo` and `make test` are all a newcomer needs; both make the virtual environment first.

PYTHON ?= python3
# Its own step, before everything else: an unpinned torch would bring gigabytes of CUDA libraries.
# On Linux outside CI, point pip at PyTorch's CPU builds (PIP_EXTRA_INDEX_URL) to avoid them.
TORCH ?= torch==2.13.0

VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready
# `make oldest`: exports come from the versions above, torch of that age being gigabytes of CUDA.
OLDEST := .oldest
OLDEST_PYTHON ?= $(firstword $(shell \
  for p in python3.10 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.10.*/bin/python; do \
    "$$p" -c "" 2>/dev/null && echo "$$p"; done) $(PYTHON))
OLDEST_TESTS := $(patsubst %,tests/test_%.py,every_form packed_weights atomic locks \
  machine_limits user_folders bundle_files images labels noise pictures recipe_png schema \
  bench_stats bench_formats server_pictures server_files server_access server_refusals \
  server_queue server_command)
EMBEDDED := runtime/embedded
CHECKPOINT := apps/demo/fmnist_model_4_128_4_4_0.10.pth
# Thread pools that spin would fight over the cores; the engines set their own thread counts.
export OMP_NUM_THREADS = 1
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint types pytest oldest slow embedded web format clean

demo: $(READY)  ## export the embedded checkpoint to all targets, verify, generate, print a table
	@$(RUN)/python -m flowship.apps.demo

test: lint types pytest  ## everything that continuous integration runs

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(READY)
	$(RUN)/mypy
	$(RUN)/mypy tests

pytest: $(READY)
	$(RUN)/pytest -n 2

oldest: $(OLDEST)/.ready  ## the runtime with the oldest versions that are declared, on Python 3.10
	@$(OLDEST)/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10) and \
	  f"PYTHON 3.10 IS NOT HERE: the oldest versions were tried on {sys.version}")' || true
	@rm -rf $(OLDEST)/bundles && mkdir $(OLDEST)/bundles
	FLOWSHIP_BUNDLES=$(CURDIR)/$(OLDEST)/bundles $(RUN)/pytest -q tests/test_every_form.py
	FLOWSHIP_BUNDLES=$(CURDIR)/$(OLDEST)/bundles $(OLDEST)/bin/python -m pytest -q $(OLDEST_TESTS)

slow: $(READY)  ## published sizes: AFHQ-256 through the exporter (15 GB of disk, half an hour)
	$(RUN)/pytest -m slow

embedded: $(READY)  ## make the bundle inside the package again
	$(RUN)/flowship export $(CHECKPOINT) -o $(EMBEDDED)/fashion-mnist.flowship --replace --targets onnx \
	  --data $(EMBEDDED)/fashion_mnist_test_512.npz --name fashion-mnist --licence Apache-2.0

web:  ## build the web app again (needs Node 20.19 or newer; users need none)
	cd apps/web && npm ci --ignore-scripts && npm run build

format: $(READY)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) .links build dist

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(RUN)/pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@

# Of pytest and its helpers the newest.
$(OLDEST)/.ready: pyproject.toml tests/oldest_versions.py $(READY)
	rm -rf $(OLDEST)
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check pytest pytest-xdist filelock hypothesis \
	  $$($(RUN)/python tests/oldest_versions.py onnx coreml serve bench)
	@touch $@
