"""keras_cifar: from a pretrained Keras backbone to an image classifier, in four levels.

examples:
  python cli.py demo                                   all levels on embedded data, a few minutes
  python cli.py train --level 2                        CIFAR-10, ResNet-18, downloads what it needs
  python cli.py train --level all --backbone efficientnet_lite0
  python cli.py train --level 1 --data folder:photos   one subfolder per class
  python cli.py evaluate runs/cifar10-resnet18-seed0/level2 --split test
  python cli.py report runs/cifar10-resnet18-seed0
  python cli.py doctor                                 what is at hand and what is missing
"""

import argparse
import logging
import os
import sys
import tempfile

from keras_cifar.errors import InputError
from keras_cifar.recipes import LEVELS, flag, recipe_to_dict, resolve_recipe

_RECIPE_OPTIONS = {
    "data": (str, "cifar10, cifar100, digits or folder:PATH with one subfolder per class"),
    "backbone": (str, "resnet18, resnet50 or efficientnet_lite0"),
    "weights": (str, "imagenet, none, or a path to a KerasHub or timm folder, .safetensors or .pth"),
    "image_size": (int, "side in pixels inside the model, a multiple of 32"),
    "epochs": (int, "passes over the training images"),
    "batch_size": (int, "images a step"),
    "views": (int, "limit each image to N stored random crops; 0 draws a fresh one each epoch"),
    "learning_rate": (float, "Adam's learning rate at the start"),
    "seed": (int, "of weights, order, augmentation and dropout"),
    "precision": (str, "auto, float32 or bfloat16"),
    "limit": (int, "use only N training images, stratified, for a quick look"),
}


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-cifar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    levels = [*map(str, LEVELS), "all"]

    def add(name, function, text, examples=""):
        command = commands.add_parser(
            name, help=text, description=f"{text}\n\n{examples}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(function=function)
        return command

    train = add("train", _train, "train a level, or go on with an interrupted one", _TRAIN_EXAMPLES)
    train.add_argument("--level", required=True, choices=levels, help="which level; all trains the ladder")
    _add_recipe_options(train)
    train.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")
    train.add_argument("--run-dir", metavar="DIR", help="run folder; for --level all the folder of the levels")
    train.add_argument("--init-from", metavar="RUN", help="start from this run's best weights")
    train.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    train.add_argument("--skip-bad-images", action="store_true", help="leave out unreadable images of a folder")

    evaluate = add("evaluate", _evaluate, "evaluate a finished run, with and without flip TTA", _EVALUATE_EXAMPLES)
    evaluate.add_argument("run", metavar="RUN", help="run folder")
    evaluate.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    evaluate.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True, help="also with flip TTA")
    evaluate.add_argument("--data-dir", metavar="DIR", help="default: where the run was trained from")

    show = add("show", _show, "print a level's resolved recipe and its parameters by stage", _SHOW_EXAMPLES)
    show.add_argument("level", nargs="?", choices=levels, default="all")
    _add_recipe_options(show)

    report = add("report", _report, "write the table of levels over run folders, with pictures", _REPORT_EXAMPLES)
    report.add_argument("runs", nargs="*", default=["runs"], metavar="RUN", help="run folders, or folders of them")
    report.add_argument("--output", metavar="FILE", help="default: report.md in the first folder")

    doctor = add("doctor", _doctor, "say what this machine has, what is missing and how to get it")
    doctor.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data sets")

    demo = add("demo", _demo, "train and evaluate all levels on scikit-learn's digits, offline")
    demo.add_argument("--run-dir", metavar="DIR", default="runs/demo", help="default: runs/demo")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--overwrite", action="store_true", help="train finished levels again")
    return parser


_TRAIN_EXAMPLES = """examples:
  python cli.py train --level 2
  python cli.py train --level 1 --backbone efficientnet_lite0 --limit 2000
  python cli.py train --level all --data digits --backbone efficientnet_lite0
An interrupted run goes on when its command is repeated."""
_EVALUATE_EXAMPLES = """examples:
  python cli.py evaluate runs/cifar10-resnet18-seed0/level4 --split test
  python cli.py evaluate runs/cifar10-resnet18-seed0/level4 --split val --no-tta"""
_SHOW_EXAMPLES = """examples:
  python cli.py show 3
  python cli.py show 4 --backbone efficientnet_lite0"""
_REPORT_EXAMPLES = """examples:
  python cli.py report runs/cifar10-resnet18-seed0
  python cli.py report runs --output report.md"""


def _add_recipe_options(command):
    for field, (kind, text) in _RECIPE_OPTIONS.items():
        command.add_argument(flag(field), type=kind, metavar=field.upper().split("_")[-1], help=text)


def _recipe_changes(args):
    return {field: getattr(args, field) for field in _RECIPE_OPTIONS}


def _chosen_levels(level):
    return list(LEVELS) if level == "all" else [int(level)]


def _train(args):
    from keras_cifar.train import train_levels

    recipes = [resolve_recipe(level, **_recipe_changes(args)) for level in _chosen_levels(args.level)]
    runs = train_levels(recipes, args.run_dir, args.data_dir, args.init_from, args.overwrite, args.skip_bad_images)
    print(f"next: python cli.py evaluate {runs[-1].path} --split test")


def _evaluate(args):
    from keras_cifar.evaluate_run import evaluate_run
    from keras_cifar.evaluate_split import describe_evaluation
    from keras_cifar.runs import open_run

    run = open_run(args.run)
    result = evaluate_run(run, args.split, args.tta, args.data_dir)
    print("\n".join(describe_evaluation(result, f"level {run.recipe.level}")))
    print(f"written to {run.file(f'evaluation_{args.split}.json')} and {run.file('confusion.png')}")


def _show(args):
    from keras_cifar.model import stage_parameters

    for level in _chosen_levels(args.level):
        recipe = resolve_recipe(level, **_recipe_changes(args))
        print(f"Level {level}: {recipe.title}")
        for name, value in recipe_to_dict(recipe).items():
            if name not in ("level", "title"):
                print(f"  {name:18} {', '.join(value) or '-' if isinstance(value, list) else value}")
        print(f"  {'stage':10} {'trainable':>12} {'frozen':>12}")
        for stage, trainable, frozen in stage_parameters(recipe):
            print(f"  {stage:10} {trainable:12,} {frozen:12,}")
        print()


def _report(args):
    from keras_cifar.report import find_runs, markdown_table, write_report

    runs = find_runs(args.runs)
    path = write_report(runs, args.output or os.path.join(args.runs[0], "report.md"))
    print(markdown_table(runs))
    print(f"written to {path}")


def _doctor(args):
    from keras_cifar.doctor import diagnose

    for state, name, text in diagnose(args.data_dir):
        print(f"{state:8} {name:28} {text}")


def _demo(args):
    from keras_cifar.demo import run_demo

    report = run_demo(args.run_dir, args.overwrite, args.seed)
    print(f"everything lies in {args.run_dir}; the report with its pictures is {report}")
    print("next: python cli.py train --level 1 --backbone efficientnet_lite0   (CIFAR-10)")


def _import_quietly():
    """Imports TensorFlow with its native start-up messages held back, and shown only if it fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf

            tf.constant(0)
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def main(argv=None) -> int:
    """Runs one command; returns the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        _import_quietly()
        args.function(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; repeat the command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
