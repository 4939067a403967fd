"""From a pretrained Keras backbone to a deployed image classifier, in progressive levels.

The public API; each name is imported when it is first used, so that importing the package is instant.
"""

from typing import TYPE_CHECKING

from keras_cifar.libraries import configure_libraries, lazy_names

if TYPE_CHECKING:
    from keras_cifar.data.access import DataAccess
    from keras_cifar.data.datasets import open_data
    from keras_cifar.evaluation.evaluate_run import evaluate
    from keras_cifar.recipes import LEVELS, Recipe, resolve_recipe
    from keras_cifar.runs.run import open_run
    from keras_cifar.training.job import Job
    from keras_cifar.training.train import refit, train, train_levels

__version__ = "0.1.0"
__all__ = [
    "LEVELS",
    "DataAccess",
    "Job",
    "Recipe",
    "evaluate",
    "open_data",
    "open_run",
    "refit",
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
    "refit": "keras_cifar.training.train",
    "resolve_recipe": "keras_cifar.recipes",
    "train": "keras_cifar.training.train",
    "train_levels": "keras_cifar.training.train",
}

configure_libraries()
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
