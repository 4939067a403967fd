"""From a pretrained Keras backbone to a deployed image classifier, in progressive levels."""

__version__ = "0.1.0"
