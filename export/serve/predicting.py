"""Images to labels, for `POST /predict`: requests decode beside each other, and share calls."""

import asyncio
import base64
import concurrent.futures
import time
from typing import Any

import numpy as np

from export.serve.answers import Refused
from export.serve.models import ServedModel
from export.serve.settings import ServeSettings
from keras_cifar.data.images import count_pixels, decode_image, error_text

# What Pillow decodes in C: its decoders in Python would keep all threads waiting.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000")
_LARGE_PIXELS = 8e6


class Predictor:
    """Decodes and predicts the files of a request; a request decodes one file at a time, and one of all a large one.

    Args:
        settings: see `ServeSettings`.
        pool: decodes.
    """

    def __init__(self, settings: ServeSettings, pool: concurrent.futures.Executor):
        self._settings, self._pool = settings, pool
        self._large = concurrent.futures.ThreadPoolExecutor(1, "decode large")

    def close(self) -> None:
        """Ends its own thread."""
        self._large.shutdown(wait=False, cancel_futures=True)

    async def predict(
        self, model: ServedModel, files: list[tuple[str | None, bytes]], top_k: int, with_pixels: bool
    ) -> list[dict[str, Any]]:
        """One dictionary a file: name, label, classes, unsure and, where asked for, pixels; or its error.

        Args:
            model: to ask.
            files: name or None, and content.
            top_k: classes a file.
            with_pixels: whether to answer the square that the model sees, as base64 of its uint8 RGB values.

        Raises:
            Refused: with 503, there is no room for them.
        """
        if len(files) > self._settings.queue:
            raise Refused(
                413, f"Expected at most {self._settings.queue} images at once, but got {len(files)}; send fewer."
            )
        with model.batcher.room(len(files)):
            loaded = model.loaded  # of all of them, even where it is swapped meanwhile
            classifier = loaded.alone
            decoded = [await self._decode(content, classifier) for _, content in files]
            images = [pixels for pixels in decoded if not isinstance(pixels, str)]
            if images:
                found = await model.batcher.predict(loaded, np.stack(images), ("probabilities",))
                rows = iter(_rows(classifier, found["probabilities"], top_k))
        answers = []
        for (name, _), pixels in zip(files, decoded, strict=True):
            if isinstance(pixels, str):
                answers.append({"name": name, "error": pixels})
                continue
            answer = {"name": name, **next(rows)}
            if with_pixels:
                answer |= {"side": classifier.side, "pixels": base64.b64encode(pixels.tobytes()).decode()}
            answers.append(answer)
        return answers

    async def _decode(self, content, classifier):
        """The pixels, or the reason as a string: an image must not stop the others."""
        pool = self._large if _pixels(content) > _LARGE_PIXELS else self._pool
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            pool, _decoded, content, classifier.side, classifier.resize, self._settings.pixels
        )


def _pixels(content):
    """How many an image has, by its header; 0 of what is none."""
    try:
        return count_pixels(content)
    except Exception:  # as of whatever decoder; decoding says what is wrong
        return 0


def _decoded(content, side, resize, pixels):
    if not content:
        return "Expected an image, but got no bytes; send the content of an image file."
    try:
        return decode_image(content, side, resize, pixels, _FORMATS)
    except Exception as error:  # as of whatever decoder
        return f"Expected an image, but it cannot be read ({error_text(error, 'it')}); send another."


def _rows(classifier, probabilities, top_k):
    """One dictionary an image: label, unsure, and the best classes."""
    unsure = classifier.unsure(probabilities)
    for row, is_unsure in zip(probabilities, unsure, strict=True):
        best = np.argsort(-row, kind="stable")[:top_k]
        classes = [{"name": classifier.class_names[i], "probability": float(row[i])} for i in best]
        yield {"label": classes[0]["name"], "unsure": bool(is_unsure), "classes": classes}


class Stopwatch:
    """Milliseconds since it was made."""

    def __init__(self):
        self._started = time.perf_counter()

    @property
    def milliseconds(self) -> float:
        """To a thousandth."""
        return round(1000 * (time.perf_counter() - self._started), 3)
