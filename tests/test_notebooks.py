"""Notebooks run, and what people read is what ran."""

import base64
import importlib.util
import io
import os
import subprocess
import sys

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.house import ROOT

spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

MAX_BYTES = 500_000
every_notebook = pytest.mark.parametrize("source", execute.sources(), ids=lambda source: source.stem)


def executed(source):
    file = source.with_suffix(".ipynb")
    assert file.exists(), f"{file.name} is missing: run `make notebooks`"
    return nbformat.read(file, as_version=4)


@every_notebook
def test_the_executed_notebook_has_the_cells_of_its_source(source):
    assert execute.cells(executed(source)) == execute.cells(jupytext.read(source)), "run `make notebooks`"


@every_notebook
def test_the_executed_notebook_ran_through_and_is_small(source):
    code = [cell for cell in executed(source).cells if cell.cell_type == "code" and cell.source.strip()]
    assert all(cell.execution_count for cell in code)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert source.with_suffix(".ipynb").stat().st_size <= MAX_BYTES


@pytest.mark.nightly
@every_notebook
def test_the_source_runs_as_plain_python_at_a_small_size(source):
    settings = {
        "EMBERWALK_SMALL": "1",
        "MPLBACKEND": "Agg",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    }
    done = subprocess.run(
        [sys.executable, source], cwd=source.parent, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_planted_difference_is_seen():
    one = jupytext.reads("# %% [markdown]\n# # Title\n\n# %%\nx = 1\n", fmt="py:percent")
    other = jupytext.reads("# %% [markdown]\n# # Title\n\n# %%\nx = 2\n", fmt="py:percent")
    assert execute.cells(one) == execute.cells(one)
    assert execute.cells(one) != execute.cells(other)


def test_a_figure_with_few_colours_is_the_same_to_the_eye_and_smaller():
    figure, ax = plt.subplots()
    ax.fill_between(np.arange(50), np.arange(50.0), color="#1f7a8c", alpha=0.16)
    ax.plot(np.cos(np.arange(50.0)), color="#d1603d", alpha=0.8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    before = base64.b64encode(file.getvalue()).decode()
    after = execute.with_few_colours(before)
    assert len(after) < 0.7 * len(before)
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), float)
        for png in (before, after)
    ]
    difference = np.abs(pixels[1] - pixels[0])
    assert difference.mean() < 0.5
    assert difference.max() < 16
