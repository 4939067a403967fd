"""Asks a server of the Open Inference Protocol for the labels of images: Triton, OpenVINO Model Server, or `serve`.

    pip install "tritonclient[http]" pillow
    python client.py 127.0.0.1:8000 MODEL photo.jpg another.png

Images that are not square are cut to the square in their middle, as most models here were trained.
"""

import sys

import numpy as np
import tritonclient.http
from PIL import Image, ImageOps


def main(address, model, *paths):
    client = tritonclient.http.InferenceServerClient(address)
    side = client.get_model_metadata(model)["inputs"][0]["shape"][1]
    images = np.stack([read(path, int(side)) for path in paths])
    tensor = tritonclient.http.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    wanted = tritonclient.http.InferRequestedOutput("probabilities")
    probabilities = client.infer(model, [tensor], outputs=[wanted]).as_numpy("probabilities")
    for path, row in zip(paths, probabilities, strict=True):
        print(f"{path}: class {row.argmax()} ({100 * row.max():.1f} %)")


def read(path, side):
    with Image.open(path) as image:
        return np.asarray(
            ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (side, side), Image.Resampling.BICUBIC)
        )


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
