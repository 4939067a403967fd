"""Folders of labelled images: which folder is a split or a class, and which images become val.

Nothing here decodes an image, and nothing prints: `ImageFolder.notes` holds what a person should know.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import re
import unicodedata

from keras_cifar.data.listing import (
    FOLDER,
    IMAGE,
    READ_ALREADY,
    ImageFile,
    ancestors,
    describe_left_out,
    entries,
    identity,
    list_by_class,
    list_images,
    name_in_utf8,
)
from keras_cifar.errors import InputError

VAL_FRACTION = 0.2
# What timm, Ultralytics, fastai, Hugging Face and Keras call them. `eval` is val to timm and test to Hugging Face.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "val or test": ("eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_KNOWN_NAMES = ", ".join(name for split in ("train", "val", "test") for name in SPLIT_NAMES[split])
_SPLIT_NAME = re.compile(r"([a-z]+?)[ _-]?(?:set|data|images)?")  # also `training_set`, `Test Data`
_BESIDE = "image{s} next to the folders"


def hold_out(files: list[ImageFile], split_seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divides images into train and val by a hash of seed and key, about 20 % of them into val.

    Whether an image is in val does not depend on the other files: adding, removing or renaming some moves no other
    image. `keras_cifar.data.datasets.stratified_split` differs: it holds out exactly the same share of every class,
    but deals all images anew when their number changes. Here shares vary by chance.

    Two exceptions keep small folders usable, and only they depend on other files: the image of a class with the
    largest hash always stays in train, and where no hash is below 20 %, the smallest of an image that its class can
    spare goes to val.

    Args:
        files: whose keys start with their class.
        split_seed: of the choice.

    Returns:
        Those of train and those of val, in the given order; val is empty only where no class has two images.
    """
    scores = {file.key: _score(split_seed, file.key) for file in files}
    anchors: dict[str, str] = {}
    for file in files:
        name = file.key.partition("/")[0]
        anchors[name] = max(anchors.get(name, file.key), file.key, key=lambda key: (scores[key], key))
    spare = [key for key in scores if anchors[key.partition("/")[0]] != key]
    held = {key for key in spare if scores[key] < VAL_FRACTION}
    if not held and spare:
        held = {min(spare, key=lambda key: (scores[key], key))}
    return [file for file in files if file.key not in held], [file for file in files if file.key in held]


def _score(split_seed, key):
    digest = hashlib.sha256(f"{split_seed}/{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # exact as a float


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of labelled images.

    Attributes:
        name: of the folder.
        class_names: the label is the index.
        given: images of each split that has a folder of its own; of "train" before val is cut from it.
        notes: one line for people on each split: how many images of how many classes, and what was left out.
    """

    name: str
    class_names: list[str]
    given: dict[str, list[ImageFile]]
    notes: list[str]

    @functools.cached_property
    def _label_of(self):
        return {_clean(name): label for label, name in enumerate(self.class_names)}

    def label(self, file: ImageFile) -> int:
        """The index of an image's class."""
        return self._label_of[file.key.partition("/")[0]]

    def files(self, split: str, split_seed: int = 0) -> list[ImageFile] | None:
        """The images of "train", "val" or "test", sorted by key, or None where there is no such split.

        Where there is no folder for val, it is cut from train: see `hold_out`.
        """
        if split == "test" or "val" in self.given or "train" not in self.given:
            return self.given.get(split)
        return hold_out(self.given["train"], split_seed)[split == "val"]

    def counts(self, split: str, split_seed: int = 0) -> dict[str, int] | None:
        """Images of each class, or None where there is no such split."""
        files = self.files(split, split_seed)
        if files is None:
            return None
        found = collections.Counter(map(self.label, files))
        return {name: found[label] for label, name in enumerate(self.class_names)}


def open_folder(
    root: str | os.PathLike, class_names: list[str] | None = None, flat_is_test: bool = False
) -> ImageFolder:
    """Lists a folder of class folders, or of splits that hold class folders.

    Splits are told by their names in any case, see `SPLIT_NAMES`, with or without "set", "data" or "images" behind
    them; a folder of such a name that holds images and no folders is a class.

    Args:
        root: the folder.
        class_names: of a classifier that is to be scored: labels follow their order, classes may be missing, and there
            need be no train. None to train: the class folders of train, sorted, each with an image.
        flat_is_test: whether class folders without splits are the test images, and not those of train and val.

    Raises:
        InputError: the folder cannot be used, or can be understood in two ways.
    """
    _check_root(os.fspath(root))
    top, names = _unwrapped(os.fspath(root)), class_names or []
    training = class_names is None
    splits, notes = _find_splits(top, training, flat_is_test and not training)
    above, given, read = ancestors(top), {}, {}
    for split, path in splits.items():
        folders, left_out = _class_folders(path, above)
        if training and split == "train":
            names = _checked_classes(folders, path)
        _check_known(folders, names, path, training)
        listings, read[split] = list_by_class(folders, above)
        left_out = sum((listing.left_out for listing in listings.values()), left_out)
        if training:
            _check_filled(split, listings, left_out, path, "val" not in splits)
        given[split] = [image for listing in listings.values() for image in listing.images]
        notes += _describe(split, "val" not in splits, listings, left_out, names)
    _check_apart(read, above, splits)
    return ImageFolder(_name(top), names, given, notes)


def _check_root(root):
    if not os.path.isdir(root):
        found, todo = ("there is none", "check") if not os.path.exists(root) else ("it is a file", "unpack it or check")
        raise InputError(f"Expected a folder of images in {root}, but {found}; {todo} --data folder:PATH.")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"Expected a folder that can be read, but {root} cannot be opened; check its permissions.")


def _unwrapped(folder):
    """The folder inside one that holds nothing but one of the same name, as archives are often unpacked."""
    while True:
        folders, left_out = _look(folder, ancestors(folder))
        if left_out[_BESIDE] or [inner.casefold() for inner in folders] != [_name(folder).casefold()]:
            return folder
        (inner,) = folders.values()
        if not _look(inner, ancestors(folder))[0]:
            return folder
        folder = inner


def _find_splits(root, training, flat_is_test):
    """The folder of each split, train first, and what to say of it."""
    folders, left_out = _look(root, ancestors(root))
    named = {name: split for name in folders if (split := split_of(name))}
    flat = [name for name in named if _holds_images_only(folders[name])]
    others = [name for name in folders if named and name not in named and list_images(folders[name]).images]
    if len(flat) == len(named):
        notes = _checked_flat(root, named, others)
        _check_no_splits(root, folders)
        return {"test" if flat_is_test else "train": root}, notes
    if nested := [name for name in flat if named[name] == "train"]:
        raise _no_classes(root, nested)
    splits: dict[str, list[str]] = {}
    for name, split in named.items():
        splits.setdefault(split, []).append(name)
    _check_unambiguous(root, splits, others)
    if training and "train" not in splits:
        raise InputError(
            f"Expected a train/ folder next to {_listed(named)} in {root}, but there is none; add it, or rename what "
            "is a class and no split."
        )
    left = [f"{_listed(others)} (no split)"] * bool(others) + [describe_left_out(left_out)] * bool(left_out)
    notes = [f"{_name(root)}: left out {', '.join(left)}"] if left else []
    return {split: _unwrapped(folders[splits[split][0]]) for split in SPLIT_NAMES if split in splits}, notes


def split_of(name: str) -> str | None:
    """The split that a name means, "val or test" where it means either, or None."""
    match = _SPLIT_NAME.fullmatch(name.strip().casefold())
    return match and _SPLIT_OF.get(match[1])


def _check_no_splits(root, folders):
    """Refuses class folders that are rather splits of another name, such as `seg_train` and `seg_test`."""
    kinds = {name: {split_of(word) for word in re.split(r"[\W\d_]+", name)} - {None} for name in folders}
    alike = [name for name in folders if kinds[name]]
    found = set().union(*kinds.values())
    if "train" not in found or len(found) == 1:
        return
    if len(alike) == len(folders) or not any(_holds_images_only(folders[name]) for name in alike):
        raise InputError(
            f"Expected classes or splits in {root}, but {_listed(alike)} look like splits and are not among "
            f"{_KNOWN_NAMES}; rename them, with one subfolder per class in each."
        )


def _checked_flat(root, named, others):
    """What to say of class folders of which some are named as splits are."""
    kinds = set(named.values())
    if named and (not others or ("train" in kinds and len(kinds) > 1)):
        raise _no_classes(root, named)
    return [f"{_listed(named)} in {root} counts as a class: it holds images and no folders"] if named else []


def _no_classes(root, names):
    return InputError(
        f"Expected one subfolder per class in {_listed(names)} of {root}, but the images are directly in it; move each "
        "class's images into a subfolder named for it."
    )


def _check_unambiguous(root, splits, others):
    for split, names in splits.items():
        if len(names) > 1:
            raise InputError(
                f"Expected one folder for {split} in {root}, but found {_listed(names)}; keep one of them."
            )
    if either := splits.get("val or test"):
        raise InputError(
            f"Expected splits named {_KNOWN_NAMES} in {root}, but {_listed(either)} is val to some and test to others; "
            "rename it."
        )
    if others and len(splits) == 1:
        raise InputError(
            f"Expected splits or classes in {root}, but {_listed(*splits.values())} is named as a split and "
            f"{_listed(others)} next to it hold images as classes do; move the classes into train/, or rename a class."
        )


def _listed(names):
    names = sorted(names)
    return ", ".join(f"{name}/" for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _look(folder, above):
    """The visible folders directly in a folder by name, and what else is there."""
    left_out: collections.Counter = collections.Counter()
    folders = {}
    for entry, kind in entries(folder, left_out):
        if kind == IMAGE:
            left_out[_BESIDE] += 1
        elif kind != FOLDER:
            continue
        elif entry.is_symlink() and identity(entry.path) in above:
            left_out[READ_ALREADY] += 1
        else:
            folders[name_in_utf8(entry.name)] = entry.path
    return dict(sorted(folders.items())), left_out


def _name(folder):
    return name_in_utf8(os.path.basename(os.path.abspath(folder)))


def _holds_images_only(folder):
    folders, left_out = _look(folder, ())
    return not folders and left_out[_BESIDE] > 0


def _clean(name):
    """A class by any spelling of its folder: macOS takes Unicode apart, and trailing spaces cannot be seen."""
    return unicodedata.normalize("NFC", name).strip() or name


def _class_folders(root, above):
    """Class -> its folder, and what else was in the folder of the split."""
    found, left_out = _look(root, above)
    folders = {}
    identities: dict[tuple[int, int], str] = {}
    for name, path in found.items():
        if any("\udc80" <= letter <= "\udcff" for letter in name):  # how Python shows bytes that are no UTF-8
            raise InputError(f"Expected class folders named in UTF-8 in {root}, but found {name!a}; rename it.")
        if _clean(name) in folders:
            raise InputError(
                f"Expected class folders of different names in {root}, but two are called {_clean(name)!r} with other "
                "spaces or another form of Unicode; merge or rename them."
            )
        other = identities.setdefault(identity(path), name)
        if other != name:
            raise InputError(
                f"Expected a folder for each class in {root}, but {other} and {name} are the same one; remove a link."
            )
        folders[_clean(name)] = path
    return dict(sorted(folders.items())), left_out


def _checked_classes(folders, root):
    if len(folders) < 2:
        inner = [path for path in folders.values() if len(_look(path, ())[0]) > 1]
        todo = f"name --data folder:{inner[0]}" if inner else "put each class's images into a subfolder named for it"
        raise InputError(f"Expected at least two class folders in {root}, but found {len(folders)}; {todo}.")
    return list(folders)


def _check_known(folders, class_names, root, training):
    known = {_clean(name) for name in class_names}
    if unknown := [name for name in folders if name not in known]:
        owner = "of train" if training else "that the classifier knows"
        raise InputError(
            f"Expected in {root} the classes {owner} ({', '.join(class_names[:5])}...), but found also "
            f"{', '.join(unknown[:5])}; move or rename them."
        )


def _check_filled(split, listings, left_out, root, is_cut):
    """Every class needs an image in train, and val needs one."""
    reason = f" (left out there: {describe_left_out(left_out)})" if left_out else ""
    counts = {name: len(listing.images) for name, listing in listings.items()}
    if split != "test" and not any(counts.values()):
        todo = "add images" if split == "train" else "add images or remove the folder, and val is cut from train"
        raise InputError(f"Expected .jpg, .png or other images in {root}, but found none{reason}; {todo}.")
    if split != "train":
        return
    if empty := [name for name, count in counts.items() if not count]:
        raise InputError(
            f"Expected an image in each class folder of {root}, but {len(empty)} of {len(counts)} have none: "
            f"{_listed(empty)}{reason}; add images or remove the folders."
        )
    if is_cut and max(counts.values()) < 2:
        raise InputError(
            f"Expected a second image of a class in {root} to cut val from, but each class has one; add images, or a "
            "val/ folder."
        )


def _check_apart(read, above, splits):
    for first, second in itertools.combinations(read, 2):
        if read[first] & read[second] - above:
            raise InputError(
                f"Expected other images in {second} than in {first}, but by links {splits[first]} and "
                f"{splits[second]} hold the same folder; remove the links."
            )


def _describe(split, is_cut, listings, left_out, class_names):
    """A line on a split, and one on names that are easily mixed up."""
    images = sum(len(listing.images) for listing in listings.values())
    found = {name for name, listing in listings.items() if listing.images}
    missing = [name for name in class_names if _clean(name) not in found]
    text = f"{images:,} image{'s' * (images != 1)} of {len(found):,}"
    if not images:
        text = "no images in class folders"
    elif missing:
        text += f" of {len(class_names):,} classes (none of {', '.join(missing[:3])}{', ...' * (len(missing) > 3)})"
    else:
        text += " classes"
    cut = split == "train" and is_cut
    line = f"{'train and val' if cut else split}: {text}{', val is cut from them' if cut else ''}"
    lines = [f"{line}; left out {describe_left_out(left_out)}" if left_out else line]
    folded = collections.Counter(map(str.casefold, found))
    if alike := [name for name in sorted(found) if folded[name.casefold()] > 1]:
        lines.append(f"{split}: classes that differ by case only are kept apart: {', '.join(alike[:6])}")
    return lines
