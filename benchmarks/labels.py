"""How well `check` finds wrong labels: on CIFAR-10's test images, against people's votes on 275 of them."""

import csv
import pathlib

import numpy as np

from keras_cifar import open_run
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import open_data
from keras_cifar.data.suspects import find_suspects, probe_logits
from keras_cifar.evaluation.inspection import embed, open_judge

BACKBONE = "efficientnet_lite0"
LENGTHS = (25, 50, 100, 200, 400)
_MAJORITY = 3  # of five votes


def measure(reference: str, data_dir: str | None, run: str | None, files: str | None) -> dict:
    """Prints and returns precision and recall of the labels that features, and a run, find the least plausible.

    Args:
        reference: CSV of reviewed images: `tfds_id`, `votes_given`.
        data_dir: folder of prepared TFDS data sets.
        run: a finished run on CIFAR-10; None to measure features alone.
        files: folder where the run's logits are kept; None to predict anew.
    """
    source = open_data("cifar10", data_dir)
    splits = {name: source.load(name) for name in ("train", "val", "test")}
    reviewed, wrong = _votes(reference, data_dir)
    labels = splits["test"].labels
    features = {name: embed(split, BACKBONE) for name, split in splits.items()}
    ways = {"features, test alone": probe_logits(np.asarray(features["test"]), labels)}
    everything = np.concatenate([split.labels for split in splits.values()])
    ways["features, all splits"] = probe_logits(np.concatenate([*features.values()]), everything)[-len(labels) :]
    if run is not None:
        ways["run"] = _run_logits(run, data_dir, splits["test"], files)
    found = {way: _scores(logits, labels, reviewed, wrong) for way, logits in ways.items()}
    for way, scores in found.items():
        print(way, scores, flush=True)
    return {
        "data": source.label,
        "backbone": BACKBONE,
        "run": None if run is None else _describe(open_run(run)),
        "images": len(labels),
        "reviewed": len(reviewed),
        "wrong": int(wrong.sum()),
        "ways": found,
    }


def _describe(run):
    recipe = run.recipe
    return f"level {recipe.level} of {recipe.backbone}, {recipe.image_size} px, seed {recipe.seed}"


def _votes(reference, data_dir):
    """The numbers of reviewed test images, and which have fewer votes for their label than a majority."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = tfds.builder("cifar10", data_dir=data_dir).as_dataset(split="test", decoders=decoders)
    places = {example["id"].numpy().decode(): i for i, example in enumerate(examples)}
    with open(reference, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return np.array([places[row["tfds_id"]] for row in rows]), np.array(
        [int(row["votes_given"]) < _MAJORITY for row in rows]
    )


def _run_logits(path, data_dir, test, files):
    kept = None if files is None else pathlib.Path(files, "labels-test.npz")
    if kept is not None and kept.is_file():
        with np.load(kept) as file:
            if np.array_equal(file["labels"], test.labels):
                return file["plain"]
    _, predict = open_judge(open_run(path), DataAccess(data_dir=data_dir))
    logits = predict("test", test)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, labels=test.labels, plain=logits)
    return logits


def _scores(logits, labels, reviewed, wrong):
    """Of the ranked list: what confident learning counts, and what the first images of it hold."""
    suspects, truth = find_suspects(logits, labels), set(reviewed[wrong].tolist())
    hits = np.array([image in truth for image in suspects.images.tolist()])
    looked_at = np.isin(suspects.images, reviewed)
    ranks = np.flatnonzero(hits)
    return {
        "top1": float((logits.argmax(axis=1) == labels).mean()),
        "disagree": len(suspects),
        "confident_learning": suspects.estimate,
        # Over all wrong labels: those that are not in the list count as never found.
        "average_precision": float(((np.arange(len(ranks)) + 1) / (ranks + 1)).sum() / len(truth)),
        "lists": {
            str(length): {
                "wrong": int(hits[:length].sum()),
                "reviewed": int(looked_at[:length].sum()),
                "precision": float(hits[:length].sum() / length),
                "precision_of_reviewed": float(hits[:length].sum() / max(1, looked_at[:length].sum())),
                "recall": float(hits[:length].sum() / len(truth)),
            }
            for length in LENGTHS
        },
    }
