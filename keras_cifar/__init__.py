"""From a pretrained Keras backbone to a deployed image classifier, in progressive levels."""

from keras_cifar.libraries import silence_libraries

__version__ = "0.1.0"

silence_libraries()
