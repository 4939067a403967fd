"""An objective of a microsecond in place of a training, for tests of what is around the trials."""

import math
import time

import numpy as np
from conftest import job

from keras_cifar.files import atomic_path
from tuning.result import TrialResult
from tuning.search import Plan, search
from tuning.trial import CORRECT, WEIGHTS


class QuickRunner:
    """Scores a recipe by how near its learning rate is to .003, and writes what a trial writes.

    Args:
        seconds: that a trial takes.
        fail: recipe -> the error to raise, or None.
    """

    def __init__(self, seconds=0.0, fail=lambda recipe: None):
        self.seconds, self.fail = seconds, fail

    def begin(self, folder):
        pass

    def forget(self):
        pass

    def run(self, trial, is_best):
        recipe, folder = trial.recipe, trial.folder
        time.sleep(self.seconds)
        if error := self.fail(recipe):
            raise error
        distance = abs(math.log(recipe.learning_rate / 0.003))
        correct = np.zeros(1000, np.float32)
        correct[: int(1000 / (1 + distance))] = 1
        score = float(correct.mean())
        if is_best(score):
            (folder / WEIGHTS).write_text("weights")
        with atomic_path(folder / CORRECT) as partial:
            np.save(partial, correct)
        result = TrialResult(**trial.about, score=score, scores=[score], watched_top1=score, best_epoch=1,
                             epochs=trial.stop_epoch or recipe.epochs, passes_saved=0, passes_done=0,
                             seconds=self.seconds)  # fmt: skip
        result.write(folder)
        return result


def quick_search(plan: Plan, folder, seconds=0.0, fail=lambda recipe: None, max_minutes=None, team=None, **options):
    """A search with a `QuickRunner`; the options are those of `conftest.job`."""
    where = job(folder, **{"say": lambda line: None, **options})
    return search(plan, where, max_minutes, team, lambda: QuickRunner(seconds, fail))
