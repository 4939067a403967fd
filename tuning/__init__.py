"""Learning rates found rather than guessed: KerasTuner searches over recipes, and the learning-rate range test."""

from keras_cifar.libraries import configure_libraries

configure_libraries()
