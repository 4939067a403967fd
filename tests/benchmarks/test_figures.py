import json
import shutil
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # benchmarks are not installed
from benchmarks import __main__ as command
from benchmarks.claims import NO_MEASUREMENTS, SOURCES
from benchmarks.export_results import disturbed
from benchmarks.figures import Claim, check

SENTENCE = "Ours is 1.50 times\nas fast, 84.0 % of 1,200 calls, at level 2"
README = f"""# Title

{SENTENCE} ([the file](results/speed.json), `results/speed.json`), see `speed.py`.
`--level 3` and `python cli.py train` are explained elsewhere.

```
python cli.py train --level 2 --epochs 12
python -m benchmarks.choices GROUP
```
"""
MODULE = '''"""Fast.

Like `1.7 times` this."""
x = "3 times"  # see README
'''
ALLOWED = {r"\blevel \d\b": "name of a level"}


def claims(read):
    speed, rows = read("results/speed.json"), read("results/calls.csv")
    yield Claim(
        "README.md",
        "Ours is {:.2f} times as fast, {:.1f} % of {:,} calls",
        (speed["ours"] / speed["theirs"], rows[1]["share"], speed["calls"]),
        holds=speed["ours"] > speed["theirs"],
    )


@pytest.fixture
def root(tmp_path):
    """A repository whose documents are right."""
    (tmp_path / "results").mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "benchmarks" / "speed.py").write_text(MODULE)
    (tmp_path / "results" / "speed.json").write_text(json.dumps({"ours": 3, "theirs": 2, "calls": 1200}))
    (tmp_path / "results" / "calls.csv").write_text("name,share\nall,100\nours,84.04\n")
    return tmp_path


def found(root, **changes):
    return check(root, **{"sources": [claims], "no_measurements": ALLOWED} | changes)


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_committed_documents_are_right():
    assert check(ROOT, SOURCES, NO_MEASUREMENTS) == []


def test_right_documents_pass(root):
    assert found(root) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("README.md", "1.50", "1.51", "README.md:3: 1.51 should be 1.50 (results/speed.json, results/calls.csv)"),
        ("README.md", "84.0 %", "84.1 %", "README.md:4: 84.1 should be 84.0"),
        ("README.md", "1,200", "1200", "README.md:4: 1200 should be 1,200"),
        ("results/speed.json", '"theirs": 2', '"theirs": 4', "README.md:3: not true any more"),
        ("results/speed.json", "theirs", "others", "claims.claims: results/calls.csv does not hold what it reads"),
        ("results/calls.csv", "ours,84.04\n", "", "claims.claims: results/calls.csv does not hold what it reads"),
        ("README.md", "Ours is", "We are", "README.md: does not say exactly once 'Ours is"),
        ("README.md", SENTENCE, f"{SENTENCE}. {SENTENCE}", "README.md: does not say exactly once"),
        ("README.md", "# Title", "# Title of 2026", "README.md:1: no file for 2026"),
        ("README.md", "# Title", "Saves 5 s", "README.md:1: no file for 5"),
        ("README.md", "# Title", "Up to .95 and −0.3", "README.md:1: no file for −0.3"),
        ("README.md", "level 2", "stage 2", "README.md:4: no file for 2"),
        ("benchmarks/speed.py", "# see", "# 3 times, see", "benchmarks/speed.py:4: no file for 3"),
        ("benchmarks/speed.py", "Fast", "Right in .912 of cases", "benchmarks/speed.py:1: no file for .912"),
        ("README.md", "](results/speed.json)", "](results/none.json)", "README.md:4: results/none.json does not exist"),
        ("README.md", "`results/speed.json`", "`results/no/`", "README.md:4: results/no/ does not exist"),
        ("README.md", "`speed.py`", "`space.py`", "README.md:4: space.py does not exist"),
        (
            "README.md",
            "--epochs",
            "--epoch-count",
            "README.md:8: cli.py does not take 'train --level 2 --epoch-",
        ),
        ("README.md", "`python cli.py train`", "`python cli.py fit`", "README.md:5: cli.py does not take 'fit'"),
        ("README.md", "`--level 3`", "`--grade 3`", "README.md:5: no command has --grade"),
        ("README.md", "benchmarks.choices", "benchmarks.chances", "README.md:9: there is no module benchmarks.chances"),
    ],
)
def test_a_fault_is_named_with_its_line(root, name, old, new, line):
    replace(root / name, old, new)
    assert any(problem.startswith(line) for problem in found(root)), found(root)


def test_a_file_that_is_missing_is_named(root):
    (root / "results" / "calls.csv").unlink()
    assert "claims.claims: results/calls.csv does not exist" in found(root)


def test_figures_are_written_where_they_stand(root):
    (root / "results" / "speed.json").write_text(json.dumps({"ours": 9, "theirs": 2, "calls": 31000}))
    assert found(root)
    assert found(root, write=True) == []
    written = "Ours is 4.50 times\nas fast, 84.0 % of 31,000 calls, at level 2"
    assert (root / "README.md").read_text() == README.replace(SENTENCE, written)
    assert found(root) == []


def test_a_document_that_code_makes_is_compared_and_written(root):
    shutil.copytree(ROOT / "results" / "export", root / "results" / "export")
    right = (root / "results" / "export" / "README.md").read_text()
    replace(root / "README.md", "# Title", "<!-- from results/export/README.md -->\n<!-- end -->")
    assert found(root) == ["README.md:2 differs from results/export/README.md"]
    replace(root / "results" / "export" / "README.md", "level4_fp32.onnx | ", "level4_fp32.onnx | 9")
    line = 1 + [row.startswith("| level4_fp32.onnx") for row in right.splitlines()].index(True)
    assert f"results/export/README.md:{line} differs from what its files give" in found(root)
    assert found(root, write=True) == []
    assert (root / "results" / "export" / "README.md").read_text() == right
    assert right.strip() in (root / "README.md").read_text()
    (root / "results" / "export" / "README.md").unlink()
    assert "results/export/README.md:1 differs from what its files give" in found(root)


def test_a_table_of_runs_is_compared_with_their_files(root):
    runs = root / "results" / "cifar10-jpeg-efficientnet_lite0"
    shutil.copytree(ROOT / "results" / runs.name, runs)
    assert found(root) == []
    metrics = json.loads((runs / "seed0/level4/metrics.json").read_text())
    metrics["val"]["top1"] = 0.95
    (runs / "seed0/level4/metrics.json").write_text(json.dumps(metrics))
    (problem,) = found(root)
    assert problem.startswith(f"results/{runs.name}/README.md:")


def test_rates_that_other_work_disturbed_are_told_from_right_ones():
    pairs = [("fp32", "fp32_tta"), ((False, "float32"), (True, "float32"))]
    rates = {"fp32": 366, "fp32_tta": 184, (False, "float32"): 122, (True, "float32"): 61}
    assert disturbed(rates, pairs) == disturbed(rates | {"fp32_tta": 160}, pairs) == []
    assert disturbed(rates | {(False, "float32"): 98}, pairs) == pairs[1:]
    assert disturbed(rates | {"fp32_tta": 150}, pairs) == pairs[:1]


def test_command(root, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.figures.ROOT", root)
    monkeypatch.setattr("benchmarks.claims.SOURCES", [claims])
    monkeypatch.setattr("benchmarks.claims.NO_MEASUREMENTS", ALLOWED)
    replace(root / "README.md", "1.50", "1.51")
    for options, code, out in ([], 1, "README.md:3: 1.51 "), (["--write"], 0, "every figure"), ([], 0, "every figure"):
        monkeypatch.setattr(sys, "argv", ["benchmarks", "figures", *options])
        assert command.main() == code
        assert capsys.readouterr().out.startswith(out)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "step", "--write"])
    with pytest.raises(SystemExit):
        command.main()
