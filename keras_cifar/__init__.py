"""From a pretrained Keras backbone to a deployed image classifier, in progressive levels."""

from keras_cifar.libraries import configure_libraries

__version__ = "0.1.0"

configure_libraries()
