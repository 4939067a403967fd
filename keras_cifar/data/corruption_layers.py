"""What corruptions are made of: random fields, kernels, and images that are sampled between their pixels."""

import math
from collections.abc import Iterable

import numpy as np
from scipy import ndimage, signal


def plasma(random: np.random.RandomState, shape: tuple[int, int], decay: float) -> np.ndarray:
    """A cloudy field by midpoint displacement on a torus (the diamond-square method of Fournier et al., 1982).

    Args:
        random: of the displacements.
        shape: (H, W).
        decay: how much smaller a displacement is than the one of twice the size, is the square of it.

    Returns:
        (H, W) float64 in [0, 1].
    """
    grid, amplitude = np.zeros((1, 1)), 1.0
    while len(grid) < max(shape):
        grid = _doubled(random, grid, amplitude)
        amplitude /= decay**2
    grid = (grid - grid.min()) / (np.ptp(grid) or 1.0)
    return grid[: shape[0], : shape[1]]


def _doubled(random, grid, amplitude):
    """A field of twice the side: new points are the mean of their four neighbours and a displacement."""

    def moved(field):
        return field / 4 + amplitude * random.uniform(-1, 1, grid.shape)

    down, right = (np.roll(grid, -1, axis) for axis in (0, 1))
    centre = moved(grid + down + right + np.roll(right, -1, 0))
    finer = np.empty((2 * len(grid), 2 * len(grid)))
    finer[::2, ::2], finer[1::2, 1::2] = grid, centre
    finer[::2, 1::2] = moved(grid + right + centre + np.roll(centre, 1, 0))
    finer[1::2, ::2] = moved(grid + down + centre + np.roll(centre, 1, 1))
    return finer


def frost_crystals(random: np.random.RandomState, shape: tuple[int, int]) -> np.ndarray:
    """Needles of ice on a pane: sparse points drawn out in a few directions, over a cloudy film.

    It stands in for the photographs of frost of the original corruption, which are not ours to hand on.

    Args:
        random: of the pattern.
        shape: (H, W).

    Returns:
        (H, W, 3) float64 in [0, 1], bluish white.
    """
    needles, length = np.zeros(shape), max(5.0, max(shape) / 4)
    for angle in random.uniform(0, 180) + np.array([0.0, 60.0, 120.0]):
        points = (random.uniform(size=shape) < 0.06) * random.uniform(0.5, 1, shape)
        needles += motion(points[..., None], length, length / 2, angle)[..., 0]
    film = plasma(random, shape, 1.6)
    grey = 0.55 * film + 0.6 * needles / (needles.max() or 1.0) + 0.1
    return np.clip(grey[..., None] * np.array([0.88, 0.96, 1.05]), 0, 1)


def disk_kernel(radius: float, blur: float) -> np.ndarray:
    """A disk with a soft edge, (K, K), summing to 1.

    Args:
        radius: in pixels; below 1 it is a single pixel, and only the blur counts.
        blur: standard deviation of the Gaussian that softens it, cut off after 1 pixel, or 2 where `radius` is over 8.
    """
    margin = 1 if radius <= 8 else 2
    reach = math.floor(radius) + margin
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(float)
    return ndimage.gaussian_filter(disk / disk.sum(), blur, mode="constant", radius=margin)


def convolved(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Images (B, H, W, C) convolved with a kernel (K, K), mirrored at their edges."""
    reach = len(kernel) // 2
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "symmetric")
    return signal.oaconvolve(padded, kernel[None, :, :, None].astype(images.dtype), "valid", axes=(1, 2))


def motion(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """An image smeared in one direction, by half a Gaussian as ImageMagick's motion blur does.

    Args:
        image: (H, W, C) float.
        radius: the smear is of `2 * radius + 1` pixels.
        sigma: standard deviation of the Gaussian, in pixels.
        angle: of the direction, in degrees.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows = np.round(steps * math.sin(math.radians(angle))).astype(int)
    columns = np.round(steps * math.cos(math.radians(angle))).astype(int)
    reach, (height, width) = len(steps), image.shape[:2]
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "edge")
    result = np.zeros_like(image)
    for weight, row, column in zip(weights / weights.sum(), rows + reach, columns + reach, strict=True):
        result += weight.astype(image.dtype) * padded[row : row + height, column : column + width]
    return result


def zoomed(images: np.ndarray, factors: Iterable[float]) -> np.ndarray:
    """The mean of images (B, H, W, C), enlarged about their centre by each of some factors, linearly interpolated."""
    total, factors = np.zeros_like(images), list(factors)
    for factor in factors:
        total += _enlarged(_enlarged(images, 1, factor), 2, factor)
    return total / len(factors)


def _enlarged(images, axis, factor):
    """Images drawn out along one axis; without a matrix product, whose threads would get in the way of others'."""
    side = images.shape[axis]
    centre = (side - 1) / 2
    place = np.clip((np.arange(side) - centre) / factor + centre, 0, side - 1)
    before = place.astype(int)
    share = np.expand_dims(place - before, [i for i in range(images.ndim) if i != axis]).astype(images.dtype)
    after = np.minimum(before + 1, side - 1)
    return images.take(before, axis) * (1 - share) + images.take(after, axis) * share


def sampled(image: np.ndarray, matrix: np.ndarray, field: np.ndarray | None = None) -> np.ndarray:
    """An image whose pixels are taken from elsewhere in it, linearly interpolated and mirrored at the edges.

    Args:
        image: (H, W, C) float.
        matrix: (2, 3): pixel (row, column) about the centre, with 1 behind, -> the place about the centre.
        field: (2, H, W), added to the place; None for nothing.
    """
    height, width = image.shape[:2]
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")) - centre[:, None, None]
    place = np.tensordot(matrix[:, :2], grid, 1) + (matrix[:, 2] + centre)[:, None, None]
    if field is not None:
        place = place + field
    layers = [ndimage.map_coordinates(image[..., i], place, order=1, mode="mirror") for i in range(image.shape[2])]
    return np.stack(layers, axis=-1)
