"""docs/levels.ipynb: its committed outputs, and that it still runs."""

import re

import pytest
from conftest import ROOT, TINY

from keras_cifar.recipes import LEVELS

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
from benchmarks.notebook import printed_by, with_tour  # noqa: E402 - which needs both

NOTEBOOK = ROOT / "docs" / "levels.ipynb"


def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_committed_outputs_are_those_of_a_whole_run():
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {"stream", "display_data"}
    streams = {output.name for cell in cells for output in cell.outputs if output.output_type == "stream"}
    assert streams == {"stdout"}
    found = re.findall(r"level \d: test top-1 \d\d\.\d\d %", "\n".join(printed_by(notebook())))
    assert len(found) == len(LEVELS)


def test_the_tour_of_the_readme_shows_what_commands_print():
    """Its lines are those of the notebook's run, shortened by whole lines only."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = text.partition("## A tour")[2].partition("```\n")[2].partition("```")[0]
    lines = [line for line in tour.splitlines() if line and not line.startswith(("$", "..."))]
    known = printed_by(notebook())
    assert len(lines) >= 5 and not [line for line in lines if line not in known]
    slower = [re.sub(r"\b\d+ s\b", "9876 s", line) for line in known]
    assert with_tour(text, known) == text and with_tour(text, slower).count("9876 s") >= 4


@pytest.mark.slow
def test_it_runs_from_the_first_cell_to_the_last(tmp_path):
    client = pytest.importorskip("nbclient").NotebookClient
    found = notebook()
    changes = {**TINY, "views": 0}
    del changes["epochs"]
    (settings,) = [cell for cell in found.cells if "parameters" in cell.metadata.get("tags", ())]
    settings.source = (
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nimport tiny\n"
        f"CHANGES = {changes!r}\nSCHEDULE = {{level: {{'epochs': 1}} for level in {list(LEVELS)}}}\nFOLDER = 'runs'"
    )
    client(found, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(line.startswith("predicted:") for line in printed_by(found))
    assert (tmp_path / "runs" / "level5" / "best.keras").is_file() and (tmp_path / "runs" / "classifier.onnx").is_file()
