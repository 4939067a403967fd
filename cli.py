"""keras_cifar: from a pretrained Keras backbone to an image classifier, in five levels.

examples:
  python cli.py demo                                   all levels on embedded data, a few minutes
  python cli.py train --level 2                        CIFAR-10, ResNet-18, downloads what it needs
  python cli.py train --level all --backbone efficientnet_lite0
  python cli.py train --level 1 --data folder:photos   one subfolder per class
  python cli.py evaluate runs/cifar10-resnet18-seed0/level2 --split test
  python cli.py report runs/cifar10-resnet18-seed0
  python cli.py lr-range --level 3                     the learning-rate range test
  python cli.py tune --level 3                         search the learning rate
  python cli.py export runs/cifar10-resnet18-seed0/level4 --int8
  python cli.py predict photo.jpg                      with the classifier that comes with the package
  python cli.py serve                                  a server and a page with it, on this machine alone
  python cli.py doctor                                 what is installed and what is missing
"""

import argparse
import dataclasses
import functools
import importlib.util
import logging
import os
import pathlib
import shutil
import sys
import textwrap
from typing import Any

from keras_cifar.checks import UNSET, Number, Weights, parse_number
from keras_cifar.data.specs import STORES, source_of
from keras_cifar.errors import InputError
from keras_cifar.exclude_list import ImageNames
from keras_cifar.names import visible
from keras_cifar.program import as_started, install_hint, program
from keras_cifar.recipes import (
    FIELDS,
    LEVELS,
    OPTION_FIELDS,
    flag,
    load_changes,
    recipe_to_dict,
    resolve_recipe,
)
from keras_cifar.terminal import hold_stderr, safe_terminal
from keras_cifar.training.observers import OBSERVERS, observers_for
from tuning.search_space import ORACLE_NAMES, SEARCHABLE, Plan, RangeTest

_LEVELS = [*map(str, LEVELS), "all"]
_PUBLISHED = "cifar10-jpeg-efficientnet_lite0"  # the ladder in results/ that `verify` repeats


class _Parser(argparse.ArgumentParser):
    """Refuses a command in one sentence, without the usage; its help has commands as this process was started."""

    def __init__(self, *, description, **options):
        options = {"formatter_class": argparse.RawDescriptionHelpFormatter, **options}
        super().__init__(description=as_started(description), **options)

    def error(self, message):
        raise InputError(f"Expected arguments that `{self.prog} --help` lists, but {message}; correct the command.")


def _parser():
    parser = _Parser(prog=program(), description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, function, text, examples=""):
        command = commands.add_parser(name, help=text, description=f"{text}\n\n{examples}")
        command.set_defaults(function=function)
        return command

    _add_training_commands(add)
    _add_tuning_commands(add)
    _add_export_commands(add)
    _add_serve_command(add)
    _add_insight_commands(add)
    _add_other_commands(add)
    return parser


def _add_training_commands(add):
    train = add("train", _train, "train a level, or resume an interrupted run", _TRAIN_EXAMPLES)
    train.add_argument("--level", required=True, choices=_LEVELS, help="which level; all trains the ladder")
    _add_recipe_options(train)
    train.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")
    train.add_argument("--run-dir", metavar="DIR", help="run folder; for --level all the folder of the levels")
    train.add_argument("--init-from", metavar="RUN", help="start from this run's best weights")
    train.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    text = (
        "train the finished run of the same options, or of another seed, again, on train and val together, for the "
        "epochs that val chose"
    )
    train.add_argument("--refit", action="store_true", help=text)
    text = f"of {', '.join(OBSERVERS)}, with commas; csv is always written"
    train.add_argument("--log-to", metavar="LOGGERS", help=text)
    text = "train together with the processes that the same command starts on other machines; needs JAX"
    train.add_argument("--machines", type=parse_number, metavar="N", help=text)
    text = "with --machines: where they meet, on machine 0"
    train.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    text = "with --machines: which this one is, from 0; machine 0 writes the run folder"
    train.add_argument("--machine", type=parse_number, metavar="I", help=text)
    _add_reading_options(train)

    text = "average the weights of runs that started from the same ones (a model soup): a better run at no cost in use"
    average = add("average", _average, text, _AVERAGE_EXAMPLES)
    average.add_argument("runs", nargs="+", metavar="RUN", help="finished runs of one level, of several seeds")
    text = "folder of the mean, a run as any other; default: FIRST-mean"
    _add_options_of_untrained(average, text, "the first refit, or else the first run,")

    text = "write the run of an exported file again, where its folder is gone, to start from, evaluate or export"
    restore = add("restore", _restore, text, _RESTORE_EXAMPLES)
    text = "of frozen batch norms, in float32 or INT8; default: the package's CIFAR-10 classifier"
    restore.add_argument("file", nargs="?", metavar="FILE.onnx", help=text)
    text = "folder of the run; default: that of its recipe in runs/"
    _add_options_of_untrained(restore, text, "the run")

    text = "evaluate a finished run or an exported file, with and without flip TTA"
    evaluate = add("evaluate", _evaluate, text, _EVALUATE_EXAMPLES)
    text = "run folder, or a file that `export` wrote; with --shift several, in one picture"
    evaluate.add_argument("models", nargs="+", metavar="RUN|FILE.onnx", help=text)
    evaluate.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    evaluate.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True, help="also with flip TTA")
    evaluate.add_argument("--data", help="see `train`; default: where the run was trained from")
    text = "default: where the run was trained from; for a file: TFDS' own place"
    evaluate.add_argument("--data-dir", metavar="DIR", help=text)
    _add_reading_options(evaluate)
    text = (
        "on other images: corruptions, one of them such as fog, jpeg[:QUALITY], scale, rotate, or cifar10.1, cifar10c "
    )
    evaluate.add_argument("--shift", metavar="NAME", help=f"{text}or cifair with :PATH")
    text = "with --shift: this many images, the same share of each class"
    evaluate.add_argument("--limit", type=parse_number, metavar="N", help=text)
    text = "with --shift and several: their picture, with a table next to it; default: next to the first"
    evaluate.add_argument("--output", metavar="FILE.png", help=text)
    evaluate.add_argument("--provider", metavar="NAME", default="onnxruntime", help="for a file: or openvino")


def _add_tuning_commands(add):
    lr_range = add("lr-range", _lr_range, "run the learning-rate range test of a level", _LR_RANGE_EXAMPLES)
    _add_search_options(lr_range)
    for name, text in (("low", "first rate"), ("high", "last rate"), ("steps", "at most")):
        default, metavar = getattr(RangeTest, name), "N" if name == "steps" else "RATE"
        text = f"{text}; default: {default:g}"
        lr_range.add_argument(f"--{name}", type=parse_number, default=default, metavar=metavar, help=text)

    tune = add("tune", _tune, "search a level's learning rate, or resume an interrupted search", _TUNE_EXAMPLES)
    _add_search_options(tune)
    tune.add_argument("--search", default="learning_rate", metavar="FIELDS", help=_SEARCH_HELP)
    tune.add_argument("--oracle", choices=ORACLE_NAMES, default=Plan.oracle)
    tune.add_argument(
        "--trials", type=parse_number, default=30, metavar="N", help="in addition to the level's default; default: 30"
    )
    tune.add_argument(
        "--executions-per-trial", type=parse_number, default=1, metavar="N", help="seeds per trial; default: 1"
    )
    tune.add_argument("--max-minutes", type=parse_number, metavar="N", help="start no trial after this time")
    tune.add_argument("--overwrite", action="store_true", help="start the search in the folder again")
    tune.add_argument("--chief", metavar="HOST:PORT", help="hand out trials there to workers (private network only)")
    tune.add_argument("--worker", metavar="NAME", help="be a worker of --chief; the same name again after a crash")


def _add_insight_commands(add):
    report = add("report", _report, "write the table of levels over run folders, with pictures", _REPORT_EXAMPLES)
    report.add_argument("runs", nargs="*", default=["runs"], metavar="RUN", help="run folders, or folders of them")
    report.add_argument("--output", metavar="FILE", help="default: report.md in the first folder")
    report.add_argument(
        "--html", metavar="FILE", help="the same as a page, with images; default: .html beside --output"
    )
    report.add_argument("--data", help="where the images are now, if not where the runs were trained from")
    report.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")

    compare = add("compare", _compare, "say whether one classifier is better than another", _COMPARE_EXAMPLES)
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, or the evaluation_SPLIT.json that `evaluate` writes for a "
        "file; each is compared with the first"
    )  # fmt: skip
    compare.add_argument("--split", choices=("test", "val"), default="test")
    compare.add_argument(
        "--view", choices=("plain", "tta", "selective"), help="default: the one that each is judged by"
    )
    compare.add_argument("--output", metavar="FILE.csv", help="also write the images that only some get right")

    verify = add("verify", _verify, "train a published result again: does the number come out?", _VERIFY_EXAMPLES)
    verify.add_argument("--level", required=True, type=int, choices=LEVELS, help="which level")
    verify.add_argument(
        "--results", metavar="FOLDER", help="runs that make the promise; their weights need not be there; default: "
        f"results/{_PUBLISHED} of a checkout"
    )  # fmt: skip
    verify.add_argument("--quick", action="store_true", help="a slice of it: the runs of FOLDER-quick")
    verify.add_argument("--seed", type=parse_number, default=0, help="whose run to repeat; default: 0")
    verify.add_argument("--run-dir", metavar="DIR", help="default: runs/verify-FOLDER-seedS")
    verify.add_argument("--data", help="where the data is now, if not where the recipe says; see `train`")
    verify.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")
    _add_reading_options(verify)

    text = "look for wrong labels, copies, odd images and uneven classes before training"
    check = add("check", _check, text, _CHECK_EXAMPLES)
    check.add_argument("--data", help="see `train`; default: the data of --run")
    check.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")
    check.add_argument(
        "--backbone", metavar="NAME|none", help="pretrained network by which doubtful labels and cropped and mirrored "
        "copies are found; default: one whose weights are installed as a pip package, else none"
    )  # fmt: skip
    check.add_argument("--run", help="a finished run, which judges the labels of val and test instead")
    text = "doubtful labels to name at most, the least plausible first; default: 100"
    check.add_argument("--suspects", type=parse_number, default=100, metavar="N", help=text)
    check.add_argument("--output", metavar="FILE.csv", help="also write what was found, a row each")
    check.add_argument("--html", metavar="FILE.html", help="also write a page with the images that were found")
    text = "also write the images to leave out of training, for a person to shorten and `train --exclude` to take"
    check.add_argument("--fix-list", metavar="FILE.csv", help=text)
    check.add_argument("--store", choices=STORES, default="auto", help="see `train`")


def _add_other_commands(add):
    show = add("show", _show, "print a level's resolved recipe and its parameters by stage", _SHOW_EXAMPLES)
    show.add_argument("level", nargs="?", choices=_LEVELS, default="all")
    _add_recipe_options(show)

    doctor = add("doctor", _doctor, "say what this machine has, what is missing and how to get it")
    text = "an exported file: does it compute here what it did where it was exported, on each runtime?"
    doctor.add_argument("file", nargs="?", metavar="FILE", help=text)
    doctor.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")

    demo = add("demo", _demo, "train and evaluate all levels on scikit-learn's digits, offline")
    demo.add_argument("--run-dir", metavar="DIR", default="runs/demo", help="default: runs/demo")
    demo.add_argument("--seed", type=parse_number, default=0)
    demo.add_argument("--overwrite", action="store_true", help="train finished levels again")


def _add_export_commands(add):
    export = add("export", _export, "turn a finished run into one ONNX file, compared with Keras", _EXPORT_EXAMPLES)
    text = "run folder; or files that `export` wrote, or none for the package's, where only places are written to"
    export.add_argument("run", metavar="RUN|FILE.onnx", nargs="*", help=text)
    export.add_argument("--output", metavar="PATH", help="an .onnx file or a folder; default: the run folder")
    export.add_argument("--target", metavar="NAME", default="onnx", help="kind of file; default: onnx")
    text = "flip TTA, or selective: the second view only of images that it is not sure of; default: as the level"
    export.add_argument("--tta", nargs="?", const="all", choices=("all", "selective"), help=text)
    export.add_argument("--no-tta", action="store_const", const="none", dest="tta", help="one view")
    export.add_argument("--int8", action="store_true", help="quantise, within --max-drop")
    export.add_argument("--all", action="store_true", help="float32 and INT8, each plain and with TTA")
    export.add_argument("--temperature", action="store_true", help="calibrate the probabilities on val")
    text = "say unsure where the confidence is lower than that of this fraction of val, such as 0.05"
    export.add_argument("--reject", type=parse_number, metavar="FRACTION", help=text)
    export.add_argument(
        "--max-drop", type=parse_number, default=0.5, metavar="POINTS", help="val top-1 that INT8 may lose"
    )
    export.add_argument("--force", action="store_true", help="write INT8 even where it is not faster")
    export.add_argument("--triton", metavar="DIR", help="also write into this Triton model repository")
    for name, metavar, text in _PLACES:
        export.add_argument(f"--{name}", metavar=metavar, help=text)
    export.add_argument("--overwrite", action="store_true", help="replace files that are already there")
    export.add_argument("--data", help="see `train`; default: where the run was trained from")
    export.add_argument("--data-dir", metavar="DIR", help="default: where the run was trained from")
    _add_reading_options(export)

    _add_predict(add)

    explain = add("explain", _explain, "draw where in images a run sees its evidence, as heat maps", _EXPLAIN_EXAMPLES)
    explain.add_argument("run", metavar="RUN", help="run folder")
    explain.add_argument("paths", nargs="+", metavar="IMAGE", help="images, as `predict` takes them")
    explain.add_argument("--class", dest="of_class", metavar="NAME", help="evidence for; default: what is predicted")
    text = "stage of the backbone to look at, such as P4 (finer); default: the last that the head reads"
    explain.add_argument("--tap", metavar="NAME", help=text)
    explain.add_argument("--output", metavar="FOLDER", help="for the pictures; default: heatmaps in the run folder")

    benchmark = add("benchmark", _benchmark, "measure exported files in turns", _BENCHMARK_EXAMPLES)
    benchmark.add_argument("files", nargs="+", metavar="FILE", help="of any kind that `export` writes")
    benchmark.add_argument("--run", metavar="RUN", help="also this run on Keras, as a SavedModel and on PyTorch")
    benchmark.add_argument("--output", metavar="FILE.json", default="benchmark.json", help="default: benchmark.json")


_PLACES = (
    ("ovms", "DIR", "also write a folder for OpenVINO Model Server"),
    (
        "web",
        "DIR",
        "also write a page that classifies in the browser, for any static host; a RUN: of --all's files",
    ),
    ("web-single", "FILE.html", "the same page as one file, which opens from the disk"),
    ("ort-web", "PATH", "archive or folder of onnxruntime-web; default: the cache, or npm's registry"),
    ("docker", "DIR", "also write a Dockerfile and a compose file that serve"),
)


def _add_serve_command(add):
    serve = add("serve", _serve, "answer images and tensors over HTTP, with a page at /", _SERVE_EXAMPLES)
    text = "files that `export` wrote, each a model of its name; default: the package's CIFAR-10 classifier"
    serve.add_argument("files", nargs="*", metavar="FILE.onnx", help=text)
    text = "address to listen on; default: 127.0.0.1, which other machines do not reach"
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=text)
    text = (
        "file with a token that requests must bring (Authorization: Bearer TOKEN); default: KERAS_CIFAR_TOKEN, or none"
    )
    serve.add_argument("--token-file", metavar="FILE", help=text)
    for name, default, metavar, text in _SERVE_LIMITS:
        serve.add_argument(
            f"--{name}", type=parse_number, default=default, metavar=metavar, help=f"{text}; default: {default}"
        )
    text = "default: onnxruntime-patient, whose threads do not spin; or onnxruntime, onnxruntime-exact, openvino"
    serve.add_argument("--provider", metavar="NAME", default="onnxruntime-patient", help=text)


_SERVE_LIMITS = (
    ("port", 8000, "PORT", "0 for any that is free"),
    ("batch", 64, "N", "images of one call of the runtime at most"),
    ("batch-delay", 5, "MS", "milliseconds that a call waits at most for images that are on their way"),
    ("queue", 1024, "N", "images of a model that wait at most; 503 beyond"),
    ("max-body", 16, "MIB", "size of a request at most; 413 beyond"),
    ("max-megapixels", 36, "N", "of an image that is decoded whole; a larger JPEG is decoded smaller, others get 400"),
    ("timeout", 30, "SECONDS", "in which headers and then body must have come; 408 beyond"),
    ("max-connections", 1000, "N", "at a time; 503 beyond"),
    ("threads", 0, "N", "of one call of the runtime, 0 for its own choice"),
)


def _add_predict(add):
    predict = add(
        "predict", _predict, "predict images: files, folders, globs, Parquet and tar files", _PREDICT_EXAMPLES
    )
    text = "images; put a RUN or FILE.onnx first to use it as the model; default: the package's CIFAR-10 classifier"
    predict.add_argument("paths", nargs="*", metavar="PATH", help=text)
    text = "images too, as PATH; may be repeated"
    predict.add_argument("--input", action="append", default=[], metavar="PATTERN", help=text)
    predict.add_argument("--top-k", type=parse_number, default=1, metavar="K", help="classes per image; default: 1")
    text = "default: parquet for FOLDER.parquet and with --engine ray, else table"
    predict.add_argument("--format", choices=("table", "json", "csv", "parquet"), help=text)
    text = "a file, or a folder for Parquet files with which a killed command goes on; default: the terminal"
    predict.add_argument("--output", metavar="PATH", help=text)
    predict.add_argument("--provider", metavar="NAME", default="onnxruntime", help="for a file: or openvino")
    predict.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: many processes or machines")
    text = "with --engine ray: of a running cluster, or auto; default: $RAY_ADDRESS, else a Ray of this machine's own"
    predict.add_argument("--address", metavar="HOST:PORT", help=text)
    text = "with --engine ray: processes with a classifier each; default: as many as the CPUs allow"
    predict.add_argument("--workers", type=parse_number, metavar="N", help=text)
    text = "with --engine ray: CPUs of each process; default: 1"
    predict.add_argument("--threads", type=parse_number, metavar="N", help=text)


_TRAIN_EXAMPLES = """examples:
  python cli.py train --level 2
  python cli.py train --level 1 --backbone efficientnet_lite0 --limit 2000
  python cli.py train --level all --data digits --backbone efficientnet_lite0
  python cli.py train --level 5 --refit
Repeat the command of an interrupted run to resume it."""
_LR_RANGE_EXAMPLES = """examples:
  python cli.py lr-range --level 3
  python cli.py lr-range --level 1 --backbone efficientnet_lite0 --high 10"""
_TUNE_EXAMPLES = """examples:
  python cli.py tune --level 3
  python cli.py tune --level 1 --backbone efficientnet_lite0 --oracle bayesian --trials 40
  python cli.py tune --level 3 --search learning_rate=1e-4:1e-2,dropout --limit 5000 --max-minutes 60
on several machines that share the folder DIR, in a private network (its gRPC has no authentication):
  python cli.py tune --level 3 --search-dir DIR --chief 10.0.0.1:8765
  python cli.py tune --level 3 --search-dir DIR --chief 10.0.0.1:8765 --worker a
  python cli.py tune --level 3 --search-dir DIR --chief 10.0.0.1:8765 --worker b
Repeat the command of an interrupted search to resume it; a finished one is only reported again."""
_SEARCH_HELP = f"of {', '.join(SEARCHABLE)}, with commas; FIELD=LOW:HIGH for another range"
_AVERAGE_EXAMPLES = """examples:
  python cli.py train --level 5 --seed 1 --init-from ladder/level3 --run-dir ladder/level5-seed1
  python cli.py average ladder/level5 ladder/level5-seed1 --run-dir ladder/level5-mean"""
_RESTORE_EXAMPLES = """examples:
  python cli.py restore deployed/level4_int8.onnx --run-dir runs/photos/level4 --data folder:photos
  python cli.py train --level 5 --data folder:photos --init-from runs/photos/level4 --run-dir runs/photos/level5
  python cli.py restore --run-dir runs/packaged"""
_EVALUATE_EXAMPLES = """examples:
  python cli.py evaluate runs/cifar10-resnet18-seed0/level4 --split test
  python cli.py evaluate runs/cifar10-resnet18-seed0/level4 --split val --no-tta
  python cli.py evaluate runs/cifar10-resnet18-seed0/level4/level4_int8_tta.onnx --data cifar10
  python cli.py evaluate runs/cifar10-resnet18-seed0/level* --shift corruptions --limit 1000
  python cli.py evaluate runs/cifar10-resnet18-seed0/level4 --shift cifar10.1:CIFAR-10.1/datasets
Repeat an interrupted command with --shift to resume it."""
_EXPORT_EXAMPLES = """examples:
  python cli.py export runs/cifar10-resnet18-seed0/level4
  python cli.py export runs/cifar10-resnet18-seed0/level4 --int8 --temperature --output classifier.onnx
  python cli.py export runs/cifar10-resnet18-seed0/level4 --all --output exported --triton models
  python cli.py export runs/cifar10-resnet18-seed0/level4 --web page
  python cli.py export level4_int8_tta.onnx --docker container
  python cli.py export --web-single page.html          the package's own classifier, on a page
  python cli.py export runs/cifar10-resnet18-seed0/level4 --tta selective --reject 0.05 --temperature"""
_PREDICT_EXAMPLES = """examples:
  python cli.py predict photo.jpg
  python cli.py predict runs/cifar10-resnet18-seed0/level4/level4_int8_tta.onnx photos --top-k 3
  python cli.py predict runs/cifar10-resnet18-seed0/level4 "photos/*.png" --format csv --output predictions.csv
  python cli.py predict classifier.onnx --input "shards/{000..015}.tar" --output predictions.parquet
  python cli.py predict classifier.onnx --engine ray --input photos --output predictions --workers 8
An image that cannot be read is a row with its reason; the exit code is then 1."""
_EXPLAIN_EXAMPLES = """examples:
  python cli.py explain runs/cifar10-resnet18-seed0/level4 photo.jpg
  python cli.py explain runs/cifar10-resnet18-seed0/level4 photos --class cat --output heatmaps
An image that cannot be read is a line with its reason; the exit code is then 1."""
_SERVE_EXAMPLES = """examples:
  python cli.py serve                                  then open http://127.0.0.1:8000
  python cli.py serve level4_int8_tta.onnx level5_int8.onnx --port 8080
  curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
  curl -F a=@one.jpg -F b=@two.png "http://127.0.0.1:8000/predict?top_k=3"
A file that changes is loaded again while requests go on. Ctrl-C or SIGTERM answers what has come, then stops.
/openapi.json describes the requests, /metrics is for Prometheus, and /v2 is the Open Inference Protocol."""
_BENCHMARK_EXAMPLES = """examples:
  python cli.py benchmark level4_fp32.onnx level4_int8.onnx level4_int8_tta.onnx
  python cli.py benchmark level4_fp32.onnx level4_int8.onnx --run runs/cifar10-resnet18-seed0/level4"""
_SHOW_EXAMPLES = """examples:
  python cli.py show 3
  python cli.py show 4 --backbone efficientnet_lite0"""
_COMPARE_EXAMPLES = """examples:
  python cli.py compare runs/photos/level3 runs/photos/level4
  python cli.py compare runs/photos/level4 level4_int8_evaluation_test.json --view plain --output changed.csv"""
_VERIFY_EXAMPLES = """examples:
  python cli.py verify --level 3
  python cli.py verify --level 3 --quick
Repeat the command of an interrupted run to resume it. Exit code: 0 verified, 1 not."""
_CHECK_EXAMPLES = """examples:
  python cli.py check --data folder:photos
  python cli.py check --data cifar10 --output findings.csv --html findings.html
  python cli.py check --run runs/cifar10-resnet18-seed0/level4 --html findings.html
  python cli.py check --data folder:photos --fix-list fix.csv    then look, shorten it, and
  python cli.py train --level 1 --data folder:photos --exclude fix.csv"""
_REPORT_EXAMPLES = """examples:
  python cli.py report runs/cifar10-resnet18-seed0
  python cli.py report runs --output report.md"""


def _add_recipe_options(command):
    for field in OPTION_FIELDS:
        info = FIELDS[field]
        kind = info.rule.parse if isinstance(info.rule, Number) else str
        metavar = field.upper().split("_")[-1]
        command.add_argument(flag(field), type=kind, metavar=metavar, default=UNSET, help=info.help_text)
    command.add_argument(
        "--recipe", metavar="FILE", help="take a recipe's fields from a JSON file; options override it"
    )


def _add_search_options(command):
    command.add_argument("--level", required=True, type=int, choices=LEVELS, help="which level")
    _add_recipe_options(command)
    command.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")
    command.add_argument("--search-dir", metavar="DIR", help="default: tune-levelN next to the level's run")
    command.add_argument("--init-from", metavar="RUN", help="start from this run's best weights")
    _add_reading_options(command)


def _add_options_of_untrained(parser, run_dir, trained):
    """Those of a command that writes a finished run without training it."""
    parser.add_argument("--run-dir", metavar="DIR", help=run_dir)
    parser.add_argument("--data", help=f"where the images are now, if not where {trained} was trained from")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    _add_reading_options(parser)


def _add_reading_options(command):
    command.add_argument("--skip-bad-images", action="store_true", help="leave out unreadable image files")
    text = "where the pixels of image files are kept: memory, a mapped file, or nowhere (stream); default: as they fit"
    command.add_argument("--store", choices=STORES, default="auto", help=text)
    text = "read all image files again, not only a sample of those read earlier"
    command.add_argument("--verify-data", action="store_true", help=text)
    text = "use data that differs from the data of the training; it is recorded"
    command.add_argument("--allow-changed-data", action="store_true", help=text)


def _resolve(args, level):
    """The recipe of a level with the changes of --recipe, and over them those of the other options."""
    changes = {} if args.recipe is None else load_changes(args.recipe, level)
    options = {field: getattr(args, field) for field in OPTION_FIELDS}
    options = {field: value for field, value in options.items() if value is not UNSET}
    for field in options:
        if isinstance(rule := FIELDS[field].rule, (Weights, ImageNames)):  # here: argparse would swallow its sentence
            options[field] = rule.parse(options[field])
    return resolve_recipe(level, **changes | options)


def _chosen_levels(level):
    return list(LEVELS) if level == "all" else [int(level)]


def _train(args):
    recipes = [_resolve(args, level) for level in _chosen_levels(args.level)]
    observers = observers_for(args.log_to)
    _check_machines(args)
    _import_quietly()
    from keras_cifar.training.train import refit, train_levels

    job = dataclasses.replace(_job(args, args.run_dir), observers=observers, machines=_machines(args))
    if not args.refit:
        runs = train_levels(recipes, job)
    elif len(recipes) == 1:
        runs = [refit(recipes[0], job)]
    else:
        raise InputError("Expected --refit with one level, but got it with --level all; name one --level.")
    if job.machines is None or job.machines.writes:
        print(_next_evaluation(runs[-1], runs[-1].path))


def _average(args):
    _import_quietly()
    from keras_cifar.training.average import average

    run = average(args.runs, _job(args, args.run_dir))
    print(_next_evaluation(run, run.path))


def _restore(args):
    _import_quietly()
    from export.restore import restore

    run = restore(args.file, _job(args, args.run_dir))
    print(_next_evaluation(run, run.path))


def _check_machines(args):
    """What needs no import; Keras is to run on JAX then."""
    if args.machines is None:
        for name in ("coordinator", "machine"):
            if getattr(args, name) is not None:
                raise InputError(f"Expected --{name} with --machines N, but got it without; add that.")
        return
    if args.machines != 1 and (args.coordinator is None or args.machine is None):
        raise InputError(
            "Expected --machines N with --coordinator HOST:PORT and --machine I, but not all came; add them."
        )
    if args.level == "all" or args.refit:
        raise InputError("Expected --machines with one level, not with --level all or --refit; train level by level.")
    if importlib.util.find_spec("jax") is None:
        raise InputError(f"Expected JAX for --machines, but it is not installed; {install_hint('jax')}.")
    os.environ.setdefault("KERAS_BACKEND", "jax")


def _machines(args):
    if args.machines is None:
        return None
    from keras_cifar.training.machines import Machines

    machines = Machines(args.machines, args.machine or 0, args.coordinator or "127.0.0.1:1")
    machines.check()
    return machines


def _next_evaluation(run, model):
    return f"next: {program()} evaluate {model} --split {'test' if run.has_test else 'val'}"


def _access(args):
    """How a command reaches its images."""
    from keras_cifar.data.access import DataAccess

    # Of a training, --data is a field of its recipe.
    data = None if hasattr(args, "level") else args.data
    return DataAccess(data, args.data_dir, args.skip_bad_images, args.allow_changed_data, args.store, args.verify_data)


def _job(args, folder):
    from keras_cifar.training.job import Job

    return Job(folder, _access(args), getattr(args, "init_from", None), getattr(args, "overwrite", False))


def _lr_range(args):
    recipe, test = _resolve(args, args.level), RangeTest(args.low, args.high, args.steps)
    test.check()
    _import_quietly()
    from tuning.lr_range import lr_range

    folder, suggestion = lr_range(recipe, test, _job(args, args.search_dir))
    around = f"{suggestion / 10:.2g}:{suggestion * 10:.2g}"
    print(f"next: {program()} tune --level {args.level} --search learning_rate={around} --search-dir {folder}")


def _tune(args):
    if importlib.util.find_spec("keras_tuner") is None:
        raise InputError(f"Expected KerasTuner to search with, but it is not installed; {install_hint('tune')}.")
    from tuning.distributed import Team
    from tuning.search_space import check_minutes

    plan = Plan(_resolve(args, args.level), args.search, args.oracle, args.trials, args.executions_per_trial)
    plan.check()
    check_minutes(args.max_minutes)
    team = Team(args.chief, args.worker)
    team.check()
    _import_quietly()
    from tuning.search import search

    folder = search(plan, _job(args, args.search_dir), args.max_minutes, team)
    if args.worker is None:
        print(f"next: {program()} train --level {args.level} --recipe {folder}/best_recipe.json")


def _evaluate(args):
    if args.shift is not None:
        return _evaluate_shift(args)
    for name in ("limit", "output"):
        if getattr(args, name) is not None:
            raise InputError(f"Expected --{name} with --shift NAME, but got it without; add that.")
    from keras_cifar.evaluation.evaluate_split import describe_evaluation

    for model in args.models:
        result, owner, written = (_evaluate_file if _is_file(model) else _evaluate_run)(args, model)
        print("\n".join(describe_evaluation(result, owner)))
        print(f"written to {written[0]} and {written[1]}")


def _is_file(model):
    from export.kinds import is_exported_name

    return is_exported_name(model)


def _evaluate_run(args, model):
    _import_quietly()
    from keras_cifar.evaluation.evaluate_run import run_subject
    from keras_cifar.evaluation.evaluate_split import evaluate_split
    from keras_cifar.runs.run import open_run

    run, access = open_run(model), _access(args)
    subject, source, changes = run_subject(run, args.split, args.tta, access)
    result = evaluate_split(subject, source, args.split, changes, access)
    return result, f"level {run.recipe.level}", (subject.figures, subject.picture)


def _evaluate_file(args, model):
    from export.card import card_path, is_edited
    from export.evaluate_onnx import evaluate_onnx, evaluation_paths

    classifier = _open_to_evaluate(args, model)
    result = evaluate_onnx(classifier, args.split, args.tta, _access(args))
    path = pathlib.Path(model)
    if is_edited(path, classifier.metadata):
        print(f"{card_path(path)} was edited: it is left as it is")
    return result, path.name, evaluation_paths(path, args.split)


def _open_to_evaluate(args, model):
    from export.open_file import open_file

    classifier = open_file(model, args.provider)
    data = args.data or classifier.metadata.recipe["data"]
    if (source := source_of(data)) and source.needs_tensorflow:
        _import_quietly()
    return classifier


def _evaluate_shift(args):
    from keras_cifar.evaluation.shifts import (
        ShiftPlan,
        check_shift,
        describe_differences,
        describe_shift,
        shared_picture,
        write_shifts,
    )
    from keras_cifar.files import check_output

    plan = ShiftPlan(args.shift, args.split, args.limit, args.tta)
    check_shift(plan)
    if args.output:
        check_output(args.output)
    results, paths = {}, []
    for model in dict.fromkeys(args.models):
        results[model], path = (_shift_of_file if _is_file(model) else _shift_of_run)(args, model, plan)
        paths.append(path)
        print("\n".join(describe_shift(results[model], model)))
        print(f"written to {path} and {path.with_suffix('.png').name}")
    if len(results) > 1:
        print("\n".join(describe_differences(results)))
        picture = args.output or shared_picture(paths[0], not _is_file(args.models[0]))
        written = write_shifts(results, picture)
        print(f"written to {written[0]} and {written[1]}")


def _shift_of_run(args, model, plan):
    _import_quietly()
    from keras_cifar.evaluation.evaluate_run import evaluate_run_shift
    from keras_cifar.runs.run import open_run

    return evaluate_run_shift(open_run(model), plan, _access(args))


def _shift_of_file(args, model, plan):
    from export.evaluate_onnx import evaluate_file_shift

    return evaluate_file_shift(_open_to_evaluate(args, model), plan, _access(args))


def _export(args):
    is_packed = any([args.web, args.web_single, args.docker, args.triton, args.ovms])
    if not is_packed and all(one.lower().endswith(".onnx") for one in args.run):
        raise InputError(
            "Expected a RUN, or with .onnx files a place to put them (--web, --web-single, --docker, --triton, "
            "--ovms), but got none; name one."
        )
    from export.packing import Packing, files_to_pack

    files = files_to_pack(args.run)
    packing = Packing(args.web, args.web_single, args.ort_web, args.docker, args.ovms, None, args.overwrite)
    if files is not None:
        packing = dataclasses.replace(packing, triton=args.triton)
    packing.check(args.target if files is None else "onnx")
    files = _exported(args, packing) if files is None else files
    if files and not packing.is_empty:
        packing.write(files)


def _exported(args, packing):
    """Exports a run; of a page without a choice of files, all of them, from which the page takes those of one view."""
    _import_quietly()
    from export.pipeline import export_run
    from export.plan import ExportPlan
    from export.serve.names import is_onnx
    from keras_cifar.runs.run import open_run

    tta = {"all": True, "none": False}.get(args.tta, args.tta)
    is_free = packing.has_page and tta is None and not args.int8 and not is_onnx(args.output or "")
    plan = ExportPlan(args.output, args.target, tta, args.int8, args.all or is_free, args.temperature, args.max_drop,
                      args.force or is_free, args.triton, args.overwrite, args.reject)  # fmt: skip
    run = open_run(args.run[0])
    paths = export_run(run, plan, _access(args))
    print(_next_evaluation(run, paths[-1]))
    return paths


def _predict(args):
    from export.classifier import PRETRAINED
    from export.inputs import find_inputs
    from export.predict import check_top_k, format_predictions, is_run, open_classifier, predict_inputs, split_model
    from keras_cifar.files import check_output, write_text

    check_top_k(args.top_k)
    model, patterns = split_model(args.paths, args.input)
    form, cluster = _predict_format(args), _cluster(args, is_run(model))
    if args.output and form != "parquet":
        check_output(args.output)
    if is_run(model):
        _import_quietly()
    inputs = find_inputs(patterns)
    read = [*inputs.local_paths(), *([model] if model else [])]
    if args.output and os.path.realpath(args.output) in map(os.path.realpath, read):
        raise InputError(
            f"Expected --output to differ from the files that are read, but got {args.output}; choose another."
        )
    classifier = open_classifier(model, args.provider)
    if model is None:
        print(f"with {PRETRAINED.stem}, the classifier of the package", file=sys.stderr)
    if form == "parquet":
        return _predict_to_parquet(classifier, inputs, args, cluster)
    rows = predict_inputs(classifier, inputs, args.top_k)
    text = format_predictions(rows, form)
    if args.output:
        write_text(args.output, text)
        print(f"{len(rows)} images, written to {args.output}", file=sys.stderr)
    else:
        print(text, end="")
    return int(any(row.error for row in rows))


def _predict_format(args):
    """What is written, where --output is a folder for it."""
    is_folder = args.engine == "ray" or (args.output or "").rstrip("/").endswith(".parquet")
    form = args.format or ("parquet" if is_folder else "table")
    if is_folder and form != "parquet":
        where = "--engine ray" if args.engine == "ray" else f"--output {args.output}"
        raise InputError(f"Expected {where} without --format, but got {form}; leave one out.")
    if form == "parquet" and not args.output:
        raise InputError("Expected --output FOLDER for the Parquet files, but got none; name a folder.")
    return form


def _cluster(args, is_of_run):
    """The `export.predict_ray.Cluster` that is asked for, checked; None without --engine ray."""
    given = {name: getattr(args, name) for name in ("address", "workers", "threads")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.engine != "ray":
        if given:
            raise InputError(f"Expected --{next(iter(given))} with --engine ray, but got it without; add that.")
        return None
    if is_of_run:
        raise InputError("Expected an exported file as the model of --engine ray, but got a run; `export` it first.")
    from export.predict_ray import Cluster

    cluster = Cluster(**given)
    cluster.check()
    return cluster


def _predict_to_parquet(classifier, inputs, args, cluster):
    if cluster is None:
        from export.predict_shards import predict_to_parquet

        found = predict_to_parquet(classifier, inputs, args.output, args.top_k)
    else:
        from export.predict_ray import predict_on_ray

        found = predict_on_ray(classifier, inputs, args.output, args.top_k, cluster)
    print(f"{found.images:,} images, written to {args.output}; {found.unreadable:,} cannot be read", file=sys.stderr)
    return int(found.unreadable > 0)


def _explain(args):
    from export.inputs import find_inputs, read_source
    from export.kinds import is_exported_name
    from keras_cifar.files import check_output_folder

    if is_exported_name(args.run):
        raise InputError(f"Expected a run folder to explain, but got the exported file {args.run}; name its run.")
    inputs, folder = find_inputs(args.paths), pathlib.Path(args.output or os.path.join(args.run, "heatmaps"))
    _import_quietly()
    from keras_cifar.evaluation.explain import PicturePaths, RunExplainer, explain_images
    from keras_cifar.runs.run import open_run

    run = open_run(args.run)
    check_output_folder(folder)
    explainer = RunExplainer(run, args.tap)
    class_index = explainer.class_index(args.of_class)
    images = (
        (name, functools.partial(read_source, content))
        for part in inputs.parts(max(1, len(inputs.files)))
        for name, content in part.images()
    )
    return int(explain_images(explainer, images, PicturePaths(folder, inputs.local_paths()), class_index) > 0)


def _benchmark(args):
    from export.benchmark import benchmark_files, describe_benchmark

    if args.run:
        _import_quietly()
    result, written = benchmark_files(args.files, args.run, args.output)
    print(describe_benchmark(result), end="")
    print(f"written to {written[0]} and {written[1]}")


def _serve(args):
    from export.serve.server import serve
    from export.serve.settings import ServeSettings, read_token

    limits = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name, *_ in _SERVE_LIMITS}
    settings = ServeSettings(host=args.host, token=read_token(args.token_file), provider=args.provider, **limits)
    serve(args.files, settings)


def _show(args):
    recipes = [_resolve(args, level) for level in _chosen_levels(args.level)]
    _import_quietly()
    from keras_cifar.model.build import stage_parameters

    for recipe in recipes:
        print(f"Level {recipe.level}: {recipe.title}")
        for name, value in recipe_to_dict(recipe).items():
            if name not in ("level", "title"):
                print(_field_line(name, _listed(value) if isinstance(value, list) else str(value)))
        print(f"  {'stage':10} {'trainable':>12} {'frozen':>12}")
        for stage, trainable, frozen in stage_parameters(recipe):
            print(f"  {stage:10} {trainable:12,} {frozen:12,}")
        print()


def _listed(names):
    """Names, of many the first."""
    return f"{', '.join(names[:5])}{', ...' * (len(names) > 5)}" or "-"


def _field_line(name, value):
    """A field of a recipe, its value and its help, wrapped to the terminal."""
    start = f"  {name:18} {value:18} "
    width = max(shutil.get_terminal_size().columns, len(start) + 30)
    return textwrap.fill(FIELDS[name].help_text, width, initial_indent=start, subsequent_indent=" " * len(start))


def _report(args):
    _import_quietly()
    from keras_cifar.data.access import DataAccess
    from keras_cifar.files import check_output
    from keras_cifar.page.page import write_page
    from keras_cifar.runs.report import find_runs, markdown_tables, write_report

    runs, output = find_runs(args.runs), pathlib.Path(args.output or os.path.join(args.runs[0], "report.md"))
    page = pathlib.Path(args.html or output.with_suffix(".html"))
    check_output(page)
    path = write_report(runs, output)
    print(markdown_tables(runs))
    write_page(runs, page, DataAccess(args.data, args.data_dir))
    print(f"written to {path} and, as a page, to {page}")


def _compare(args):
    _import_quietly()
    from keras_cifar.evaluation.compare_runs import compare_judged, describe_pairs, read_judged, write_changes
    from keras_cifar.files import check_output

    if args.output:
        check_output(args.output)
    pairs = compare_judged([read_judged(path, args.split, args.view) for path in args.runs])
    print("\n".join(describe_pairs(pairs)))
    if args.output:
        print(f"{write_changes(args.output, pairs):,} images written to {args.output}")


def _verify(args):
    folder = pathlib.Path(args.results or pathlib.Path(__file__).with_name("results") / _PUBLISHED)
    folder = folder.with_name(f"{folder.name}-quick") if args.quick else folder
    if not folder.is_dir():
        raise InputError(f"Expected published runs in {folder}, but there is no such folder; name one with --results.")
    _import_quietly()
    from keras_cifar.verify import describe_repetition, read_promise, verify

    job = _job(args, args.run_dir or pathlib.Path("runs", f"verify-{folder.resolve().name}-seed{args.seed}"))
    repetition = verify(read_promise(folder, args.level), args.seed, job, args.data)
    print("\n".join(describe_repetition(repetition)))
    return 0 if repetition.is_verified else 1


def _check(args):
    from keras_cifar.data.check import check_data
    from keras_cifar.files import check_output

    if args.data is None and args.run is None:
        raise InputError("Expected --data DATA or --run RUN to check, but got neither; name one.")
    FIELDS["limit"].rule.check("--suspects", args.suspects)
    for path in (args.output, args.fix_list, args.html):
        if path:
            check_output(path)
    source, seed, predict = _checked_source(args)
    if args.fix_list and seed and source.folder is None:
        raise InputError(
            f"Expected a run whose split_seed is 0 with --fix-list, as images of {source.label} are named by their "
            f"numbers in that split, but {args.run} has {seed}; leave one out."
        )
    source.say_notes(print)
    found = check_data(source, seed, _embedder(args.backbone), predict, args.suspects)
    source.say_notes(print)
    print("\n".join(found.lines))
    _write_checked(args, found)


def _checked_source(args):
    """The data to check, the seed of its val, and what a run says of the splits that it has not seen, None without."""
    from keras_cifar.data.access import DataAccess
    from keras_cifar.data.datasets import open_data

    access = DataAccess(args.data, args.data_dir, skip_bad_images=True, store=args.store)
    if args.run is None:
        return open_data(args.data, args.data_dir, reading=access.reading("crop")), 0, None
    _import_quietly()
    from keras_cifar.evaluation.inspection import open_judge
    from keras_cifar.runs.run import open_run

    run = open_run(args.run)
    source, predict = open_judge(run, access)
    return source, run.recipe.split_seed, predict


def _write_checked(args, found):
    from keras_cifar.data.findings import write_findings, write_fix_list

    if args.output:
        write_findings(args.output, found)
        print(f"{len(found.findings):,} findings, written to {args.output}")
    if args.html:
        from keras_cifar.evaluation.gallery import write_gallery

        write_gallery(args.html, found)
        print(f"their pictures are in {args.html}")
    if args.fix_list:
        from keras_cifar.runs.run import open_run

        count = write_fix_list(args.fix_list, found)
        data = args.data or open_run(args.run).recipe.data
        print(
            f"{count:,} images of train and val that one may want to leave out, written to {args.fix_list}: remove the "
            f"lines of those that are right\nnext: {program()} train --level 1 --data {data} --exclude {args.fix_list}"
        )


def _embedder(backbone):
    """What `check` finds cropped and mirrored copies and judges labels by; None without a backbone, which is said."""
    if backbone == "none":
        return None
    _import_quietly()
    if backbone is not None:
        resolve_recipe(3, backbone=backbone)  # known, or one sentence before images are read
    from keras_cifar.evaluation.inspection import embed, packaged_backbone

    backbone = backbone or packaged_backbone()
    if backbone is None:
        print(
            "Labels are not judged, and cropped and mirrored copies are not looked for: pass --backbone NAME, or "
            f"{install_hint('offline')}"
        )
        return None
    print(f"Labels, and cropped and mirrored copies, are judged by the features of {backbone} (--backbone)", flush=True)
    return functools.partial(embed, backbone=backbone, say=print)


def _doctor(args):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_cifar.doctor import diagnose

    if args.file is not None:
        return _doctor_of_file(args.file)
    for state, name, text in diagnose(args.data_dir):
        print(f"{state:8} {name:28} {text}", flush=True)


def _doctor_of_file(path):
    from export.doctor import diagnose_file

    has_failed = False
    for state, name, text in diagnose_file(path):
        print(f"{state:8} {name:28} {text}", flush=True)
        has_failed |= state == "failed"
    return int(has_failed)


def _demo(args):
    FIELDS["seed"].rule.check("--seed", args.seed)
    _import_quietly()
    from keras_cifar.demo import run_demo

    report = run_demo(args.run_dir, args.overwrite, args.seed)
    print(f"everything is in {args.run_dir}; the report with its pictures is {report}")
    print(f"next: {program()} train --level 1 --backbone efficientnet_lite0   (CIFAR-10)")


def _import_quietly():
    """Imports TensorFlow with its native start-up messages held back, and shown only if it fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow"):  # it warns that each level and trial compiles
        logging.getLogger(name).setLevel(logging.ERROR)
    with hold_stderr():
        import tensorflow as tf

        tf.constant(0)


def main(argv: Any = None) -> int:
    """Runs one command; returns the exit code: 0, 1 for unreadable images, 2 for bad input, 130 after Ctrl-C."""
    with safe_terminal():
        return _run(argv)


def _with_tta_spelled_out(words):
    """`export --tta RUN` is `export --tta=all RUN`: an option whose value may be missing would take RUN for it."""
    if words[:1] == ["export"]:
        pairs = zip(words, [*words[1:], ""], strict=True)
        bare = [word == "--tta" and after not in ("all", "selective") for word, after in pairs]
        return ["--tta=all" if is_bare else word for word, is_bare in zip(words, bare, strict=True)]
    return words


def _run(argv):
    try:
        args = _parser().parse_args(_with_tta_spelled_out(sys.argv[1:] if argv is None else list(argv)))
        code = args.function(args)
    except InputError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemError) as error:
        if not isinstance(error.__cause__ or error, KeyboardInterrupt):  # C code can turn one into the other
            raise
        print("\ninterrupted; repeat the command to resume", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "keras_cifar", "export", "tuning"):
            raise
        message = f"Expected the package {package}, but it is not installed here; {install_hint()}, or activate the"
        print(visible(f"error: {message} environment that has it."), file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = (str(error.strerror or error).splitlines() or [type(error).__name__])[0]
        where = f" {error.filename}" if error.filename else " a file"
        message = f"error: Expected to read or write{where}, but: {reason}; fix this and run the command again."
        print(visible(message), file=sys.stderr)
        return 2
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
