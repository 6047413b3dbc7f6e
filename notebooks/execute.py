"""Executes the notebooks, and shows the executed ones as pages of the docs.

    python notebooks/execute.py                          each NAME.py (py:percent) into NAME.ipynb
    python notebooks/execute.py pound_volatility         this one
    python notebooks/execute.py --pages docs/notebooks   each NAME.ipynb into a page with its figures

The source is NAME.py; NAME.ipynb is committed with its outputs, because people read notebooks
where the code lives. A test sees that the cells of both agree.
"""

import argparse
import base64
import io
import os
import shutil
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).parent


def sources() -> list[Path]:
    """The py:percent files, in order of name."""
    return sorted(file for file in HERE.glob("*.py") if file != Path(__file__))


def cells(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Kind and text of each cell: what a source and its executed notebook must share."""
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def execute(source: Path) -> Path:
    """Runs every cell of a source in a fresh kernel and writes the notebook beside it."""
    # Imported here: reading and comparing notebooks needs no kernel.
    from nbclient import NotebookClient

    # The kernel of this environment, not one of the same name in the user's home.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    notebook = jupytext.read(source)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()

    # What would differ from run to run without a difference to read.
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get("image/png")
            if figure:
                output.data["image/png"] = with_few_colours(figure)
    target = source.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


def with_few_colours(png: str) -> str:
    """A figure (base64) with a palette of 128 colours: a third of the bytes, and no difference to see."""
    from PIL import Image

    figure = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    smaller = io.BytesIO()
    figure.quantize(128, dither=Image.Dither.NONE).save(smaller, "PNG", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode() + "\n"


def write_pages(folder: Path) -> None:
    """Writes each executed notebook as a page, its figures in a folder beside it."""
    from nbconvert import MarkdownExporter

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in sorted(HERE.glob("*.ipynb")):
        figures = f"{file.stem}_figures"
        names = {"unique_key": file.stem, "output_files_dir": figures}
        text, resources = MarkdownExporter().from_filename(str(file), resources=names)
        (folder / f"{file.stem}.md").write_text(text)
        for name, data in resources["outputs"].items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Executes notebooks, or shows them as pages.")
    parser.add_argument("names", nargs="*", help="notebooks to execute; all if none is named")
    parser.add_argument("--pages", type=Path, metavar="FOLDER", help="write pages here instead")
    asked = parser.parse_args()
    if asked.pages:
        write_pages(asked.pages)
        return
    unknown = sorted(set(asked.names) - {source.stem for source in sources()})
    if unknown:
        parser.error(f"no notebook named {', '.join(unknown)}")
    for source in sources():
        if not asked.names or source.stem in asked.names:
            print(f"executing {source.name}", flush=True)
            print(f"wrote {execute(source).name}")


if __name__ == "__main__":
    main()
