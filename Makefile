# `make demo` runs the main job, `make test` the tests; each first makes what it needs, once.
# From python3 (3.9 or newer, with pip) and make alone; everything goes into .uv/ and .venv/.

PY := .venv/bin/python
UV := .uv/bin/uv
# The stamp's name holds the checksum of what decides the environment: an edit installs anew.
READY := .venv/.ready-$(firstword $(shell cat pyproject.toml .python-version | cksum))

# Whatever the caller's shell says, the environment and a downloaded Python stay in this folder.
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_INSTALL_DIR := $(CURDIR)/.uv/python
unexport VIRTUAL_ENV

# From /, so that shims (pyenv, asdf) do not read .python-version: any python3 will do here.
python3 := cd / && python3
stop = { echo "emberwalk: $(1), then run make again." >&2; exit 1; }
log := .uv.log

.PHONY: demo test test-nightly bench docs notebooks clean

demo: $(READY)
	@$(PY) -m emberwalk.infer.demo

test: $(READY)
	@$(PY) -m ruff check -q . && $(PY) -m mypy && $(PY) -m pytest -n 2 -q

# Heavy sizes; everything in float64; everything at the dependency floors, in an environment of
# its own (by `uv pip`, which leaves uv.lock and .venv as they are).
test-nightly: $(READY)
	@$(PY) -m pytest -n 2 -q -m nightly
	@JAX_ENABLE_X64=1 $(PY) -m pytest -n 2 -q -m ""
	@$(UV) venv -q --clear -p $(PY) .venv-floors
	@$(UV) pip install -q -p .venv-floors --resolution lowest-direct -r pyproject.toml --extra dev
	@$(UV) pip install -q -p .venv-floors --no-deps -e .
	@.venv-floors/bin/python -m pytest -n 2 -q

# One file: make bench ONLY=smc
bench: $(READY)
	@$(PY) benchmarks/run.py $(ONLY)

# Not quiet: with -q, mkdocs drops its warnings before --strict counts them.
docs: $(READY)
	@$(UV) sync -q --inexact --extra dev --extra docs
	@$(PY) notebooks/execute.py --pages docs/notebooks
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

notebooks: $(READY)
	@$(PY) notebooks/execute.py

clean:
	@rm -rf .uv $(log) .venv .venv-* uv.lock .jax_cache .pytest_cache .mypy_cache .ruff_cache .coverage site dist docs/notebooks
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV):
	@command -v python3 >/dev/null || $(call stop,python3 was not found; install Python 3.9 or newer)
	@$(python3) -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || $(call stop,python3 does not run or is older than 3.9; install a newer one)
	@$(python3) -m pip --version >/dev/null 2>&1 || $(call stop,python3 has no pip; install it (Debian and Ubuntu: apt install python3-pip))
	@echo "emberwalk: installing uv into .uv/ (once)"
	@rm -rf .uv
	@( cd / && PIP_REQUIRE_VIRTUALENV=0 python3 -m pip install -q --disable-pip-version-check --no-warn-script-location --retries 1 --timeout 60 --no-user --target "$(CURDIR)/.uv" 'uv>=0.9' ) >$(log) 2>&1 || { rm -rf .uv; $(call stop,uv could not be installed; check the network ($(log) holds pip's words)); }

$(READY): $(UV)
	@echo "emberwalk: installing the dependencies into .venv/ (once)"
	@$(UV) python find --no-python-downloads >$(log) 2>&1 || $(UV) python install --no-bin >$(log) 2>&1 || $(call stop,no Python 3.12 was found and none could be downloaded; install python3.12 or check the network ($(log) holds uv's words))
	@$(UV) sync -q --extra dev >$(log) 2>&1 || $(call stop,the dependencies could not be installed; check the network ($(log) holds uv's words))
	@rm -f .venv/.ready-* $(log); touch $@
