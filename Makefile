# Every target makes .venv from the lock of exact versions first.
PYTHON ?= python3
BIN := .venv/bin
STORE := runs/poisson.zarr

.PHONY: demo test test-all check docs bench bench-peers lock dist clean

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/.installed  ## train the Poisson PINN, compute its Hessian, verify it, show its spectrum
	$(BIN)/hessian train poisson --out runs/poisson.keras
	$(BIN)/hessian plan poisson --weights runs/poisson.keras
	$(BIN)/hessian run poisson --weights runs/poisson.keras --store $(STORE)
	$(BIN)/hessian verify $(STORE)
	$(BIN)/hessian spectrum $(STORE) --picture runs/spectrum.png
	$(BIN)/hessian info $(STORE) --picture runs/matrix.png
	@echo "pictures: runs/spectrum.png runs/matrix.png"

# Threads of NumPy's matrix products spin while they wait for each other; of small ones, with other
# processes at work, that takes several times what they compute.
test: export OPENBLAS_NUM_THREADS = 1
test: .venv/.installed  ## what CI runs
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile

.venv/.torch: .venv/.installed tests/torch.txt tests/laplace.txt
	$(BIN)/pip install --quiet --constraint requirements.lock --requirement tests/torch.txt
	$(BIN)/pip install --quiet --no-deps --requirement tests/laplace.txt
	touch $@

test-all: .venv/.torch  ## with the slow tests, and those that need PyTorch
	$(BIN)/pytest

check: .venv/.installed  ## format, lint, types, import walls
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.installed  ## the site, in docs/_build
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

bench: .venv/.installed  ## time split by width, and the ways to differentiate
	$(BIN)/python benchmarks/widths.py
	$(BIN)/python benchmarks/products.py

.venv-bench/.installed: requirements.lock benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --requirement requirements.lock
	.venv-bench/bin/pip install --quiet --requirement benchmarks/peers/requirements.txt
	.venv-bench/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

bench-peers: .venv-bench/.installed  ## the engines against JAX, torch.func, curvlinops, PyHessian
	.venv-bench/bin/python benchmarks/peers/run.py --widths 10 20 50

lock:  ## resolve the exact versions anew
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet pip-tools
	.venv-lock/bin/pip-compile --quiet --strip-extras --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --extra clusters --extra deepxde --extra dev --extra docs --extra kubernetes --extra s3 --all-build-deps --allow-unsafe \
		--output-file requirements.lock pyproject.toml
	rm -r .venv-lock

dist: .venv/.installed  ## what is uploaded, from what is committed; see CONTRIBUTING.md
	rm -rf dist build/source && mkdir -p build/source
	git archive HEAD | tar --extract --directory build/source
	$(BIN)/python -m build --no-isolation --outdir dist build/source
	test -x .venv-dist/bin/twine || ($(PYTHON) -m venv .venv-dist && .venv-dist/bin/pip install --quiet twine)
	.venv-dist/bin/twine check --strict dist/*

clean:
	rm -rf .venv runs docs/_build build dist
