"""A page with the images that `check` found: one HTML file without scripts, which fetches nothing."""

import functools
import html
import os
import pathlib
import string

import numpy as np

from keras_cifar.data.findings import Checked, Finding
from keras_cifar.files import write_text
from keras_cifar.names import visible
from keras_cifar.runs.thumbnails import SIDE, thumbnail

SHOWN = 200  # of each kind: some 2 MB of thumbnails at most
_TEMPLATES = pathlib.Path(__file__).with_name("templates")
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
    kinds = {kind: [each for each in checked.findings if each.finding == kind] for kind in _KINDS}
    pictures = _pictures(checked, [each for found in kinds.values() for each in found[:shown]])
    sections = [_section(kind, found, shown, pictures) for kind, found in kinds.items() if found]
    side = min(checked.images.whole.store.shape[1:3])
    page = _filled(
        "check.html",
        title=_text(f"What check found in {checked.label}"),
        rendering="pixelated" if side < SIDE else "auto",
        lines="".join(f"<li>{_text(line)}</li>" for line in checked.lines),
        sections="\n".join(sections),
    )
    write_text(path, page)


def _pictures(checked, findings):
    """Number of an image -> its thumbnail, of those that findings name."""
    numbers = sorted({i for each in findings for i in (each.number, each.other) if i is not None})
    store = checked.images.whole.store
    return {i: thumbnail(store.read(np.array([i]))[0]) for i in numbers}


def _section(kind, found, shown, pictures):
    heading, note = _KINDS[kind]
    rest = f" The first {shown:,} are shown; --output writes all." if len(found) > shown else ""
    cards = "\n".join(_card(each, pictures) for each in found[:shown])
    return _filled(
        "check-section.html", id=kind.replace(" ", "-"), heading=f"{heading}: {len(found):,}", note=note + rest,
        cards=cards,
    )  # fmt: skip


def _card(each: Finding, pictures: dict[int, str]) -> str:
    figures = [_figure(pictures[each.number], each.split, each.image, each.label)]
    if each.other is not None:
        figures.append(_figure(pictures[each.other], each.other_split, each.other_image, each.other_label))
    text = _text(each.label)
    if each.finding == "label":
        text = (
            f"{text} ({float(each.label_confidence):.1%}), or rather <strong>{_text(each.suggested_label)}</strong> "
            f"({float(each.confidence):.1%})"
        )
    elif each.other is not None and each.other_label != each.label:
        text = f"<strong>two classes: {text} and {_text(each.other_label)}</strong>"
    return _filled("check-card.html", figures="".join(figures), text=text)


def _figure(picture, split, image, label):
    caption = image if image.startswith(f"{split} ") else f"{split}: {image}"
    return _filled("check-figure.html", source=picture, alt=_text(label), caption=_text(caption))


def _text(text):
    return html.escape(visible(text))


@functools.cache
def _template(name):
    return string.Template((_TEMPLATES / name).read_text(encoding="utf-8"))


def _filled(name, **values):
    return _template(name).substitute(values)
