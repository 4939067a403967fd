"""Heads: backbone taps -> logits."""

import keras


def linear_head(num_features: int, num_classes: int, width: int, dropout: float, seed: int) -> keras.Model:
    """Pooled features -> logits.

    Args:
        num_features: channels of the pooled, concatenated taps.
        num_classes: number of logits.
        width: not used; every head takes the same arguments.
        dropout: fraction of the features dropped in training, in [0, 1).
        seed: of the initial weights and of dropout.

    Returns:
        Model (B, num_features) -> logits (B, num_classes), float32.
    """
    features = x = keras.Input((num_features,), name="features")
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seed + 1, name="dropout")(x)
    return keras.Model(features, _logits(x, num_classes, seed), name="head")


def fusion_head(num_features: int, num_classes: int, width: int, dropout: float, seed: int) -> keras.Model:
    """Pooled features of several scales -> dense, ReLU, dropout -> logits.

    Args:
        num_features: channels of the pooled, concatenated taps.
        num_classes: number of logits.
        width: units of the hidden layer.
        dropout: fraction of hidden units dropped in training, in [0, 1).
        seed: of the initial weights and of dropout.

    Returns:
        Model (B, num_features) -> logits (B, num_classes), float32.
    """
    features = keras.Input((num_features,), name="features")
    initializer = keras.initializers.HeNormal(seed=seed)
    x = keras.layers.Dense(width, activation="relu", kernel_initializer=initializer, name="fusion")(features)
    x = keras.layers.Dropout(dropout, seed=seed + 1, name="dropout")(x)
    return keras.Model(features, _logits(x, num_classes, seed + 2), name="head")


def _logits(x, num_classes, seed):
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(num_classes, kernel_initializer=initializer, dtype="float32", name="logits")(x)


HEADS = {"linear": linear_head, "fusion": fusion_head}
