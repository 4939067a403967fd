"""A classifier out of one ONNX file: onnxruntime, NumPy and Pillow, no TensorFlow."""

import abc
import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from export.metadata import OPSET, read_metadata
from export.opset import read_opset
from export.runtimes import RUNTIMES, OnnxSession
from keras_cifar.checks import Choice, Number, show
from keras_cifar.data.images import decode_image, error_text, fit_square, is_encoded, is_path, read_whole, upright_rgb
from keras_cifar.data.specs import RESIZES
from keras_cifar.errors import InputError

PRETRAINED = pathlib.Path(__file__).parent / "pretrained" / "cifar10_efficientnet_lite0_int8.onnx"
BATCH_SIZE = 64
_MAX_BYTES = 2**30
_MAX_THREADS = 1024
_OUTPUTS = ["logits", "probabilities"]


class Classifier(abc.ABC):
    """What maps images of any kind to class names; `_run` is the part that an engine gives.

    Attributes:
        class_names: C names; index of the logit.
        side: of the images that the model takes, in pixels.
        resize: how images that are not square become so, see `keras_cifar.data.images.fit_square`.
        sha256: of the model, in hex.
    """

    class_names: list[str]
    side: int
    resize: str
    sha256: str

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
        return self._predict(images, "logits", batch_size)

    def predict_proba(self, images: Any, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Probabilities (N, C), rows summing to 1; see `predict_logits`."""
        return self._predict(images, "probabilities", batch_size)

    def predict(self, images: Any, batch_size: int = BATCH_SIZE) -> list[str]:
        """The most likely class name of each image; see `predict_logits`."""
        return [self.class_names[i] for i in self.predict_logits(images, batch_size).argmax(axis=1)]

    def _predict(self, images, output, batch_size):
        batch_size = Number(1, whole=True, example=BATCH_SIZE).check("batch_size", batch_size)
        items = _as_items(images)
        found = [np.empty((0, len(self.class_names)), np.float32)]
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            whole = isinstance(batch, np.ndarray) and batch.shape[1:3] == (self.side, self.side)
            found.append(self._run(batch if whole else np.stack([self._fitted(item) for item in batch]), output))
        return np.concatenate(found)

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


class OnnxClassifier(Classifier):
    """A file that `export` wrote.

    It can be called from many threads, copied (copies share the session) and pickled: the copy in another process opens
    the same path again, or carries the model where it was given as bytes.

    Args:
        path: the file, its bytes, or an open binary file; None for the CIFAR-10 classifier that comes with the package.
        provider: a name in `export.runtimes.RUNTIMES`: "onnxruntime", or "openvino" where installed (extra `fast`),
            which runs in float32 or the file's INT8.
        threads: of one call; 0 for the runtime's own choice.

    Attributes:
        path: of the file; None where bytes or an open file were given.
        metadata: what `export` stored, see `export.metadata.Metadata`.
        has_tta: whether the file averages an image and its mirror image itself.
        session: what runs the file.

    Raises:
        InputError: the file is missing, damaged, too large, or not one that `export` wrote.
    """

    def __init__(self, path: Any = None, provider: str = "onnxruntime", threads: int = 0):
        start = RUNTIMES[provider]
        threads = Number(0, _MAX_THREADS, whole=True).check("threads", threads)
        path = PRETRAINED if path is None or (isinstance(path, str) and not path) else path
        self.path = pathlib.Path(path) if is_path(path) else None
        model = _read(self.path or path)
        session, self.metadata = _start(model, self.path or "the bytes", threads)
        self.class_names, self.side = self.metadata.class_names, self.metadata.input_size[0]
        self.resize = Choice(RESIZES).check("--resize in the file's metadata", self.metadata.resize)
        self.has_tta, self.provider = self.metadata.tta, provider
        self.session = session if provider == "onnxruntime" else start(model, threads)
        source, self.sha256 = self.path.absolute() if self.path else model, hashlib.sha256(model).hexdigest()
        self._origin = source, provider, threads, self.sha256

    def _run(self, images, output):
        return self.session.run(images, output)

    def model_bytes(self) -> bytes:
        """The file that was opened.

        Raises:
            InputError: it has changed since.
        """
        source, _, _, digest = self._origin
        model = _read(source)
        if hashlib.sha256(model).hexdigest() != digest:
            raise InputError(f"Expected the model that was opened in {source}, but the file has changed since; repeat.")
        return model

    def __reduce__(self):
        return _reopen, (type(self), *self._origin)

    def __copy__(self):
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo):
        return self.__copy__()


def _reopen(kind, source, provider, threads, digest):
    classifier = kind(source, provider, threads)
    if classifier._origin[-1] != digest:
        raise InputError(
            f"Expected the model that was pickled in {source}, but the file has changed since; pickle it again."
        )
    return classifier


def _read(source):
    if not is_encoded(source):
        raise InputError(
            f"Expected the path of an .onnx file, its bytes or an open file, but got {show(source)}; pass one that "
            "`export` wrote."
        )
    if not is_path(source):
        try:
            return read_whole(source, _MAX_BYTES)
        except Exception as error:  # as of whatever the file is
            raise InputError(
                f"Expected the bytes of an .onnx file or a file opened to read them, but: {error}; pass one that "
                "`export` wrote."
            ) from error
    try:
        return _read_path(source)
    except OSError as error:
        raise InputError(
            f"Expected an .onnx file, but {source} cannot be read ({error.strerror}); name one that `export` wrote."
        ) from error


def _read_path(source):
    if not source.is_file():
        what = "is a folder" if source.is_dir() else "does not exist"
        raise InputError(f"Expected an .onnx file, but {source} {what}; name one that `export` wrote.")
    if (size := source.stat().st_size) > _MAX_BYTES:
        raise InputError(
            f"Expected an .onnx file of at most {_MAX_BYTES >> 30} GiB, but {source} has {size / 2**30:.1f} GiB; name "
            "one that `export` wrote."
        )
    return source.read_bytes()


def _start(model, path, threads):
    """A session and its metadata, after the checks that make every other file one sentence."""
    opset = read_opset(model)
    if opset is None:
        raise _damaged(path)
    if opset != OPSET:
        raise InputError(
            f"Expected an ONNX file of opset {OPSET}, but {path} has opset {opset}; export the run again with this "
            "version."
        )
    try:
        session = OnnxSession(model, threads)
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise _damaged(path) from error
    return session, _checked_metadata(session, path)


def _damaged(path):
    return InputError(f"Expected an ONNX model in {path}, but it is damaged or truncated; copy or export it again.")


def _checked_metadata(session, path):
    """What the model says of itself; refuses a model of another origin."""
    kinds = {name: (kind, shape[1:]) for name, (kind, shape) in session.inputs.items()}
    kind, size = kinds.get("images", (None, []))
    same = list(kinds) == ["images"] and kind == "tensor(uint8)" and session.outputs == _OUTPUTS and len(size) == 3
    metadata = read_metadata(session.properties) if same else None
    if metadata is None or metadata.input_size != size:
        found = f"inputs {', '.join(session.inputs) or 'none'} and outputs {', '.join(session.outputs) or 'none'}"
        raise InputError(
            "Expected a classifier that `export` wrote (uint8 images in, logits and probabilities out, with "
            f"metadata), but {path} is another model ({found}); export a run."
        )
    return metadata
