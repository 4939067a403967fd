"""The arrows of the architecture: a module imports only from the rows above its own."""

import ast
import functools
import graphlib
import importlib
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

# The floors of keras_cifar, from the ground up: a module imports only from its own package and from the rows above.
# "runs" has two: what a run folder holds is below the model, the report of several is above their evaluation.
ROWS = [
    ("GROUND",),
    ("data", "speed"),
    ("runs.evaluation_file", "runs.shift_file", "runs.run", "runs.plots", "runs.thumbnails"),
    ("model",),
    ("evaluation",),
    ("training",),
    ("runs.report",),
    ("demo", "doctor", "verify", "page"),
]
# Registries of names that recipes are checked against: the standard library only, so that `--help` is instant.
SEAMS = ("model.specs", "data.specs", "data.policies", "training.losses")
GROUND = (
    "array_cache",
    "cache",
    "calibration",
    "checks",
    "environment",
    "errors",
    "exclude_list",
    "files",
    "html",
    "libraries",
    "metrics",
    "names",
    "program",
    "recipes",
    "registry",
    "terminal",
    "timing",
    *SEAMS,
)
STDLIB_ONLY = (
    "errors",
    "exclude_list",
    "libraries",
    "checks",
    "program",
    "registry",
    "recipes",
    "names",
    "terminal",
    *SEAMS,
)
PACKAGES = ("tuning", "export")


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def imported(path, only_at_once=False):
    """The modules that a file imports, or only those that it imports as soon as it is imported itself."""
    tree = tree_of(path)
    for node in tree.body if only_at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def modules_of(package):
    """Module name inside the package -> file."""
    files = sorted(path for path in (ROOT / package).rglob("*.py") if path.stem not in ("__init__", "__main__"))
    return {".".join(path.relative_to(ROOT / package).with_suffix("").parts): path for path in files}


MODULES = modules_of("keras_cifar")
# What `predict` and `evaluate` of a file load.
WITHOUT_TENSORFLOW = ("data.images", "timing", "metrics", "evaluation.tta", "evaluation.predict",
                      "evaluation.evaluate_split", "data.datasets", "data.folders", "data.listing", "data.record",
                      "runs.plots", "runs.thumbnails", "files", "calibration", "evaluation.answers")  # fmt: skip


def row_of(module):
    for number, row in enumerate(ROWS):
        if module in row or module.partition(".")[0] in row or (number == 0 and module in GROUND):
            return number
    raise AssertionError(f"{module} has no row: give it a place")


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_its_package_and_the_rows_above(module):
    for name in imported(MODULES[module]):
        root, _, rest = name.partition(".")
        assert root not in (*PACKAGES, "benchmarks", "tests", "cli"), f"{module} imports {name}"
        if root == "keras_cifar":
            below = row_of(rest) < row_of(module)
            same = row_of(rest) == row_of(module) and rest.partition(".")[0] == module.partition(".")[0]
            assert below or same or (rest in GROUND and module in GROUND), f"{module} imports {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_above_import_keras_cifar_and_themselves(package):
    for module, path in modules_of(package).items():
        others = {*PACKAGES, "benchmarks", "tests", "cli"} - {package}
        assert not others & {name.partition(".")[0] for name in imported(path)}, f"{package}.{module}"


def test_no_imports_go_in_a_circle():
    arrows = {
        f"{package}.{module}": {name for name in imported(path) if name.partition(".")[0] == package}
        for package in ("keras_cifar", *PACKAGES)
        for module, path in modules_of(package).items()
    }
    order = list(graphlib.TopologicalSorter(arrows).static_order())  # CycleError names the circle
    assert set(arrows) <= set(order)


@pytest.mark.parametrize("name", WITHOUT_TENSORFLOW)
def test_what_serving_needs_is_without_keras(name):
    found = imported(MODULES[name], only_at_once=True)
    roots = {module.partition(".")[0] for module in found}
    assert not roots & {"keras", "tensorflow", "keras_hub"}


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_recipes_need_the_standard_library_only(name):
    for module in imported(MODULES[name], only_at_once=True):
        root = module.partition(".")[0]
        assert root in sys.stdlib_module_names or module.removeprefix("keras_cifar.") in STDLIB_ONLY


def test_metrics_need_numpy_only():
    roots = {m.partition(".")[0] for m in imported(ROOT / "keras_cifar" / "metrics.py")}
    assert roots <= {"collections", "math", "numpy", "typing"}


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


@pytest.mark.parametrize("package", ["keras_cifar", "export"])
def test_public_names_are_imported_when_they_are_used(package):
    """And type checkers, which read the imports, are told the same places."""
    code = f"import sys, {package} as p; print({{'tensorflow', 'keras', 'onnxruntime', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
    found = importlib.import_module(package)
    assert set(found.__all__) == set(found._MODULES) <= set(dir(found))
    assert all(getattr(found, name).__module__ == found._MODULES[name] for name in found.__all__ if name != "LEVELS")
    assert not hasattr(found, "nothing")
    guarded = next(node for node in tree_of(ROOT / package / "__init__.py").body
                   if isinstance(node, ast.If))  # fmt: skip
    typed = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert typed == found._MODULES


# The modules that may use private names of Keras, TensorFlow and KerasTuner.
INTERNALS = ("keras_cifar.speed.keras_internals", "tuning.oracles")


def private_names(tree):
    """The names with one underscore that a file defines or sets, and those that it reads of some object."""
    ours, read = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            ours.add(node.name)
        elif isinstance(node, ast.Name):
            ours.add(node.id)
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            (ours if isinstance(node.ctx, ast.Store) else read).add(node.attr)
    return ours, read


def test_private_names_of_other_libraries_stay_in_their_modules():
    packages = [(package, modules_of(package)) for package in ("keras_cifar", *PACKAGES)]
    paths = {f"{package}.{name}": path for package, found in packages for name, path in found.items()}
    trees = {module: tree_of(path) for module, path in {**paths, "cli": ROOT / "cli.py"}.items()}
    allowed = {module: module in INTERNALS for module in trees}
    ours = set().union(*(private_names(tree)[0] for module, tree in trees.items() if not allowed[module]))
    found = []
    for module in (module for module in trees if not allowed[module]):
        found += [(module, name) for name in private_names(trees[module])[1] - ours]
        found += [(module, name) for name in imported(paths.get(module, ROOT / "cli.py"))
                  if re.search(r"\.src\b|tensorflow\.python|\._", name)]  # fmt: skip
    assert not found


SOURCES = {
    f"{package}.{module}": path
    for package in ("keras_cifar", *PACKAGES)
    for module, path in modules_of(package).items()
    if not module.startswith("targets.")
}
SOURCES |= {"cli": ROOT / "cli.py", **{name: ROOT / name / "__init__.py" for name in ("keras_cifar", *PACKAGES)}}


def definitions_and_imports(path):
    """A file's syntax tree, its top-level definitions by name, and what it imports: name -> (module, name or None)."""
    tree, imports, names = tree_of(path), {}, {}
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
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[a-z_.]+:[a-z_]+", str(node.value)):
            yield tuple(node.value.split(":"))  # what a registry imports when it is needed


def test_every_public_definition_is_reached_from_a_test():
    parsed, waiting = {module: definitions_and_imports(path) for module, path in SOURCES.items()}, []
    for module, (tree, names, imports) in parsed.items():  # what an import runs
        for statement in tree.body:
            is_run = isinstance(statement, ast.Expr) or (
                isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple)
            )
            waiting += used(statement, module, names, imports) if is_run else ()
    for path in (ROOT / "tests").rglob("*.py"):
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
