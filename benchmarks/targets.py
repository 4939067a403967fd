"""Sizes and speeds of the kinds of file that one run exports to, in turns: `python -m benchmarks targets RUN`.

Each file passes the gate against Keras on all of val first, as `export` does; what Keras says is computed once for all.
"""

import pathlib
from unittest import mock

from export import pipeline
from export.benchmark import benchmark_ways, file_ways
from export.cores import gate_cores
from export.open_file import open_file
from export.plan import ExportPlan
from export.targets import TARGETS
from keras_cifar.data.access import DataAccess
from keras_cifar.environment import cpu_kind
from keras_cifar.errors import InputError
from keras_cifar.files import size_of, temporary_folder
from keras_cifar.runs.run import open_run

_KINDS = (("onnx", False), ("onnx", True), ("openvino", False), ("openvino", True), ("litert", False),
          ("saved_model", False))  # fmt: skip
_BATCHES = (1, 64)


def measure(run_path: str, data_dir: str | None = None, limit: int | None = None) -> dict:
    """Prints a table and returns the figures.

    Args:
        run_path: a finished run.
        data_dir: where its data set is; None for where it was trained from.
        limit: not used: the gate takes all of val.
    """
    run, sizes, classifiers = open_run(run_path), {}, {}
    with temporary_folder("targets") as folder, _one_gate():
        for target, int8 in _KINDS:
            name = f"{target} {'INT8' if int8 else 'float32'}"
            plan = ExportPlan(
                pathlib.Path(folder, name.replace(" ", "-")), target=target, int8=int8, tta=False, force=True
            )
            plan.output.mkdir()
            try:
                (path,) = pipeline.export_run(run, plan, DataAccess(data_dir=data_dir))
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
    print(table(result))
    return result


def _one_gate():
    """Exports of one run share the graphs, float32 and INT8, that passed the first one's gate."""

    gated: list = []

    def gate(run, model, source, int8, max_drop, say):
        gated[:] = gated or [gate_cores(run, model, source, True, max_drop, say)]
        return gated[0]

    return mock.patch.object(pipeline, "gate_cores", gate)


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
