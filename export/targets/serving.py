"""What a Keras exporter writes: a Keras model that does what the finished ONNX graph does."""

from typing import Any

from export.graph import IMAGES, LOGITS, PROBABILITIES


def serving_model(model: Any, tta: bool, temperature: float) -> Any:
    """Puts TTA, temperature and softmax behind a classifier.

    Args:
        model: Keras classifier in float32: uint8 images (B, H, W, 3) -> logits (B, C).
        tta: average the logits of each image and its mirror image.
        temperature: divides the logits before the softmax.

    Returns:
        Keras model: `images` -> `logits` and `probabilities`.
    """
    import keras

    def logits_of(view):
        found = model(view, training=False)
        return found[0] if isinstance(found, list) else found

    images = keras.Input(model.input_shape[1:], dtype="uint8", name=IMAGES)
    logits = logits_of(images)
    if tta:
        logits = (logits + logits_of(images[:, :, ::-1, :])) / 2
    return keras.Model(images, {LOGITS: logits, PROBABILITIES: keras.ops.softmax(logits / temperature)})
