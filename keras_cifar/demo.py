"""The whole ladder on the digits that scikit-learn ships: no download, a few minutes on two cores."""

import pathlib
from collections.abc import Callable

from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.recipes import LEVELS, Recipe, resolve_recipe
from keras_cifar.runs.report import find_runs, markdown_tables, write_report
from keras_cifar.training.job import Job
from keras_cifar.training.train import train_levels

# Digits are few and far from photographs: more, shorter epochs than on CIFAR-10, at higher rates.
_EPOCHS = {1: 40, 2: 10, 3: 10, 4: 4, 5: 6}
_LEARNING_RATES = {1: 3e-3, 2: 2e-4, 3: 2e-4, 4: 1e-4, 5: 3e-4}


def demo_recipe(level: int, seed: int = 0) -> Recipe:
    """A level's recipe on digits with EfficientNet-Lite0."""
    return resolve_recipe(level, data="digits", backbone="efficientnet_lite0", epochs=_EPOCHS[level], views=0,
                          learning_rate=_LEARNING_RATES[level], schedule=LEVELS[level].schedule,
                          seed=seed)  # fmt: skip


def run_demo(
    run_dir: str = "runs/demo",
    overwrite: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = print,
    recipe_of: Callable[[int, int], Recipe] = demo_recipe,
) -> pathlib.Path:
    """Trains every level, evaluates each on test with and without TTA and writes the report.

    Levels that are already finished are kept.

    Args:
        run_dir: folder for the runs and report.md.
        overwrite: train finished levels again.
        seed: of every level.
        say: gets each line for the user.
        recipe_of: level, seed -> its recipe.

    Returns:
        The report's path.
    """
    root = pathlib.Path(run_dir)
    job = Job(root, overwrite=overwrite, say=say)
    for run in train_levels([recipe_of(level, seed) for level in LEVELS], job):
        if run.evaluation("test") is None:
            say(f"Evaluating level {run.recipe.level} on test, with and without flip TTA")
            evaluate(run, "test")
    runs = find_runs([str(root)])
    report = write_report(runs, root / "report.md")
    say("\n" + markdown_tables(runs))
    say("Digits are not mirror images of themselves, so flip TTA is shown but not used for them.")
    return report
