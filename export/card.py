"""What goes with an exported file: its model card and its labels."""

import dataclasses
import pathlib
import shlex

from export.metadata import Metadata, VariantFigures
from keras_cifar.errors import InputError
from keras_cifar.files import size_of, write_text
from keras_cifar.metrics import format_top1, read_confusion
from keras_cifar.names import markdown, markdown_code, one_line
from keras_cifar.runs.evaluation_file import read_evaluation

_KINDS = {
    ".xml": "OpenVINO IR, this file and the .bin next to it,",
    ".tflite": "one LiteRT file",
    ".savedmodel": "a SavedModel folder",
}


def card_path(path: pathlib.Path) -> pathlib.Path:
    """The model card that belongs to a file."""
    return path.with_name(f"{name_of(path)}.md")


def name_of(path: pathlib.Path) -> str:
    """What the names of the files next to an exported one begin with, so that files of two kinds can share a folder."""
    return path.name if path.suffix in _KINDS else path.stem


def labels_path(path: pathlib.Path) -> pathlib.Path:
    """The class names next to a file, one per line; a line end within a name is written as `\\n`."""
    return path.with_name("labels.txt")


def check_labels(path: pathlib.Path, class_names: list[str]) -> None:
    """Raises InputError where the folder's labels.txt belongs to something else."""
    labels = labels_path(path)
    if labels.exists() and not _holds(labels, labels_text(class_names)):
        raise InputError(
            f"Expected {labels} to be free, but it lists other classes; choose a folder of its own as --output."
        )


def write_labels(path: pathlib.Path, class_names: list[str]) -> None:
    """Writes labels.txt next to a file."""
    write_text(labels_path(path), labels_text(class_names))


def labels_text(class_names: list[str]) -> str:
    """Class names, one per line; a line end within a name is written as `\\n`."""
    return "".join(f"{one_line(name)}\n" for name in class_names)


def write_card(path: pathlib.Path, metadata: Metadata) -> None:
    """Writes the model card from the file's metadata and the evaluations next to it.

    Args:
        path: of the ONNX file.
        metadata: see `export.metadata.Metadata`.
    """
    write_text(card_path(path), _card_text(path, metadata))


def new_card_text(path: pathlib.Path, metadata: Metadata, size: int) -> str:
    """The card of a file that is not in its place yet.

    Args:
        path: where it is going to be.
        metadata: see `export.metadata.Metadata`.
        size: of the file, in bytes.
    """
    return _card_text(path, metadata, size)


def is_edited(path: pathlib.Path, metadata: Metadata) -> bool:
    """Whether a file's card is another than `write_card` would write now, as one that somebody has edited is."""
    card = card_path(path)
    return card.is_file() and not _holds(card, _card_text(path, metadata))


def _holds(path, text):
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text


def _card_text(path, metadata, new_size=None):
    figures = path.with_name(f"{name_of(path)}.evaluation_test.json")
    evaluation = read_evaluation(figures) if new_size is None and figures.is_file() else None
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    size = sum(map(size_of, files)) if new_size is None else new_size
    recipe = metadata.recipe | {"weights": markdown(metadata.recipe["weights"])}
    metadata = dataclasses.replace(
        metadata, data=markdown(metadata.data), title=markdown(metadata.title), recipe=recipe
    )
    sections = [
        f"# {markdown(path.name)}",
        _summary(metadata, path, size),
        "## Use\n\n" + _use(path),
        *([f"## When it is unsure\n\n{_thresholds(metadata)}"] if metadata.selective or metadata.rejection else []),
        "## Trained on\n\n" + _training(metadata),
        "## Metrics\n\n" + _metrics(metadata, evaluation, path.suffix),
        "## Classes it is worst at\n\n" + _weaknesses(metadata, evaluation),
        "## Same as Keras\n\n" + _parity(metadata, path.suffix),
        "## Variants\n\n" + variants_table(metadata.variants),
        "## Intended use\n\n" + _intended(metadata),
        "## Licence\n\n" + _licence(metadata),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


_SHAPED = {
    "crop": "cut to the square in their centre",
    "pad": "filled up with bars of ImageNet's mean colour",
    "squash": "scaled to a square, out of proportion",
}


_LOOKS = {
    "plain": "looks at the image once",
    "tta": "averages the logits of the image and its mirror image",
    "selective": "looks at the image once; where it is not sure, `OnnxClassifier` lets it look at the mirror image, "
    "too, and averages both",
}


def _summary(metadata, path, size):
    recipe, side = metadata.recipe, metadata.input_size[0]
    views, kind = _LOOKS[metadata.view], _KINDS.get(path.suffix, "one ONNX file")
    return (
        f"An image classifier for {len(metadata.class_names)} classes: {recipe['backbone']}, level "
        f"{metadata.level} ({metadata.title}), as {kind} ({size / 1e6:.1f} MB, opset "
        f"{metadata.opset}, {metadata.precision}). It takes uint8 RGB images ({side} x {side}, any batch size) "
        f"as they are, and resizes them to {recipe['image_size']} px and normalises them inside; it {views}. "
        f"Pictures that are not square are {_SHAPED[metadata.resize]} before. "
        "Outputs: `logits` and `probabilities`."
    )


def _use(path):
    name = path.name
    command = markdown_code(f"keras-cifar predict {shlex.quote(name)} photo.jpg")
    literal = repr(name) if set(name) & set('"\\') or not name.isprintable() else f'"{name}"'
    text = _USE_OTHER if path.suffix in _KINDS else _USE
    return text.format(literal=literal, command=command)


_USE_OTHER = """```python
from export.open_file import open_file

classifier = open_file({literal})
classifier.predict(["photo.jpg"])  # file names, or uint8 arrays of any size
```

From the command line: {command}. With its runtime alone: feed `images`
(batch, height, width, 3) uint8 and read `probabilities`; the classes are in `labels.txt`."""
_USE = """```python
from export import OnnxClassifier

classifier = OnnxClassifier({literal})
classifier.predict(["photo.jpg"])  # file names, or uint8 arrays of any size
```

From the command line: {command}. With onnxruntime alone: feed `images`
(batch, height, width, 3) uint8 and read `probabilities`; the classes are in `labels.txt`. From version 1.29 on,
onnxruntime reports to Microsoft unless the environment variable `ORT_DISABLE_TELEMETRY=1` is set before its import;
`OnnxClassifier` and the command line set it themselves."""


def _thresholds(metadata):
    """What its thresholds do on val, and what a runtime alone does without them."""
    texts = []
    if kept := metadata.rejection:
        texts.append(
            f"A prediction whose probability is below {kept['threshold']:.4f} counts as unsure: none of these classes, "
            f"or not clear which. On val that is {100 * (1 - kept['coverage']):.2f} % of the images, where "
            f"{100 * kept['fraction']:g} % were asked for; of the other {100 * kept['coverage']:.2f} % it is right for "
            f"{format_top1(kept)}, of all for {format_top1(metadata.val)}. `OnnxClassifier.predict` answers None for "
            "them, and the command line `unsure`. A runtime alone gives probabilities only: compare the largest with "
            "the threshold, which is in the file's metadata under `rejection`."
        )
    if found := metadata.selective:
        texts.append(
            f"The mirror image is looked at where the first view's probability is below {found['threshold']:.4f}. On "
            f"val that takes {found['views']:.2f} views an image and gives top-1 {100 * found['top1']:.2f} % (one view "
            f"{100 * found['top1_plain']:.2f} %, both views of every image {100 * found['top1_tta']:.2f} %). The graph "
            "has one view: a runtime alone gives that one, unless it does the same (metadata `selective`)."
        )
    return "\n\n".join(texts)


def _training(metadata):
    recipe = metadata.recipe
    count = f"{recipe['limit']:,} of the" if recipe["limit"] else "the"
    versions = ", ".join(f"{name} {version}" for name, version in metadata.versions.items())
    return (
        f"The backbone's {recipe['weights'].replace('none', 'random')} weights, then {count} training images of "
        f"{metadata.data} (fingerprint `{metadata.data_fingerprint[:16]}`); {_unseen(recipe)}. Weights: sha256 "
        f"`{metadata.weights_sha256}`. Versions: {versions}."
    )


def _unseen(recipe):
    if recipe.get("refit"):
        return (
            "among them are nine tenths of val, on which the number of epochs was chosen before (a refit): what is "
            "called val here is the tenth that was left out"
        )
    return "val, on which the epoch was chosen, is not among them"


def _metrics(metadata, evaluation, suffix):
    is_exact = suffix == ".onnx" or metadata.precision != "int8"
    rows = ["| what | split | top-1 (95 % interval) | calibration error |", "| --- | --- | --- | --- |"]
    rows.append(_row("this file" if is_exact else "its graph on onnxruntime", "val", metadata.val))
    if evaluation:
        rows.append(_row("this file", f"test of {markdown(evaluation.data)}", evaluation.best))
    if metadata.test:
        rows.append(_row(f"the Keras model it came from, {_views(metadata)}", "test", metadata.test))
    if not evaluation and not metadata.test:
        rows.append("\nTest was not read yet: `keras-cifar evaluate` adds it here.")
    for split, found in (("Val", metadata), ("Test", evaluation)):
        if found and found.cpu_kind:
            rows.append(f"\n{split} of this file was measured on {markdown(found.cpu)} ({found.cpu_kind}).")
    if calibration := metadata.calibration:
        rows.append(
            f"\nProbabilities are those of logits / {calibration['temperature']:.3f}, fitted on val; calibration "
            f"error on val {calibration['error_before']:.4f} before, {calibration['error_after']:.4f} after. This "
            "file's rows above are of these probabilities, the Keras model's without a temperature."
        )
    return "\n".join(rows)


def _views(metadata):
    return "one view" if metadata.view == "plain" else "flip TTA"


def _row(what, split, metrics):
    error = metrics["calibration_error"]
    return f"| {what} | {split}, {metrics['images']} images | {format_top1(metrics)} | {error:.4f} |"


def _weaknesses(metadata, evaluation):
    metrics, split = (evaluation.best, "test") if evaluation else (metadata.val, "val")
    known = sorted((v, k) for k, v in metrics["per_class"].items() if v is not None)
    names, confusion, lines = list(metrics["per_class"]), read_confusion(metrics), []
    for recall, name in known[:3]:
        row = confusion[names.index(name)].copy()
        row[names.index(name)] = -1
        other = names[row.argmax()]
        lines.append(
            f"- {markdown(name)}: {100 * recall:.1f} % found on {split}, most often taken for {markdown(other)}"
        )
    return "\n".join(lines)


def _parity(metadata, suffix):
    parity = metadata.parity
    worst = max(check["max_difference"] for check in parity["checks"])
    sizes = sorted({check["batch_size"] for check in parity["checks"]})
    text = (
        f"On the {parity['images']} images of {parity['split']}, at batch sizes {', '.join(map(str, sizes))}, with "
        f"TTA and without, the float32 graph's logits differ from those of Keras by at most {worst:.1e}; "
        f"{sum(check['mismatches'] for check in parity['checks'])} predictions differ beyond ties."
    )
    if metadata.golden:
        text += (
            " The file carries its answers to 16 generated images: `keras-cifar doctor FILE` says whether it gives the "
            "same on another machine."
        )
    if int8 := metadata.quantization:
        text += (
            f" INT8 was made from it, calibrated on {int8['calibrated_on']} training images, with "
            f"{len(int8['in_float'])} of {int8['layers']} layers in float: {0 - int8['drop']:+.2f} points of val, the "
            f"worse of plain and TTA ({-int8['max_drop']:+g} allowed)."
        )
        if weights := int8.get("weights"):
            text += f" The weights ({weights}) are chosen so that 8-bit kernels without VNNI cannot saturate"
            text += ": the file gives the same numbers on every x86 CPU." if suffix == ".onnx" else "."
        if suffix != ".onnx":
            text += " Figures of val, thresholds and speeds are of the graph on onnxruntime, whose 8-bit sums differ."
    return text


def _intended(metadata):
    known = ", ".join(map(markdown, metadata.class_names))
    return _INTENDED.format(data=metadata.data, classes=known, none=_NONE[metadata.rejection is not None])


_NONE = {
    False: """Every image gets one of these classes: the
model has no way to say "none of them".""",
    True: """What it is not sure of, it
leaves unanswered; but it can be sure of an image that is none of them.""",
}
_INTENDED = """Telling apart {classes} in pictures like those of {data}. {none} """
_INTENDED += """It has not been tested on other kinds of pictures, for fairness, or against
attacks, and should not decide alone where an error does harm."""


def _licence(metadata):
    weights = metadata.recipe["weights"]
    pretrained = {
        "imagenet": "The backbone's pretrained weights: "
        f"{metadata.license or 'those of the preset, whose licence is not known here'}.",
        "none": "The backbone was not pretrained.",
    }.get(weights, "The backbone's pretrained weights came from a file whose licence is not known here.")
    return f"Code: Apache-2.0. {pretrained} Check the terms of the training data ({metadata.data}) for your use."


def variants_table(variants: list[VariantFigures]) -> str:
    """Size, val accuracy and speed of each variant, as a Markdown table."""
    lines = ["| variant | size, MB | val top-1 (95 % interval) | images/s at batch 64 | times fp32 |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in variants:
        lines.append(
            f"| {row['name']} | {row['bytes'] / 1e6:.1f} | {format_top1(row)} | {row['images_per_second']:,.0f} | "
            f"{row['speedup']:.2f} |"
        )
    return "\n".join(lines) + "\n"
