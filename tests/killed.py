"""The tiny command line, killed without warning: `python tests/killed.py FIT STEP train ...`.

That is in the process's training number FIT, when it has taken step STEP and not yet saved it.
"""

import itertools
import os
import signal
import sys

import tiny  # noqa: F401

import cli
from keras_cifar.training.fit import Fit

if __name__ == "__main__":
    number, step = map(int, sys.argv[1:3])
    counter, steps = itertools.count(1), Fit.steps

    def steps_until_killed(fit, *args):
        is_doomed = next(counter) == number
        for row in steps(fit, *args):
            if is_doomed and fit.progress.step >= step:
                os.kill(os.getpid(), signal.SIGKILL)
            yield row

    Fit.steps = steps_until_killed
    sys.exit(cli.main(sys.argv[3:]))
