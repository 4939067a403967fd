"""The arrows of the architecture: a module imports only from the rows above its own."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT

ROWS = [
    {"errors", "libraries"},
    {"checks", "program"},
    {"registry", "metrics", "files", "images", "timing", "names"},
    {"specs", "losses", "cache", "torch_checkpoints"},
    {"recipes"},
    {"evaluation_file", "listing", "terminal", "augment", "heads", "tta", "graph", "optimizer", "environment"},
    {"folders", "weights", "kernel_gradient", "objective"},
    {"step"},
    {"fold"},
    {"backbones", "datasets", "evaluate"},
    {"precision", "data_record", "access"},
    {"model"},
    {"runs", "engine"},
    {"features", "plots"},
    {"observers"},
    {"evaluate_split", "job"},
    {"fit", "evaluate_run"},
    {"train", "comparisons"},
    {"report", "doctor"},
    {"demo"},
]
ROW_OF = {name: i for i, row in enumerate(ROWS) for name in row}
# Packages above keras_cifar, by rows of their own; they never import each other.
PACKAGES = {
    "tuning": [
        {"search_space", "distributed", "result"},
        {"trial", "plots"},
        {"oracles", "lr_range"},
        {"report"},
        {"search"},
    ],
    "export": [
        {"opset", "runtimes", "temperature", "metadata", "pytorch"},
        {"card"},
        {"graph", "classifier", "probe"},
        {"parity", "keras_classifier", "evaluate_onnx", "benchmark", "bias_correction", "qdq", "plan"},
        {"quantize", "predict"},
        {"pipeline"},
    ],
}
STDLIB_ONLY = (
    "errors",
    "libraries",
    "checks",
    "program",
    "registry",
    "specs",
    "losses",
    "recipes",
    "names",
    "terminal",
)


def imported(path, only_at_once=False):
    """The modules that a file imports, or only those that it imports as soon as it is imported itself."""
    tree = ast.parse(path.read_text())
    for node in tree.body if only_at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


MODULES = sorted(p for p in (ROOT / "keras_cifar").glob("*.py") if p.stem not in ("__init__", "__main__"))
# What `predict` and `evaluate` of a file load.
WITHOUT_TENSORFLOW = ("images", "timing", "metrics", "tta", "evaluate", "evaluate_split", "datasets", "folders",
                      "listing", "data_record", "plots", "files")  # fmt: skip


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_imports_only_from_rows_above(path):
    assert path.stem in ROW_OF, f"{path.name} stands in no row: give it a place"
    for name in imported(path):
        root, _, rest = name.partition(".")
        assert root not in ("tuning", "export", "benchmarks", "tests", "cli"), f"{path.name} imports {name}"
        if root == "keras_cifar":
            assert ROW_OF[rest] < ROW_OF[path.stem], f"{path.name} imports {name} from its own row or below"


PACKAGE_MODULES = [p for name in PACKAGES for p in sorted((ROOT / name).glob("*.py")) if p.stem != "__init__"]


@pytest.mark.parametrize("path", PACKAGE_MODULES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_module_of_a_package_imports_from_its_rows_above_and_keras_cifar(path):
    package = path.parent.name
    row_of = {name: i for i, row in enumerate(PACKAGES[package]) for name in row}
    assert path.stem in row_of, f"{package}/{path.name} stands in no row: give it a place"
    for name in imported(path):
        root, _, rest = name.partition(".")
        others = {*PACKAGES, "tuning", "export", "benchmarks", "tests", "cli"} - {package}
        assert root not in others, f"{package}/{path.name} imports {name}"
        if root == package and rest != "targets":
            assert row_of[rest] < row_of[path.stem], f"{path.name} imports {name} from its own row or below"


@pytest.mark.parametrize("name", WITHOUT_TENSORFLOW)
def test_what_serving_needs_is_without_keras(name):
    found = imported(ROOT / "keras_cifar" / f"{name}.py", only_at_once=True)
    roots = {module.partition(".")[0] for module in found}
    assert not roots & {"keras", "tensorflow", "keras_hub"}


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_recipes_need_the_standard_library_only(name):
    for module in imported(ROOT / "keras_cifar" / f"{name}.py", only_at_once=True):
        root = module.partition(".")[0]
        assert root in sys.stdlib_module_names or module.removeprefix("keras_cifar.") in STDLIB_ONLY


def test_metrics_need_numpy_only():
    roots = {m.partition(".")[0] for m in imported(ROOT / "keras_cifar" / "metrics.py")}
    assert roots <= {"math", "numpy", "typing"}


@pytest.mark.parametrize(("given", "taken"), [(None, "1"), ("0", "0")])
def test_onednn_is_on_before_tensorflow_unless_the_user_says_otherwise(given, taken):
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {} if given is None else {"TF_ENABLE_ONEDNN_OPTS": given}
    code = "import os, sys, keras_cifar; print(os.environ['TF_ENABLE_ONEDNN_OPTS'], 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [taken, "False"], done.stderr


def test_help_imports_nothing_heavy():
    code = "import sys, cli; cli._parser(); print([m for m in ('tensorflow', 'keras', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


SOURCES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in [*MODULES, *PACKAGE_MODULES]}
SOURCES |= {"cli": ROOT / "cli.py", **{name: ROOT / name / "__init__.py" for name in ("keras_cifar", *PACKAGES)}}


def definitions_and_imports(path):
    """A file's syntax tree, its top-level definitions by name, and what it imports: name -> (module, name or None)."""
    tree, imports, names = ast.parse(path.read_text()), {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.asname or alias.name: (alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                imports[alias.asname or alias.name] = (full, None) if full in SOURCES else (node.module, alias.name)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign):
            names |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return tree, names, imports


def used(tree, module, names, imports):
    """The (module, name) of each definition that a piece of code of a module names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield (module, node.id) if node.id in names else imports.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imports:
            yield imports[node.value.id][0], node.attr


def test_every_public_definition_is_reached_from_a_test():
    parsed, waiting = {module: definitions_and_imports(path) for module, path in SOURCES.items()}, []
    for module, (tree, names, imports) in parsed.items():  # what an import runs
        for statement in tree.body:
            waiting += used(statement, module, names, imports) if isinstance(statement, ast.Expr) else ()
    for path in pathlib.Path(__file__).parent.glob("*.py"):
        tree, names, imports = definitions_and_imports(path)
        waiting += used(tree, None, (), imports)
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        waiting += [("cli", "_" + str(command).replace("-", "_")) for command in strings]
    reached = set()
    while waiting:
        place = waiting.pop()
        if place in reached or place is None or place[0] not in parsed:
            continue
        reached.add(place)
        _, names, imports = parsed[place[0]]
        if place[1] in names and not place[1].startswith("_add_"):  # these name every command's function
            waiting += used(names[place[1]], place[0], names, imports)
    public = {(module, name) for module, (_, names, _) in parsed.items() for name in names if name[0] != "_"}
    assert not sorted(public - reached)
