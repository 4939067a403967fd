"""Sizes and speeds of the kinds of file that one run exports to, in turns: `python -m benchmarks targets RUN`.

Each file passes the gate against Keras on all of val first, as `export` does.
"""

import pathlib

from export.benchmark import benchmark_ways, file_ways
from export.open_file import open_file
from export.pipeline import export_run
from export.plan import ExportPlan
from export.targets import TARGETS
from keras_cifar.data.access import DataAccess
from keras_cifar.environment import cpu_kind
from keras_cifar.errors import InputError
from keras_cifar.files import size_of, temporary_folder, write_text
from keras_cifar.runs.run import open_run

_KINDS = (("onnx", False), ("onnx", True), ("openvino", False), ("openvino", True), ("litert", False),
          ("saved_model", False))  # fmt: skip
_BATCHES = (1, 64)
TABLE = pathlib.Path(__file__).parent / "results" / "targets.md"


def measure(run_path: str, data_dir: str | None = None, limit: int | None = None) -> dict:
    """Prints a table and returns the figures.

    Args:
        run_path: a finished run.
        data_dir: where its data set is; None for where it was trained from.
        limit: not used: the gate takes all of val.
    """
    run, sizes, classifiers = open_run(run_path), {}, {}
    with temporary_folder("targets") as folder:
        for target, int8 in _KINDS:
            name = f"{target} {'INT8' if int8 else 'float32'}"
            plan = ExportPlan(
                pathlib.Path(folder, name.replace(" ", "-")), target=target, int8=int8, tta=False, force=True
            )
            plan.output.mkdir()
            try:
                (path,) = export_run(run, plan, DataAccess(data_dir=data_dir))
            except InputError as error:
                print(f"{name} has no row: {error}")
                continue
            sizes[name] = sum(map(size_of, TARGETS[target].paths(path)))
            classifiers[name] = open_file(path)
        side = next(iter(classifiers.values())).side
        found = benchmark_ways(file_ways(classifiers), side, _BATCHES)
    rows = [
        {"name": name, "bytes": sizes[name.removesuffix(" (OpenVINO)")], **ways} for name, ways in found["ways"].items()
    ]
    result = {"cpu_kind": cpu_kind(), "level": run.recipe.level, "image_size": run.recipe.image_size, "rows": rows}
    write_text(TABLE, table(result))
    print(table(result))
    return result


def table(result: dict) -> str:
    """The figures as Markdown."""
    lines = ["| File | Size, MB | Images/s, one by one | Images/s at batch 64 |", "| --- | --- | --- | --- |"]
    for row in result["rows"]:
        rates = " | ".join(f"{row[str(batch)]['images_per_second']:,.0f}" for batch in _BATCHES)
        lines.append(f"| {row['name']} | {row['bytes'] / 1e6:.1f} | {rates} |")
    about = (
        f"Level {result['level']}, {result['image_size']} px, one view, in turns on a CPU with {result['cpu_kind']}."
    )
    return "\n".join([*lines, "", about]) + "\n"
