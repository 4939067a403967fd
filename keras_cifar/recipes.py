"""What a run does, as data: `Recipe`, the levels, and how a command line becomes one recipe.

Each level is the one before it with a few fields replaced. What the levels' source left open was
chosen on val, with EfficientNet-Lite0 on CIFAR-10 (JPEG copy), seed 0; the figures lie in
results/choices and results/cifar10-jpeg-efficientnet_lite0:

- Level 1: 160 px reaches .8254 on val, 128 px .7988; at 128 px dropout .2 beats none (.7947 after
  20 epochs) and .5 (.7898). One pass computes the features, so the size costs little here.
- Level 2: on 10,000 images and 3 epochs, P5 reaches .8225 on val, the head alone .6256. P4 and P5
  together reach .8595, but that is the step that level 4 takes.
- Level 3: on 10,000 images and 3 epochs, dropout .3 reaches .8256, none .8320, .5 .8274: too close
  to choose by. A head of 512 units is no better (.8248) than one of 256. Batch normalisation kept as
  it was pretrained beats an updated one (.7965). From a rate of 5e-4 down a cosine it reaches .8466: hence
  `BACKBONE_DEFAULTS`, as the levels themselves keep their source's rates.
- Level 4: from a level 3 on all images, on 10,000 of them for 2 epochs, 5e-5 constant reaches .9131, 1e-4 and
  2e-4 down a cosine .9127 and .9126, 5e-4 .9079.
- Views: on 20,000 images and 3 epochs, level 3 reaches .8553 with fresh crops each epoch, .8551 with
  two stored views an image, .8571 with three, .8508 with one: two or more lose nothing.
"""

import dataclasses
import difflib

from keras_cifar.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's numbers.

    Attributes:
        level: key in `LEVELS`.
        title: one line for people.
        data: "cifar10", "cifar100", "digits" or "folder:PATH".
        backbone: key in `keras_cifar.backbones.BACKBONES`.
        weights: "imagenet", "none" or a path.
        image_size: side in pixels that images are resized to inside the model; a multiple of 32.
        taps: pyramid stages whose pooled outputs feed the head.
        head: key in `keras_cifar.heads.HEADS`.
        head_width: units of the fusion head's hidden layer.
        dropout: in [0, 1).
        trainable_stages: backbone stages that train; the head always does.
        train_batch_norm: whether batch normalisation in trained stages updates; if not, it keeps
            the pretrained statistics, scale and shift. In frozen stages it never updates.
        flip: random horizontal flips in training.
        crop_padding: pixels of zero padding before a random crop back to size; 0 for no crop.
        views: random crops and flips that an image is limited to: epoch e shows view e modulo `views`,
            the same for every seed, so that their features can be stored; 0 for fresh ones each epoch.
        learning_rate: Adam's, at the start.
        weight_decay: share of each kernel taken off a step, times the learning rate (AdamW, Loshchilov and
            Hutter, 2019); biases and normalisation keep theirs.
        schedule: "constant" or "cosine" (to zero at the last step).
        epochs: passes over the training images.
        batch_size: images a step.
        precision: "auto", "float32" or "bfloat16".
        tta: whether the level's headline accuracy is with flip test-time augmentation.
        seed: of initial weights, order, augmentation and dropout.
        split_seed: of the train/val split; the same for every level and seed, so that weights
            carried from one run to the next have never seen val.
        limit: training images, stratified; None for all.
        continues: level whose best weights this one starts from; None for the pretrained ones.
    """

    level: int = 1
    title: str = "Frozen backbone, linear head"
    data: str = "cifar10"
    backbone: str = "resnet18"
    weights: str = "imagenet"
    image_size: int = 128
    taps: tuple[str, ...] = ("P5",)
    head: str = "linear"
    head_width: int = 256
    dropout: float = 0.0
    trainable_stages: tuple[str, ...] = ()
    train_batch_norm: bool = False
    flip: bool = False
    crop_padding: int = 0
    views: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    epochs: int = 20
    batch_size: int = 64
    precision: str = "auto"
    tta: bool = False
    seed: int = 0
    split_seed: int = 0
    limit: int | None = None
    continues: int | None = None


_LEVEL_1 = Recipe(image_size=160, dropout=0.2, epochs=40, batch_size=256)
_LEVEL_2 = dataclasses.replace(
    _LEVEL_1,
    level=2,
    title="Augmentation, last stage fine-tuned",
    dropout=0.0,
    trainable_stages=("P5",),
    flip=True,
    crop_padding=4,
    views=3,
    learning_rate=1e-4,
    schedule="constant",
    epochs=2,
    batch_size=64,
)
_LEVEL_3 = dataclasses.replace(
    _LEVEL_2,
    level=3,
    title="Multi-scale fusion head",
    taps=("P4", "P5"),
    head="fusion",
    dropout=0.3,
    epochs=3,
)
_LEVEL_4 = dataclasses.replace(
    _LEVEL_3,
    level=4,
    title="Last two stages fine-tuned, flip TTA",
    trainable_stages=("P4", "P5"),
    views=0,
    learning_rate=5e-5,
    epochs=2,
    tta=True,
    continues=3,
)

LEVELS = {recipe.level: recipe for recipe in (_LEVEL_1, _LEVEL_2, _LEVEL_3, _LEVEL_4)}

# The test accuracies of the document these levels come from: original CIFAR-10, ResNet-18.
DOCUMENT_TEST_TOP1 = {1: "80–81 %", 2: "~70 % (partly trained)", 3: "~91.7 %", 4: "~94.25 % (TTA)"}

# What a backbone changes in a level: the levels hold their source's rates and epochs for ResNet-18.
BACKBONE_DEFAULTS = {
    "efficientnet_lite0": {
        2: {"learning_rate": 5e-4, "schedule": "cosine", "epochs": 3},
        3: {"learning_rate": 5e-4, "schedule": "cosine", "epochs": 5},
        4: {"learning_rate": 1e-4, "schedule": "cosine", "epochs": 3},
    }
}

# What a data set changes in every level: digits are no mirror images of themselves.
DATA_DEFAULTS = {"digits": {"image_size": 64, "flip": False, "tta": False, "batch_size": 32}}

DATA_NAMES = ("cifar10", "cifar100", "digits", "folder:PATH")
_CHOICES = {
    "backbone": ("resnet18", "resnet50", "efficientnet_lite0"),
    "precision": ("auto", "float32", "bfloat16"),
    "schedule": ("constant", "cosine"),
}
_MINIMA = {"epochs": 1, "batch_size": 1, "limit": 1, "image_size": 32, "seed": 0, "head_width": 1, "crop_padding": 0,
           "views": 0}  # fmt: skip


def resolve_recipe(level: int, **changes) -> Recipe:
    """A level's recipe with the backbone's and data set's defaults and the caller's changes applied, checked.

    Args:
        level: key in `LEVELS`.
        **changes: fields to replace; None leaves a field as it is.

    Raises:
        InputError: an unknown level or field, or a value out of range.
    """
    if level not in LEVELS:
        raise InputError(f"Expected a level among {', '.join(map(str, LEVELS))}, but got {level}; choose one of them.")
    changes = {name: value for name, value in changes.items() if value is not None}
    backbone = changes.get("backbone", LEVELS[level].backbone)
    data = changes.get("data", LEVELS[level].data)
    defaults = BACKBONE_DEFAULTS.get(backbone, {}).get(level, {}) | DATA_DEFAULTS.get(data, {})
    recipe = dataclasses.replace(LEVELS[level], **{**defaults, **changes})
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises InputError for the first field whose value makes no sense."""
    for field, choices in _CHOICES.items():
        value = getattr(recipe, field)
        if value not in choices:
            raise InputError(
                f"Expected {flag(field)} among {', '.join(choices)}, but got {value!r}{_closest(value, choices)}; "
                "choose one of them."
            )
    for field, minimum in _MINIMA.items():
        value = getattr(recipe, field)
        if value is not None and value < minimum:
            raise InputError(f"Expected {flag(field)} of at least {minimum}, but got {value}; pass a larger number.")
    if recipe.image_size % 32:
        raise InputError(
            f"Expected --image-size to be a multiple of 32, but got {recipe.image_size}; "
            f"try {max(32, round(recipe.image_size / 32) * 32)}."
        )
    if not 0 < recipe.learning_rate < float("inf"):
        raise InputError(f"Expected a positive --learning-rate, but got {recipe.learning_rate}; try 0.0001.")
    if not 0 <= recipe.weight_decay < float("inf"):
        raise InputError(f"Expected --weight-decay of at least 0, but got {recipe.weight_decay}; try 0.01.")
    if not 0 <= recipe.dropout < 1:
        raise InputError(f"Expected --dropout in [0, 1), but got {recipe.dropout}; try 0.2.")
    check_data_name(recipe.data)


def check_data_name(data: str) -> None:
    """Raises InputError unless a data set is one of `DATA_NAMES`."""
    if data not in DATA_NAMES[:-1] and not (data.startswith("folder:") and data[7:]):
        raise InputError(
            f"Expected --data among {', '.join(DATA_NAMES)}, but got {data!r}{_closest(data, DATA_NAMES)}; choose one "
            "of them."
        )


def recipe_changes(values, level: int, path: str) -> dict:
    """The changes for `resolve_recipe` that a recipe file holds: a whole recipe, or some of its fields.

    Args:
        values: what the file holds.
        level: that the file must be for, if it says.
        path: of the file, for the message.

    Raises:
        InputError: a field is unknown or has another form, or the recipe is another level's.
    """
    if not isinstance(values, dict):
        raise InputError(
            f"Expected the fields of a recipe in {path}, but it holds {type(values).__name__}; name another file."
        )
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for name, value in values.items():
        if name not in fields:
            raise InputError(
                f"Expected fields of a recipe in {path}, but it has {name!r}{_closest(name, fields)}; "
                "correct or remove it."
            )
        if not _has_form(value, fields[name].default):
            raise InputError(
                f"Expected {name} in {path} to be like {fields[name].default!r}, but it is {value!r}; correct it."
            )
    if values.get("level", level) != level:
        raise InputError(
            f"Expected a recipe of level {level} in {path}, but it is of level {values['level']}; pass "
            f"--level {values['level']} or name another file."
        )
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    changes.pop("level", None)
    return changes


def _has_form(value, default):
    """Whether a JSON value can stand where a field has its default."""
    if default is None:
        return value is None or type(value) is int
    if isinstance(default, float):
        return type(value) in (int, float)
    if isinstance(default, tuple):
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    return type(value) is type(default)


def flag(field: str) -> str:
    """The command-line spelling of a recipe's field."""
    return "--" + field.replace("_", "-")


def _closest(value, choices):
    match = difflib.get_close_matches(str(value), choices, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def recipe_to_dict(recipe: Recipe) -> dict:
    """The recipe as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(recipe).items()}


def recipe_from_dict(values: dict) -> Recipe:
    """The recipe that `recipe_to_dict` wrote.

    Raises:
        InputError: a field is unknown or missing its form.
    """
    known = {field.name for field in dataclasses.fields(Recipe)}
    unknown = sorted(set(values) - known) if isinstance(values, dict) else ["the whole file"]
    if unknown:
        raise InputError(
            f"Expected the fields of a recipe, but found unknown ones ({', '.join(unknown)}); "
            "it was written by another version of keras_cifar."
        )
    return Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
