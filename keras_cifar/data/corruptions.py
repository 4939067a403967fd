"""The fifteen corruptions of Hendrycks and Dietterich (2019), "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", written anew from their descriptions; the constants are those of their data sets.

Images are corrupted at the size that they are stored in. Up to `_SMALL` pixels the constants are those of CIFAR-10-C,
which was made for 32 px, above it those of ImageNet-C, made for 224 px. What is drawn depends on the seed, the name of
the corruption and the number of the image alone: it is the same at every severity, batch size and machine, by NumPy's
legacy generators, whose streams are frozen.
"""

import dataclasses
import io
import math
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from keras_cifar.data.corruption_layers import (
    convolved,
    disk_kernel,
    frost_crystals,
    motion,
    plasma,
    sampled,
    zoomed,
)

SEVERITIES = (1, 2, 3, 4, 5)
_SMALL = 84  # the geometric mean of 32 and 224
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_SUBSAMPLING = {"444": 0, "422": 1, "420": 2}  # as Pillow numbers it


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One way in which images get worse.

    Attributes:
        apply: (B, H, W, 3) float32 in [0, 1], B generators, and the constants of a severity -> the same, perhaps
            beyond [0, 1].
        small: constants of severities 1 to 5 for small images, as in CIFAR-10-C.
        large: the same for others, as in ImageNet-C.
    """

    apply: Callable[..., np.ndarray]
    small: tuple
    large: tuple


def constants_of(side: int) -> str:
    """Whose constants images of a side get: "CIFAR-10-C" or "ImageNet-C"."""
    return "CIFAR-10-C" if side <= _SMALL else "ImageNet-C"


def corrupt(images: np.ndarray, numbers: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Images as a corruption leaves them.

    Args:
        images: (B, H, W, 3) uint8.
        numbers: (B,) int: of each image in its split.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of all that is drawn.

    Returns:
        (B, H, W, 3) uint8, rounded.
    """
    corruption = CORRUPTIONS[name]
    constants = corruption.small if constants_of(min(images.shape[1:3])) == "CIFAR-10-C" else corruption.large
    found = corruption.apply(images.astype(np.float32) / 255, generators(name, numbers, seed), constants[severity - 1])
    return to_bytes(found)


def generators(name: str, numbers: np.ndarray, seed: int) -> list[np.random.RandomState]:
    """A generator for each image."""
    word = zlib.crc32(name.encode())
    seeds = (np.random.SeedSequence([seed, word, int(number)]) for number in numbers)
    return [np.random.RandomState(np.random.MT19937(one)) for one in seeds]


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint8, rounded; beyond is cut off."""
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _drawn(images, draws, draw):
    """An array like the images, of which each generator draws one image."""
    return np.stack([draw(random, images.shape[1:]) for random in draws]).astype(np.float32)


def _gaussian_noise(images, draws, deviation):
    return images + deviation * _drawn(images, draws, lambda random, shape: random.normal(size=shape))


def _shot_noise(images, draws, photons):
    """Photons that arrive by chance: their number is Poisson's, so that bright pixels vary more."""
    counts = [random.poisson(photons * image.astype(float)) for random, image in zip(draws, images, strict=True)]
    return np.stack(counts).astype(np.float32) / photons


def _impulse_noise(images, draws, amount):
    """Salt and pepper: some values of some channels become 0 or 1."""
    chance = _drawn(images, draws, lambda random, shape: random.uniform(size=shape))
    return np.where(chance < amount / 2, 0, np.where(chance > 1 - amount / 2, 1, images))


def _defocus_blur(images, draws, constants):
    return convolved(images, disk_kernel(*constants))


def _glass_blur(images, draws, constants):
    """As through frosted glass: each pixel shows one nearby, drawn by chance, between two slight blurs."""
    sigma, reach, times = constants

    def blurred(values):
        return ndimage.gaussian_filter(values, (0, sigma, sigma, 0), mode="nearest")

    count, height, width = images.shape[:3]
    moves = np.stack([random.randint(-reach, reach, (times, 2, height, width)) for random in draws], axis=1)
    image, rows, columns = np.arange(count)[:, None, None], np.arange(height)[:, None], np.arange(width)
    images = blurred(images)
    for down, right in moves.transpose(0, 2, 1, 3, 4):
        images = images[image, np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)]
    return blurred(images)


def _motion_blur(images, draws, constants):
    radius, sigma = constants
    angles = [random.uniform(-45, 45) for random in draws]
    return np.stack([motion(image, radius, sigma, angle) for image, angle in zip(images, angles, strict=True)])


def _zoom_blur(images, draws, constants):
    """As of a camera that comes nearer: the image and its enlargements, laid over each other."""
    largest, step = constants
    factors = np.arange(1, largest + 1e-9, step)
    return (images + zoomed(images, factors) * len(factors)) / (len(factors) + 1)


def _snow(images, draws, constants):
    mean, deviation, zoom, threshold, radius, sigma, mix = constants
    layers = []
    for random in draws:
        flakes = random.normal(mean, deviation, images.shape[1:3]).astype(np.float32)[None, ..., None]
        flakes = zoomed(flakes, [zoom])[0]
        flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
        layers.append(motion(flakes, radius, sigma, random.uniform(-135, -45)))
    layer = np.stack(layers)
    whitened = np.maximum(images, (images @ _GREY)[..., None] * 1.5 + 0.5)
    return mix * images + (1 - mix) * whitened + layer + layer[:, ::-1, ::-1]


def _frost(images, draws, constants):
    """As through a pane with ice on it, see `frost_crystals`."""
    kept, ice = constants
    layers = np.stack([frost_crystals(random, images.shape[1:3]) for random in draws])
    return kept * images + ice * layers.astype(np.float32)


def _fog(images, draws, constants):
    thickness, decay = constants
    layers = np.stack([plasma(random, images.shape[1:3], decay) for random in draws])[..., None].astype(np.float32)
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + thickness * layers) * brightest / (brightest + thickness)


def _brightness(images, draws, more):
    """More of HSV's value; hue and saturation stay."""
    value = images.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.where(value > 0, images * brighter / np.where(value > 0, value, 1), brighter)


def _contrast(images, draws, kept):
    means = images.mean(axis=(1, 2), keepdims=True)
    return (images - means) * kept + means


def _elastic_transform(images, draws, constants):
    """Drawn out of shape: three corners of a square are moved, and then each pixel by a smooth field.

    The constants are fractions of the side.
    """
    strength, sigma, corners = (min(images.shape[1:3]) * fraction for fraction in constants)
    return np.stack([_elastic(image, random, strength, sigma, corners) for image, random in
                     zip(images, draws, strict=True)])  # fmt: skip


def _elastic(image, random, strength, sigma, corners):
    third = min(image.shape[:2]) // 3
    square = np.array([[third, third, 1], [third, -third, 1], [-third, -third, 1]], float)
    moved = square[:, :2] + random.uniform(-corners, corners, (3, 2))
    place = np.linalg.solve(np.hstack([moved, np.ones((3, 1))]), square[:, :2]).T  # of what is shown, in the original
    noise = random.uniform(-1, 1, (2, *image.shape[:2]))
    field = None
    if strength:
        field = strength * ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="reflect", truncate=3)
    return sampled(image, place, field)


def _pixelate(images, draws, kept):
    height, width = images.shape[1:3]
    small, box = (max(1, int(width * kept)), max(1, int(height * kept))), Image.Resampling.BOX
    pictures = [Image.fromarray(image).resize(small, box).resize((width, height), box) for image in to_bytes(images)]
    return np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 255


def _jpeg_compression(images, draws, quality):
    return jpeg(to_bytes(images), quality).astype(np.float32) / 255


def jpeg(images: np.ndarray, quality: int, subsampling: str = "420") -> np.ndarray:
    """Images as JPEG (libjpeg) gives them back.

    Args:
        images: (B, H, W, 3) uint8.
        quality: 1 to 100.
        subsampling: of the colours, one of "444", "422" and "420".
    """
    decoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=_SUBSAMPLING[subsampling])
        decoded.append(np.asarray(Image.open(file)))
    return np.stack(decoded)


def turned(images: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Images (B, H, W, 3) uint8, each turned left by its degrees (B,) about its centre; what comes in is mirrored."""
    return _moved(images, [_turn(math.radians(angle)) for angle in degrees])


def scaled(images: np.ndarray, factor: float) -> np.ndarray:
    """Images (B, H, W, 3) uint8 with content `factor` times as large about the centre; what comes in is mirrored."""
    return _moved(images, [np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]])] * len(images))


def _turn(angle):
    return np.array([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0]])


def _moved(images, matrices):
    floats = images.astype(np.float32) / 255
    return to_bytes(np.stack([sampled(image, matrix) for image, matrix in zip(floats, matrices, strict=True)]))


CORRUPTIONS = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": Corruption(
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Corruption(
        _glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Corruption(
        _motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Corruption(
        _zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": Corruption(
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(
        _frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": Corruption(
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(_jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
