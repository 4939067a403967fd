"""Runs one benchmark, or all, and writes its figures: `python -m benchmarks augment`.

`python -m benchmarks figures` checks the figures of the documents instead, and `--write` corrects them; `notebook` runs
the notebook again.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NAMES = ("level1", "startup", "step", "gradients", "evaluate", "augment", "memory", "onnx", "stores", "large", "gpu")
# Those that need an extra of the package, which `all` leaves out.
OF_AN_EXTRA = ("ray",)
# Those of a run, which `all` leaves out.
OF_A_RUN = ("quantization", "golden", "certainty", "targets")
# Those of CIFAR-10, which `all` leaves out.
OF_CIFAR = ("alike", "packaged")
# What decides how a CPU is used: by oneDNN (TensorFlow, PyTorch, OpenVINO), TensorFlow, PyTorch and MKL.
_SETTINGS = ("ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
_MODULES = {"onnx": "onnx_files", "ray": "ray_data"}  # a module called onnx would look like the package


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in (*NAMES, *OF_AN_EXTRA, "all"):
        names.add_parser(name)
    for name in OF_A_RUN:
        of_a_run = names.add_parser(name)
        if name == "certainty":
            of_a_run.add_argument("run", nargs="+", help="finished runs, one a level")
        else:
            of_a_run.add_argument("run", help="a finished run")
        of_a_run.add_argument("--data-dir", help="where its data set is, if not where it was trained from")
        of_a_run.add_argument("--limit", type=int, help="images of val to use; all without it")
        if name == "certainty":
            of_a_run.add_argument("--photos", required=True, help="a folder with labels.csv: file, cifar10")
            of_a_run.add_argument("--files", required=True, help="folder for files and logits")
    of_server = names.add_parser("serve", help="needs litserve and python-multipart")
    of_server.add_argument("--seconds", type=float, default=60, help="of each load; default: 60")
    of_photos = names.add_parser("resize")
    of_photos.add_argument("photos", help="a folder with labels.csv: file, imagenet_index")
    of_page = names.add_parser("web", help="needs Chromium, its driver and selenium")
    of_page.add_argument("photos", help="a folder of images")
    of_page.add_argument("files", nargs="*", help="that `export` wrote; default: the package's classifier")
    for name in OF_CIFAR:
        of_cifar = names.add_parser(name)
        of_cifar.add_argument("--data-dir", help="folder of prepared TFDS data sets")
    of_labels = names.add_parser("labels", help="needs people's votes on CIFAR-10's labels")
    of_labels.add_argument("reference", help="CSV with tfds_id and votes_given")
    of_labels.add_argument("--data-dir", help="folder of prepared TFDS data sets")
    of_labels.add_argument("--run", help="also a finished run on CIFAR-10")
    of_labels.add_argument("--files", help="folder that keeps the run's logits")
    documents = names.add_parser("figures", help="compare the documents with the files behind them")
    documents.add_argument("--write", action="store_true", help="put the files' figures into the documents")
    names.add_parser("notebook", help="run docs/levels.ipynb and keep its outputs")
    args = parser.parse_args()
    if args.name == "notebook":
        from benchmarks import notebook

        return notebook.main()
    if args.name == "figures":
        from benchmarks import figures

        return figures.main(args.write)
    if args.name in OF_CIFAR:
        return measure(args.name, args.data_dir)
    if args.name == "labels":
        return measure(args.name, args.reference, args.data_dir, args.run, args.files)
    if args.name == "web":
        return measure(args.name, args.photos, args.files)
    if args.name == "serve":
        return measure(args.name, args.seconds)
    if args.name == "resize":
        return measure(args.name, args.photos)
    options = [args.run, args.data_dir, args.limit] if args.name in OF_A_RUN else []
    if args.name == "certainty":
        options += [args.photos, args.files]
    return measure(args.name, *options)


def measure(name, *options):
    """Runs a benchmark and writes its file; "all" runs each in a process of its own."""
    from benchmarks.interleave import result_path
    from keras_cifar.environment import cpu_name, package_versions
    from keras_cifar.files import atomic_path
    from keras_cifar.speed.engine import engine_name

    if name == "all":  # each in a process of its own, which decides about its threads
        for one in NAMES:
            subprocess.run([sys.executable, "-m", "benchmarks", one], check=True)
        print(json.dumps({one: json.loads(result_path(f"{one}.json").read_text()) for one in NAMES}))
        return
    figures = importlib.import_module(f"benchmarks.{_MODULES.get(name, name)}").measure(*options)
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    machine = {"cpu": cpu_name(), "settings": settings, "engine": engine_name(), "packages": package_versions()}
    line = json.dumps({**machine, **figures})
    with atomic_path(result_path(f"{name}.json")) as partial:
        partial.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    sys.exit(main())
