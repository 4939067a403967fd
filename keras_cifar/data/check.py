"""What is wrong with a data set before anything is trained on it: labels, copies, odd images, uneven classes."""

import collections
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from keras_cifar.data.copies import are_too_many, image_keys, image_looks
from keras_cifar.data.datasets import Source, Split
from keras_cifar.data.findings import SPLITS, AllImages, Checked
from keras_cifar.data.images import shown_size
from keras_cifar.data.looks import find_alike, find_cropped
from keras_cifar.data.stores import blocks
from keras_cifar.data.suspects import LEAST_IMAGES, find_suspects, probe_logits
from keras_cifar.environment import free_memory
from keras_cifar.errors import InputError

SUSPECTS = 100
_TINY, _LONG = 32, 4  # pixels of the shorter side, and longer by shorter side
_NAMED = 3
_FEATURE_BYTES = 4 * 4 * 2048  # of an image: four copies of some 2,000 numbers, while labels are judged


def check_data(
    source: Source,
    split_seed: int = 0,
    embed: Callable[[Split], np.ndarray] | None = None,
    predict: Callable[[str, Split], np.ndarray | None] | None = None,
    suspects: int = SUSPECTS,
) -> Checked:
    """Looks at every image of every split.

    Args:
        source: of the images; unreadable ones should be left out rather than refused.
        split_seed: that val is cut by, where the source has none.
        embed: gives features (N, D) of a split's images, by which cropped and mirrored copies and doubtful labels are
            found, see `keras_cifar.evaluation.inspection`; None to look for none.
        predict: gives logits (N, C) of a split, by its name and images, from a classifier that was not trained on it,
            or None; where it does, they judge the split's labels in place of the features.
        suspects: doubtful labels to name at most.

    Raises:
        InputError: there are no images.
    """
    names = [split for split in SPLITS if split != "test" or source.has_test]
    splits = {name: found for name in names if (found := source.read(name, split_seed)) is not None and len(found)}
    if not splits:
        raise InputError(f"Expected images in {source.label}, but it has none; add some.")
    lines = [_describe_classes(name, split, source.class_names) for name, split in splits.items()]
    images = AllImages(source, splits, split_seed)
    findings = [*_odd_sizes(images), *_shades(images), *_copies(images)]
    features, said = _features(embed, splits)
    lines += said
    if are_too_many(images.whole, images.whole):
        lines.append(f"{len(images.whole):,} images are too many to look for near copies")
    elif not source.are_symbols:
        findings += _alike(images, findings)
        if features is not None:
            findings += _cropped(images, findings, features)
    predicted = {} if predict is None else {name: predict(name, split) for name, split in splits.items()}
    said, doubtful = _doubtful(images, source.class_names, features, predicted, findings, suspects)
    return Checked(source.label, [*lines, *said, *_summary(findings)], [*doubtful, *findings], images)


def _features(embed, splits):
    """Those of all splits, and a line where there is no memory for them; None then, and where nothing gives some."""
    count = sum(map(len, splits.values()))
    if embed is None:
        return None, []
    if count * _FEATURE_BYTES > free_memory():
        return None, [f"{count:,} images are too many for this memory to judge labels by features"]
    return np.concatenate([embed(split) for split in splits.values()]), []


def _doubtful(images, class_names, features, predicted, findings, most):
    """Lines on labels that look wrong, and the findings."""
    labels, places = images.whole.labels, np.array(images.splits)
    pairs = [(each.number, each.other) for each in findings if each.other is not None]
    probed = None if features is None else probe_logits(features, labels, pairs)
    by_run = [name for name, found in predicted.items() if found is not None]
    mine = np.flatnonzero(np.isin(places, by_run))
    found, lines = [], []
    if by_run:
        logits = np.concatenate([predicted[name] for name in by_run])
        found.append((mine, find_suspects(logits, labels[mine])))
        lines += _counted(_unknown(logits), "labels are not judged: the run's answers on them are not numbers")
    others = np.setdiff1d(np.arange(len(images)), mine)
    if probed is not None and len(others):
        found.append((others, find_suspects(probed[others], labels[others])))
        few, unknown = np.bincount(labels)[labels[others]] < LEAST_IMAGES, _unknown(probed[others])
        lines += _counted(few, f"labels of classes with fewer than {LEAST_IMAGES} images are not judged")
        lines += _counted(unknown & ~few, "labels are not judged: most other images of their class look like theirs")
    elif len(others):
        lines += _why_not(features, labels, by_run, [name for name in predicted or SPLITS if name not in by_run])
    if not found:
        return lines, []
    said, named = _named_suspects(images, class_names, found, most)
    return [*lines, *said], named


def _unknown(logits):
    return ~np.isfinite(logits).any(axis=1)


def _counted(chosen, text):
    return [f"{np.count_nonzero(chosen):,} {text}"] if chosen.any() else []


def _why_not(features, labels, by_run, left):
    """Lines on splits whose labels are not looked at; without features and a run nothing was asked for."""
    if features is None:
        names = " and ".join(left)
        text = f"labels of {names} are not judged: the run was trained on them, and there are no features to judge by"
        return [text] if by_run else []
    filled = np.count_nonzero(np.bincount(labels) >= LEAST_IMAGES)
    return [f"labels are not judged: that needs two classes of {LEAST_IMAGES} images, and {filled} has so many"]


def _named_suspects(images, class_names, found, most):
    """Lines, and findings of the labels that are the least plausible, whoever judged them."""
    numbers = np.concatenate([mine[suspects.images] for mine, suspects in found])
    suggested, confidence, given = (
        np.concatenate([getattr(suspects, name) for _, suspects in found])
        for name in ("suggested", "confidence", "given_confidence")
    )
    order = np.argsort(given, kind="stable")[:most]
    named = [
        images.finding("label", int(numbers[k]), suggested_label=class_names[suggested[k]],
                       confidence=float(confidence[k]), label_confidence=float(given[k]))
        for k in order
    ]  # fmt: skip
    judged, estimate = (sum(getattr(suspects, name) for _, suspects in found) for name in ("judged", "estimate"))
    first = "; ".join(f"{each.image}, {each.label} or rather {each.suggested_label}" for each in named[:_NAMED])
    text = f"labels: {len(numbers):,} of {judged:,} are not what the images look like, of which confident learning"
    text += f" counts {estimate:,} as wrong, many of them hard images; the {len(named):,} least plausible are named"
    text += f" ({first}{'; ...' * (len(named) > _NAMED)})"
    return [text if named else "labels: none looks wrong"], named


def _describe_classes(name, split, class_names):
    counts = np.bincount(split.labels, minlength=len(class_names))
    least, most = counts.argmin(), counts.argmax()
    text = f"{name}: {len(split):,} images of {np.count_nonzero(counts):,} classes"
    if counts[least] == counts[most]:
        return f"{text}, {counts[most]:,} each"
    return f"{text}, from {counts[least]:,} ({class_names[least]}) to {counts[most]:,} ({class_names[most]})"


def _odd_sizes(images):
    for i, file in enumerate(tqdm(images.files, desc="sizes", disable=None, leave=False)):
        width, height = shown_size(file.content())
        if min(width, height) < _TINY:
            yield images.finding("tiny", i)
        if max(width, height) > _LONG * min(width, height):
            yield images.finding("long", i)


def _shades(images):
    start = 0
    for block in blocks(images.whole.store):
        flat = block.reshape(len(block), -1, 3)
        for i in np.flatnonzero((flat.max(axis=1) == flat.min(axis=1)).all(axis=1)):
            yield images.finding("one shade", start + int(i))
        start += len(block)


def _copies(images):
    first: dict[int, int] = {}
    for i, key in enumerate(image_keys(images.whole).tolist()):
        if (j := first.setdefault(key, i)) != i:
            yield images.finding("copy", i, j)


def _alike(images, findings):
    whole: Split = images.whole
    yield from _new(images, findings, "alike", find_alike(image_looks(whole), whole.store))


def _cropped(images, findings, features):
    yield from _new(images, findings, "cropped", find_cropped(features, images.whole.store))


def _new(images, findings, what, pairs):
    """Pairs of which nothing was found yet."""
    known = {each.number for each in findings if each.other is not None}
    for i, j in zip(*pairs, strict=True):
        if i not in known:
            yield images.finding(what, int(i), int(j))


_WORDS = {
    "copy": "the same image, pixel for pixel",
    "alike": "look alike",
    "cropped": "look alike once cropped or mirrored",
    "one shade": "of one shade",
    "tiny": f"less than {_TINY} pixels high or wide",
    "long": f"more than {_LONG} times as long as wide",
}


def _summary(findings):
    """Lines that count the findings of each kind, and name some."""
    groups = collections.defaultdict(list)
    for each in findings:
        groups[each.finding, each.split, each.other_split].append(each)
    for (finding, split, other), members in groups.items():
        where = split if other in ("", split) else f"{split} and {other}"
        shown = "; ".join(
            f"{each.image} and {each.other_image}" if each.other_image else each.image for each in members[:_NAMED]
        )
        mixed = sum(each.label != each.other_label for each in members if each.other_label)
        classes = f", {mixed:,} under two classes" if mixed else ""
        yield f"{where}, {_WORDS[finding]}: {len(members):,}{classes} ({shown}{'; ...' * (len(members) > _NAMED)})"
    if not findings:
        yield "nothing else was found"
