"""Runs docs/levels.ipynb from its first cell to its last and keeps what it printed and drew."""

import pathlib

import nbformat
from nbclient import NotebookClient

from keras_cifar.files import atomic_path, temporary_folder

PATH = pathlib.Path(__file__).parent.parent / "docs" / "levels.ipynb"


def main() -> None:
    """Renews the outputs; the runs themselves are made in a temporary folder."""
    notebook = nbformat.read(PATH, as_version=4)
    with temporary_folder("notebook") as folder:
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = list(_merged(cell.outputs))
    with atomic_path(PATH) as partial:
        nbformat.write(notebook, partial)


def _merged(outputs):
    """Outputs without what libraries log, and what is printed in one piece."""
    printed = None
    for output in outputs:
        if output.output_type != "stream":
            printed = None
            yield output
        elif output.name == "stdout" and printed is not None:
            printed.text += output.text
        elif output.name == "stdout":
            printed = output
            yield printed
