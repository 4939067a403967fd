"""From a pretrained Keras backbone to a deployed image classifier, in progressive levels.

The public API; each name is imported when it is first used, so that importing the package is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_cifar.libraries import configure_libraries

if TYPE_CHECKING:
    from keras_cifar.data.access import DataAccess
    from keras_cifar.data.datasets import open_data
    from keras_cifar.evaluation.evaluate_run import evaluate
    from keras_cifar.recipes import LEVELS, Recipe, resolve_recipe
    from keras_cifar.runs.run import open_run
    from keras_cifar.training.job import Job
    from keras_cifar.training.train import train, train_levels

__version__ = "0.1.0"
__all__ = [
    "LEVELS",
    "DataAccess",
    "Job",
    "Recipe",
    "evaluate",
    "open_data",
    "open_run",
    "resolve_recipe",
    "train",
    "train_levels",
]
_MODULES = {
    "LEVELS": "keras_cifar.recipes",
    "DataAccess": "keras_cifar.data.access",
    "Job": "keras_cifar.training.job",
    "Recipe": "keras_cifar.recipes",
    "evaluate": "keras_cifar.evaluation.evaluate_run",
    "open_data": "keras_cifar.data.datasets",
    "open_run": "keras_cifar.runs.run",
    "resolve_recipe": "keras_cifar.recipes",
    "train": "keras_cifar.training.train",
    "train_levels": "keras_cifar.training.train",
}

configure_libraries()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
