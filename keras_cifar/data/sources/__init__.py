"""Kinds of data sets: one module each, opened through `keras_cifar.data.specs`."""
