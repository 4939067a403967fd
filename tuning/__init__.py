"""Learning rates found rather than guessed: KerasTuner searches over recipes, and the learning-rate range test."""

from keras_cifar.libraries import silence_libraries

silence_libraries()
