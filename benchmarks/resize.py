"""What making photographs square costs: crop, pad and squash, by an ImageNet classifier's answers."""

import csv
import pathlib

import numpy as np
from PIL import Image

from keras_cifar.data.images import decode_image
from keras_cifar.data.specs import RESIZES
from keras_cifar.metrics import mcnemar_p
from keras_cifar.model.backbones import load_backbone
from keras_cifar.model.specs import BACKBONES
from keras_cifar.model.weights import find_weights

_BACKBONE = "efficientnet_lite0"
_SIDES = (160, 224)
_ELONGATED = 1.4  # longer side by shorter side; 4:3 is below, 3:2 above


def measure(folder: str) -> dict:
    """Prints a table; returns for each side and way the answers that are right, of all and of elongated photographs."""
    folder = pathlib.Path(folder)
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths, labels = [folder / row["file"] for row in rows], np.array([int(row["imagenet_index"]) for row in rows])
    ratios = np.array([max(size) / min(size) for size in map(_size, paths)])
    long = ratios >= _ELONGATED
    print(f"{len(paths)} photographs, {(ratios > 1.02).sum()} not square, {long.sum()} of {_ELONGATED}:1 or longer")
    classify, found = _classifier(), {}
    for side in _SIDES:
        right = {}
        for resize in RESIZES:
            logits = classify(np.stack([decode_image(path, side, resize) for path in paths]))
            right[resize] = logits.argmax(axis=1) == labels
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            share = share[np.arange(len(labels)), labels] / share.sum(axis=1)
            found[f"{side}, {resize}"] = {
                "right": int(right[resize].sum()),
                "right_elongated": int(right[resize][long].sum()),
                "mean_probability": round(float(share.mean()), 4),
                "p_against_crop": round(mcnemar_p(right["crop"], right[resize]), 4),
            }
            print(f"{side:4} px {resize:7} {found[f'{side}, {resize}']}", flush=True)
    counts = {"photographs": len(paths), "not_square": int((ratios > 1.02).sum()), "elongated": int(long.sum())}
    return {"backbone": _BACKBONE, **counts, "answers": found}


def _size(path):
    with Image.open(path) as image:
        return image.size


def _classifier():
    """Images (N, S, S, 3) uint8 -> logits (N, 1000), by the checkpoint's own head."""
    from safetensors.numpy import load_file

    backbone = load_backbone(_BACKBONE)
    (place,) = find_weights(BACKBONES[_BACKBONE], "imagenet")
    tensors = load_file(pathlib.Path(place.preset) / "model.safetensors")
    scale, offset = np.float32(backbone.scale), np.float32(backbone.offset)

    def classify(images):
        maps = backbone.model.predict(images * scale + offset, batch_size=32, verbose=0)
        return maps.mean(axis=(1, 2)) @ tensors["classifier.weight"].T + tensors["classifier.bias"]

    return classify
