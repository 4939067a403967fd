"""What a run has written down of its data, and whether it meets the same data again."""

import dataclasses
import os
from collections.abc import Callable

from keras_cifar.data.datasets import Source, Split
from keras_cifar.data.specs import data_path, is_url
from keras_cifar.errors import InputError
from keras_cifar.recipes import Recipe

# Of what `describe_data` gives, what an exported file keeps in addition to its class names.
IDENTITY = ("data_fingerprint", "val_fingerprint", "images", "image_shape", "listings")
_FINGERPRINTS = {"train": "data_fingerprint", "val": "val_fingerprint"}


def describe_data(source: Source, train: Split, val: Split, recipe: Recipe) -> dict:
    """What identifies a training's images, as JSON values without a path of the machine.

    Args:
        source: they were read from.
        train: training images, after any limit.
        val: val images.
        recipe: by whose `division` and `limit` they were chosen.
    """
    record = {
        "data": source.label,
        "data_fingerprint": train.fingerprint(),
        "val_fingerprint": val.fingerprint(),
        "images": {"train": len(train), "val": len(val)},
        "image_shape": list(source.image_shape),
        "class_names": source.class_names,
        "listings": _listings(source, recipe.split_seed),
        "has_test": source.has_test,
    }
    if recipe.refit:  # its epochs were chosen by a run on these
        chosen_on = dataclasses.replace(recipe.division, refit=False)
        record["chosen_fingerprint"] = source.load("train", chosen_on, recipe.limit).fingerprint()
    return record


def _listings(source, split_seed):
    """The digest of each split's file names and sizes; empty for a source without files of its own."""
    return {split: found for split in _FINGERPRINTS if (found := source.listing(split, split_seed)) is not None}


def data_changes(
    then: dict, source: Source, recipe: Recipe, splits: tuple[str, ...] = ("train", "val"), by_files: tuple = ()
) -> list[str]:
    """What is no longer as it was, in words; empty where nothing has changed.

    Args:
        then: what `describe_data` gave, or less: what it lacks is not compared.
        source: the data now.
        recipe: whose `split_seed` and `limit` the images were chosen by then.
        splits: to compare.
        by_files: those whose pixels are not read where the names and sizes of all files are as they were.
    """
    if then.get("class_names", source.class_names) != source.class_names:
        return [f"the classes are {_some(source.class_names)} and were {_some(then['class_names'])}"]
    files, shape = _listings(source, recipe.split_seed), list(source.image_shape)
    is_same_shape = then.get("image_shape", shape) == shape
    has_same_files = bool(files) and files == then.get("listings")
    changes = []
    for split in splits:
        if has_same_files and (split in by_files or not is_same_shape):
            continue
        changes += _split_changes(then, source, recipe, split, is_same_shape)
    if not is_same_shape and not changes and then.get("listings", files) != files:
        changes.append("its files are others")
    return changes


def _some(names):
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _split_changes(then, source, recipe, split, is_same_shape):
    """Pixels of another shape are others in any case: then the number of images must do."""
    count = then.get("images", {}).get(split)
    fingerprint = then.get(_FINGERPRINTS[split]) if is_same_shape else None
    if count is None and fingerprint is None:
        return []
    if source.folder and source.listing(split, recipe.split_seed) is None:
        return [f"it has no {split}"]
    now = _load(source, split, recipe)
    if count not in (None, len(now)):
        return [f"{split} has {len(now):,} images and had {count:,}"]
    if fingerprint is not None and not now.matches(fingerprint):
        return [f"{split} has other pixels or labels" if count else f"{split} has other images"]
    return []


def _load(source, split, recipe):
    """A split; without the limit where fewer images than that are left."""
    found = source.load(split, recipe.division)
    if split == "train" and recipe.limit is not None and recipe.limit <= len(found):
        return source.load(split, recipe.division, recipe.limit)
    return found


def is_data_of(then: dict, recipe: Recipe, data: str, source: Source) -> bool:
    """Whether data is that of a training, by its path or, if it was moved, by the names and sizes of its files.

    Args:
        then: see `data_changes`.
        recipe: of the training.
        data: name of the data set, see `keras_cifar.data.datasets.open_data`.
        source: what was opened under that name.
    """
    now, before = data_path(data), data_path(recipe.data)
    if now is not None and before is not None and os.path.realpath(now) == os.path.realpath(before):
        return True
    listing = then.get("listings", {}).get("train")
    return data == recipe.data or (listing is not None and listing == source.listing("train", recipe.split_seed))


def check_changes(
    changes: list[str], owner: str | os.PathLike, allowed: bool, say: Callable[[str], None] = print
) -> None:
    """Refuses data that has changed, or says so where that is allowed.

    Args:
        changes: see `data_changes`.
        owner: what has met the data before, for the message.
        allowed: whether to use it nevertheless.
        say: gets the line.

    Raises:
        InputError: there are changes, and they are not allowed.
    """
    text = ", ".join(changes)
    if changes and not allowed:
        raise InputError(
            f"Expected the data of {owner}, but {text}; name that data with --data or --data-dir, or pass "
            "--allow-changed-data to use this data, which is recorded."
        )
    if changes:
        say(f"Not the data of {owner}: {text}; used because of --allow-changed-data")


def known_changes(record: dict, changes: list[str]) -> list[str]:
    """The `changed_data` of a record with new changes, each once."""
    return list(dict.fromkeys([*record.get("changed_data", []), *changes]))


def absolute_data(data: str) -> str:
    """A data set's name, its path, if it has one, independent of the working directory."""
    path = data_path(data)
    return data if path is None else f"{data.partition(':')[0]}:{path if is_url(path) else os.path.abspath(path)}"


def is_same_place(data: str, other: str) -> bool:
    """Whether two names can mean the same data: folders move, and their content tells."""
    return data == other or None not in (data_path(data), data_path(other))
