"""A page with the images that `check` found: one HTML file without scripts, which fetches nothing."""

import os

import numpy as np

from keras_cifar.data.findings import Checked, Finding
from keras_cifar.html import write_html
from keras_cifar.runs.thumbnails import SIDE, thumbnail

SHOWN = 200  # of each kind: some 2 MB of thumbnails at most
_KINDS = {
    "label": ("Labels that look wrong", "The least plausible first. Many are right: look, then decide."),
    "copy": ("The same image, pixel for pixel", "The later image, and the earlier one that it repeats."),
    "alike": ("Images that look alike", "Scaled, recoloured or compressed copies, or pictures of one series."),
    "cropped": ("Images that look alike once cropped or mirrored", "The later image, and the earlier one."),
    "one shade": ("Images of one shade", "There is nothing to learn from them."),
    "tiny": ("Tiny images", "As they are stored for training."),
    "long": ("Very long images", "As they are stored for training: --resize crop keeps the centre alone."),
}


def write_gallery(path: str | os.PathLike, checked: Checked, shown: int = SHOWN) -> None:
    """Writes the page, atomically. Only the images that it shows are read.

    Args:
        path: of the HTML file.
        checked: what was found.
        shown: findings of each kind to show at most; the heading has the number of all.
    """
    found = {kind: [each for each in checked.findings if each.finding == kind] for kind in _KINDS}
    pictures = _pictures(checked, [each for members in found.values() for each in members[:shown]])
    side = min(checked.images.whole.store.shape[1:3])
    write_html(
        path,
        "check.html",
        title=f"What check found in {checked.label}",
        rendering="pixelated" if side < SIDE else "auto",
        lines=checked.lines,
        sections=[_section(kind, members, shown, pictures) for kind, members in found.items() if members],
    )


def _pictures(checked, findings):
    """Number of an image -> its thumbnail, of those that findings name."""
    numbers = sorted({i for each in findings for i in (each.number, each.other) if i is not None})
    store = checked.images.whole.store
    return {i: thumbnail(store.read(np.array([i]))[0]) for i in numbers}


def _section(kind, members, shown, pictures):
    heading, note = _KINDS[kind]
    return {
        "id": kind.replace(" ", "-"),
        "heading": heading,
        "note": note,
        "count": len(members),
        "cards": [{"finding": each, "figures": _figures(each, pictures)} for each in members[:shown]],
    }


def _figures(each: Finding, pictures: dict[int, str]) -> list[dict[str, str]]:
    """The image, and the one that it is like."""
    figures = [_figure(pictures[each.number], each.split, each.image, each.label)]
    if each.other is not None:
        figures.append(_figure(pictures[each.other], each.other_split, each.other_image, each.other_label))
    return figures


def _figure(source, split, image, label):
    caption = image if image.startswith(f"{split} ") else f"{split}: {image}"
    return {"source": source, "label": label, "caption": caption}
