"""Runs docs/levels.ipynb from its first cell to its last and keeps what it printed and drew, also in README's tour."""

import pathlib
import re

import nbformat
from nbclient import NotebookClient

from keras_cifar.files import atomic_path, temporary_folder, write_text

_ROOT = pathlib.Path(__file__).parent.parent
PATH, README = _ROOT / "docs" / "levels.ipynb", _ROOT / "README.md"


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
    write_text(README, with_tour(README.read_text(encoding="utf-8"), printed_by(notebook)))


def printed_by(notebook) -> list[str]:
    """The lines that a notebook has printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream").splitlines()


def with_tour(text: str, printed: list[str]) -> str:
    """README with the times of a new run in its tour; a line whose other figures have changed is left."""
    before, tour, after = re.split(r"(?<=## A tour\n)(.*?)(?=\n## )", text, maxsplit=1, flags=re.DOTALL)
    new = {_without_times(line): line for line in printed}
    lines = [new.get(_without_times(line), line) if line else line for line in tour.split("\n")]
    return before + "\n".join(lines) + after


def _without_times(line):
    return re.sub(r"[\d,.]+ (s|images/s)\b", r"\1", line)


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
