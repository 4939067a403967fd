"""A classifier out of one ONNX file: onnxruntime, NumPy and Pillow, no TensorFlow."""

import abc
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from export.golden import SelfCheck, check_golden
from export.metadata import Metadata
from export.onnx_file import LOGITS, PROBABILITIES, read_model, start_onnx
from export.runtimes import RUNTIMES, Session
from export.selective import selective_logits
from keras_cifar.checks import Choice, Number
from keras_cifar.data.images import decode_image, error_text, fit_square, is_encoded, is_path, upright_rgb
from keras_cifar.data.specs import RESIZES
from keras_cifar.errors import InputError
from keras_cifar.metrics import softmax

PRETRAINED = pathlib.Path(__file__).parent / "pretrained" / "cifar10_efficientnet_lite0_int8.onnx"
BATCH_SIZE = 64
_MAX_THREADS = 1024


class Classifier(abc.ABC):
    """What maps images of any kind to class names; `_run` is the part that an engine gives.

    Attributes:
        class_names: C names; index of the logit.
        side: of the images that the model takes, in pixels.
        resize: how images that are not square become so, see `keras_cifar.data.images.fit_square`.
        sha256: of the model, in hex.
        reject_threshold: of the top probability, below which a prediction is unsure; None for none.
    """

    class_names: list[str]
    side: int
    resize: str
    sha256: str
    reject_threshold: float | None = None

    @abc.abstractmethod
    def _run(self, images: np.ndarray, output: str) -> np.ndarray:
        """(B, side, side, 3) uint8 -> (B, C)."""

    def predict_logits(self, images: Any, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Logits of images.

        Args:
            images: (N, H, W, 3) or (H, W, 3) uint8 array, an encoded image (its path, bytes or open binary file), a
                Pillow image, or a list of such arrays (H, W, 3), encoded images and Pillow images. What has not the
                model's size is made square as in training (`resize`) and resized (bicubic).
            batch_size: images per call, at least 1.

        Returns:
            (N, C) float32.

        Raises:
            InputError: not uint8 RGB, or an encoded image that cannot be read.
        """
        return self._predict(images, LOGITS, batch_size)

    def predict_proba(self, images: Any, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Probabilities (N, C), rows summing to 1; see `predict_logits`."""
        return self._predict(images, PROBABILITIES, batch_size)

    def predict_both(self, images: Any, batch_size: int = BATCH_SIZE) -> tuple[np.ndarray, np.ndarray]:
        """What `predict_logits` and `predict_proba` give, of one run where the engine can."""
        nothing = np.empty((0, len(self.class_names)), np.float32)
        found = [self._run_both(batch) for batch in self._batches(images, batch_size)]
        logits, probabilities = zip((nothing, nothing), *found, strict=True)
        return np.concatenate(logits), np.concatenate(probabilities)

    def _run_both(self, images):
        return self._run(images, LOGITS), self._run(images, PROBABILITIES)

    def predict(self, images: Any, batch_size: int = BATCH_SIZE) -> list[str | None]:
        """The most likely class name of each image, None where the file is unsure (`unsure`); see `predict_logits`."""
        probabilities = self.predict_proba(images, batch_size)
        names = [self.class_names[i] for i in probabilities.argmax(axis=1)]
        return [None if unsure else name for name, unsure in zip(names, self.unsure(probabilities), strict=True)]

    def unsure(self, probabilities: np.ndarray) -> np.ndarray:
        """Which predictions are below the reject threshold: "none of these", or not sure which.

        Args:
            probabilities: (N, C), of `predict_proba`.

        Returns:
            (N,) bool; all False where there is no threshold.
        """
        if self.reject_threshold is None:
            return np.zeros(len(probabilities), bool)
        return np.asarray(probabilities).max(axis=1) < self.reject_threshold

    def _predict(self, images, output, batch_size):
        found = [np.empty((0, len(self.class_names)), np.float32)]
        found += [self._run(batch, output) for batch in self._batches(images, batch_size)]
        return np.concatenate(found)

    def _batches(self, images, batch_size):
        batch_size = Number(1, whole=True, example=BATCH_SIZE).check("batch_size", batch_size)
        items = _as_items(images)
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            whole = isinstance(batch, np.ndarray) and batch.shape[1:3] == (self.side, self.side)
            yield batch if whole else np.stack([self._fitted(item) for item in batch])

    def _fitted(self, item):
        is_picture = isinstance(item, Image.Image)
        if is_picture or is_encoded(item):
            try:
                if is_picture:
                    return fit_square(upright_rgb(item), self.side, self.resize)
                return decode_image(item, self.side, self.resize)
            except Exception as error:
                others = "a Pillow image" if is_picture else "the bytes or the open file"
                where = item if is_path(item) else others
                raise InputError(
                    f"Expected an image in {where}, but it cannot be read ({error_text(error, where)}); repair or "
                    "remove it."
                ) from error
        pixels = _checked(np.asarray(item), 3)
        if pixels.shape[:2] == (self.side, self.side):
            return pixels
        return fit_square(Image.fromarray(pixels), self.side, self.resize)


def _as_items(images):
    """An (N, H, W, 3) array, or a list of arrays, encoded images and Pillow images."""
    if is_encoded(images) or isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        return images[None] if _checked(images, 3, 4).ndim == 3 else images
    return list(images) if isinstance(images, Iterable) else [images]


def _checked(pixels, *ranks):
    if pixels.dtype != np.uint8 or pixels.ndim not in ranks or pixels.shape[-1] != 3 or 0 in pixels.shape[-3:]:
        raise InputError(
            f"Expected uint8 RGB images (H, W, 3) or (N, H, W, 3) with values 0 to 255, but got {pixels.dtype} of "
            f"shape {pixels.shape}; convert them, without scaling or normalising: that is inside the model."
        )
    return pixels


class FileClassifier(Classifier):
    """An exported file of any kind, running.

    Args:
        session: what runs it.
        metadata: what `export` stored in it.
        sha256: of it, in hex.
        path: of it; None where it was given as bytes.
        provider: name of the runtime.

    Attributes:
        path, metadata, session, provider: see above.
        has_tta: whether the file averages an image and its mirror image itself.
        selective_threshold: of the top probability, below which an image gets a second view, its mirror image, whose
            logits are averaged with the first's; None where no image does so here.

    Raises:
        InputError: the metadata make no sense.
    """

    def __init__(self, session: Session, metadata: Metadata, sha256: str, path: pathlib.Path | None, provider: str):
        self.session, self.metadata, self.sha256, self.path, self.provider = session, metadata, sha256, path, provider
        self.class_names, self.side = metadata.class_names, metadata.input_size[0]
        self.resize = Choice(RESIZES).check("--resize in the file's metadata", metadata.resize)
        self.has_tta = metadata.tta
        self.selective_threshold = _threshold("--tta selective", metadata.selective)
        self.reject_threshold = _threshold("--reject", metadata.rejection)

    def self_check(self) -> SelfCheck:
        """Compares the logits of 16 golden images with those that the file gave where it was exported.

        Raises:
            InputError: what the file carries for this is damaged.
        """
        about, owner = self.metadata, f"{self.path or 'the model'} on {self.provider}"
        size = about.input_size[0], about.input_size[1]
        found = check_golden(
            about.golden, about.precision, size, len(self.class_names), lambda x: self.session.run(x, LOGITS), owner
        )
        if found.state != "failed":
            return found
        return dataclasses.replace(found, text=f"{found.text}, {self._instead()}.")

    def _instead(self):
        """What to do about golden answers that differ."""
        may_saturate = self.metadata.precision == "int8" and not (self.metadata.quantization or {}).get("weights")
        if self.provider not in RUNTIMES or self.provider == "onnxruntime-exact":
            return "and copy the file again"
        if may_saturate:
            return (
                "as its 8-bit sums saturate on this CPU or runtime: use --provider onnxruntime-exact, a float32 file, "
                "or one exported again, whose weights cannot saturate"
            )
        return "and use another runtime (--provider) or copy the file again"

    def _refuse_unproven(self):
        if (found := self.self_check()).state != "ok":
            raise InputError(f"Expected a file that proves itself, but {found.text}")

    def _run(self, images, output):
        if self.selective_threshold is None:
            return self.session.run(images, output)
        logits, probabilities = self._run_both(images)
        return probabilities if output == PROBABILITIES else logits

    def _run_both(self, images):
        if self.selective_threshold is None:
            run = getattr(self.session, "run_both", None)
            return super()._run_both(images) if run is None else run(images)
        temperature = self.metadata.temperature
        logits = selective_logits(
            lambda views: self.session.run(views, LOGITS), images, temperature, self.selective_threshold
        )
        return logits, softmax(logits / temperature)


class OnnxClassifier(FileClassifier):
    """An ONNX file that `export` wrote.

    It can be called from many threads, copied (copies share the session) and pickled: the copy in another process opens
    the same path again, or carries the model where it was given as bytes.

    Args:
        path: the file, its bytes, or an open binary file; None for the CIFAR-10 classifier that comes with the package.
        provider: a name in `export.runtimes.RUNTIMES`: "onnxruntime", or "openvino" where installed (extra `fast`),
            which runs in float32 or the file's INT8; "onnxruntime-exact" never saturates 8-bit sums,
            "onnxruntime-patient" leaves the CPU to others while its threads wait for each other.
        threads: of one call; 0 for the runtime's own choice.
        self_check: refuse a file that does not compute here what it did where it was exported, see `self_check`.

    Attributes:
        path: of the file; None where bytes or an open file were given.
        metadata: what `export` stored, see `export.metadata.Metadata`.

    Raises:
        InputError: the file is missing, damaged, too large, not one that `export` wrote, or fails the check.
    """

    def __init__(self, path: Any = None, provider: str = "onnxruntime", threads: int = 0, self_check: bool = False):
        start = RUNTIMES[provider]
        threads = Number(0, _MAX_THREADS, whole=True).check("threads", threads)
        path = PRETRAINED if path is None or (isinstance(path, str) and not path) else path
        place = pathlib.Path(path) if is_path(path) else None
        model = read_model(place or path)
        first, metadata = start_onnx(model, place or "the bytes", threads)
        session = first if provider == "onnxruntime" else start(model, threads)
        super().__init__(session, metadata, hashlib.sha256(model).hexdigest(), place, provider)
        self._origin = place.absolute() if place else model, provider, threads, self.sha256
        if self_check:
            self._refuse_unproven()

    def model_bytes(self) -> bytes:
        """The file that was opened.

        Raises:
            InputError: it has changed since.
        """
        source, _, _, digest = self._origin
        model = read_model(source)
        if hashlib.sha256(model).hexdigest() != digest:
            raise InputError(
                f"Expected the model that was opened in {self.path}, but the file has changed since; repeat."
            )
        return model

    def __reduce__(self):
        return _reopen, (type(self), *self._origin)

    def __copy__(self):
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo):
        return self.__copy__()


def _threshold(option, found):
    """A threshold of the file's metadata, which came from outside."""
    if found is None:
        return None
    value = found.get("threshold") if isinstance(found, dict) else found
    return Number(0, 1).check(f"the threshold of {option} in the file's metadata", value)


def _reopen(kind, source, provider, threads, digest):
    classifier = kind(source, provider, threads)
    if classifier._origin[-1] != digest:
        raise InputError(
            f"Expected the model that was pickled in {source}, but the file has changed since; pickle it again."
        )
    return classifier
