"""What a run does, as data: `Recipe`, the levels, and how a command line becomes one recipe.

Each level is the one before it with a few fields replaced. What the levels' source left open was
chosen on val, with EfficientNet-Lite0 on CIFAR-10 (JPEG copy), seed 0; the figures lie in
results/choices and results/cifar10-jpeg-efficientnet_lite0:

- Level 1: 160 px reaches .8254 on val, 128 px .7988; at 128 px dropout .5 reaches .7898, and after
  20 epochs .2 reaches .7949, none .7947. One pass computes the features, so the size costs little here.
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
import json
import os

from keras_cifar.checks import (
    FLOAT32_MAX,
    FLOAT32_MIN,
    INT32_MAX,
    UINT32_MAX,
    Choice,
    Names,
    Number,
    Switch,
    Text,
    closest,
    show,
)
from keras_cifar.errors import InputError

DATA_NAMES = ("cifar10", "cifar100", "digits", "folder:PATH")
# The stages of each backbone, lowest first: see `keras_cifar.backbones.backbone_stages`.
BACKBONE_STAGES = {
    "resnet18": ("P2", "P3", "P4", "P5"),
    "resnet50": ("P2", "P3", "P4", "P5"),
    "efficientnet_lite0": ("P1", "P2", "P3", "P4", "P5"),
}
# What each field of a recipe may be. A limit is where something breaks, and says what.
RULES = {
    "level": Choice((1, 2, 3, 4)),
    "title": Text("My level"),
    "data": Text("cifar10"),
    "backbone": Choice(BACKBONE_STAGES),
    "weights": Text("imagenet"),
    # One image of 2048 px takes 256 MiB in the first layer of a ResNet, and as much for its gradient.
    "image_size": Number(32, 2048, whole=True, example=128),
    "taps": Names('["P4", "P5"]'),
    "head": Choice(("linear", "fusion")),
    # 65,536 units on the 2048 features of a ResNet-50 are 134 million weights.
    "head_width": Number(1, 65536, whole=True, example=256),
    # Closer to 1, 1 / (1 - dropout) is lost in float32's rounding.
    "dropout": Number(0, 0.99, example=0.2),
    "trainable_stages": Names('["P5"]', may_be_empty=True),
    "train_batch_norm": Switch(),
    "flip": Switch(),
    "crop_padding": Number(0, INT32_MAX, whole=True, example=4),  # further limited by the images, see `_check_fit`
    # The crops of all images are drawn and held at once: 1000 of 50,000 images are 600 MB.
    "views": Number(0, 1000, whole=True, example=3),
    "learning_rate": Number(FLOAT32_MIN, FLOAT32_MAX, example=1e-4),
    # At a rate of 1e-3, 1000 takes off a whole kernel a step.
    "weight_decay": Number(0, 1000, example=0.01),
    "schedule": Choice(("constant", "cosine")),
    # The rates of all steps are held at once: 10,000 epochs of 40,000 images, one a step, are 3 GB.
    "epochs": Number(1, 10_000, whole=True, example=3),
    "batch_size": Number(1, INT32_MAX, whole=True, example=64),
    "precision": Choice(("auto", "float32", "bfloat16")),
    "tta": Switch(),
    # NumPy's and TensorFlow's seeds have 32 bits, and seeds next to this one are used as well.
    "seed": Number(0, INT32_MAX, whole=True, example=0),
    "split_seed": Number(0, UINT32_MAX, whole=True, example=0),
    "limit": Number(1, INT32_MAX, whole=True, optional=True, example=1000),
    "continues": Number(1, 4, whole=True, optional=True, example="null"),
}
# The fields that are options of the command line, with their help.
OPTIONS = {
    "data": "cifar10, cifar100, digits or folder:PATH with one subfolder per class",
    "backbone": "resnet18, resnet50 or efficientnet_lite0",
    "weights": "imagenet, none, or a path to a KerasHub or timm folder, .safetensors or .pth",
    "image_size": "side in pixels inside the model, a multiple of 32",
    "epochs": "passes over the training images",
    "batch_size": "images a step",
    "views": "limit each image to N stored random crops; 0 draws a fresh one each epoch",
    "learning_rate": "Adam's learning rate at the start",
    "weight_decay": "share of each kernel taken off a step, times the learning rate",
    "seed": "of weights, order, augmentation and dropout",
    "precision": "auto, float32 or bfloat16",
    "limit": "use only N training images, stratified, for a quick look",
}
# The side of the images of the data sets that are not folders.
_STORED_SIDE = 32
_MAX_FILE_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's numbers.

    Every way to make one checks it: a value of another type, out of range, or an unknown name is an InputError.

    Attributes:
        level: key in `LEVELS`.
        title: one line for people.
        data: "cifar10", "cifar100", "digits" or "folder:PATH".
        backbone: key in `BACKBONE_STAGES` and `keras_cifar.backbones.BACKBONES`.
        weights: "imagenet", "none" or a path.
        image_size: side in pixels that images are resized to inside the model; a multiple of 32.
        taps: pyramid stages whose pooled outputs feed the head, lowest first.
        head: key in `keras_cifar.heads.HEADS`.
        head_width: units of the fusion head's hidden layer.
        dropout: in [0, 1).
        trainable_stages: backbone stages that train, lowest first; the head always does.
        train_batch_norm: whether batch normalisation in trained stages updates; if not, it keeps
            the pretrained statistics, scale and shift. In frozen stages it never updates.
        flip: random horizontal flips in training.
        crop_padding: pixels of zero padding before a random crop back to size, at most half the image; 0 for no crop.
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
        seed: of initial weights, order, augmentation and dropout; in [0, 2^31).
        split_seed: of the train/val split; the same for every level and seed, so that weights
            carried from one run to the next have never seen val; in [0, 2^32).
        limit: training images, stratified; None for all.
        continues: lower level whose best weights this one starts from; None for the pretrained ones.
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

    def __post_init__(self):
        for field, rule in RULES.items():
            object.__setattr__(self, field, rule.check(option_name(field), getattr(self, field)))
        _check_fit(self)


def _check_fit(recipe):
    """Raises InputError for the first field that does not fit the others."""
    check_data_name(recipe.data)
    if recipe.image_size % 32:
        raise InputError(
            f"Expected --image-size to be a multiple of 32, but got {recipe.image_size}; "
            f"try {max(32, round(recipe.image_size / 32) * 32)}."
        )
    for field in ("taps", "trainable_stages"):
        _check_stages(field, recipe.backbone, getattr(recipe, field))
    known = BACKBONE_STAGES[recipe.backbone]
    idle = [stage for stage in recipe.trainable_stages if known.index(stage) > known.index(recipe.taps[-1])]
    if idle:
        raise InputError(
            f"Expected trainable_stages no higher than the highest of taps, {recipe.taps[-1]}, but got {idle[-1]}, "
            "which would feed nothing; remove it, or add it to taps."
        )
    side = recipe.image_size if recipe.data.startswith("folder:") else _STORED_SIDE
    if recipe.crop_padding > side // 2:
        raise InputError(
            f"Expected crop_padding of at most {side // 2}, half the images' {side} px, but got {recipe.crop_padding}; "
            "try 4."
        )
    if recipe.continues is not None and recipe.continues >= recipe.level:
        raise InputError(
            f"Expected continues to be a level below {recipe.level} or null, but got {recipe.continues}; choose one of "
            "them."
        )


def _check_stages(field, backbone, stages):
    known = BACKBONE_STAGES[backbone]
    for stage in stages:
        if stage not in known:
            raise InputError(
                f"Expected {field} among {', '.join(known)} of {backbone}, but got {show(stage)}"
                f"{closest(stage, known)}; choose one of them."
            )
    ordered = sorted(stages, key=known.index)
    if list(stages) != ordered:
        raise InputError(
            f"Expected {field} from the lowest stage to the highest, but got {', '.join(stages)}; make it "
            f"{', '.join(ordered)}."
        )


def check_data_name(data: str) -> None:
    """Raises InputError unless a data set is one of `DATA_NAMES`."""
    if data not in DATA_NAMES[:-1] and not (data.startswith("folder:") and data[7:]):
        raise InputError(
            f"Expected --data among {', '.join(DATA_NAMES)}, but got {show(data)}{closest(data, DATA_NAMES)}; choose "
            "one of them."
        )


def option_name(field: str) -> str:
    """A field's name in messages: its option, where the command line has one."""
    return flag(field) if field in OPTIONS else field


def flag(field: str) -> str:
    """The command-line spelling of a recipe's field."""
    return "--" + field.replace("_", "-")


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


def resolve_recipe(level: int, **changes) -> Recipe:
    """A level's recipe with the backbone's and data set's defaults and the caller's changes applied.

    Args:
        level: key in `LEVELS`.
        **changes: fields to replace. None is a value as any other: leave out what is to stay as it is.

    Raises:
        InputError: an unknown level or field, or a value out of range or of another type.
    """
    RULES["level"].check("a level", level)
    checked = _checked(changes, option_name, "the fields of a recipe")
    backbone, data = (checked.get(field, getattr(LEVELS[level], field)) for field in ("backbone", "data"))
    defaults = BACKBONE_DEFAULTS.get(backbone, {}).get(level, {}) | DATA_DEFAULTS.get(data, {})
    return dataclasses.replace(LEVELS[level], **{**defaults, **checked})


def _checked(values, name_of, what):
    """Each value as its field's rule wants it; `name_of` gives a field's name in messages."""
    for field in values:
        if field not in RULES:
            raise InputError(f"Expected {what}, but got {show(field)}{closest(field, RULES)}; correct or remove it.")
    return {field: RULES[field].check(name_of(field), value) for field, value in values.items()}


def load_changes(path: str | os.PathLike, level: int) -> dict:
    """The changes for `resolve_recipe` that a recipe file holds: a whole recipe, or some of its fields.

    Args:
        path: of a JSON file.
        level: that the file must be for, if it says.

    Raises:
        InputError: the file cannot be read, a field is unknown or there twice, a value is out of range or of another
            type, or the recipe is another level's.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        # Editors on Windows put a byte-order mark in front.
        values = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_doubles)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"Expected a recipe as JSON in {path}, but it cannot be read ({reason}); correct it or name another file."
        ) from error
    return recipe_changes(values, level, path)


def _without_doubles(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {show(double)} twice")
    return values


def recipe_changes(values, level: int, path: str | os.PathLike) -> dict:
    """The changes for `resolve_recipe` out of what a recipe file holds, see `load_changes`."""
    if not isinstance(values, dict):
        raise InputError(
            f"Expected the fields of a recipe in {path}, but it holds {type(values).__name__}; name another file."
        )
    changes = _checked(values, lambda field: f"{field} in {path}", f"fields of a recipe in {path}")
    if (found := changes.pop("level", level)) != level:
        raise InputError(
            f"Expected a recipe of level {level} in {path}, but it is of level {found}; pass --level {found} or name "
            "another file."
        )
    return changes


def recipe_to_dict(recipe: Recipe) -> dict:
    """The recipe as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(recipe).items()}


def recipe_from_dict(values: dict, path: str | os.PathLike = "recipe.json") -> Recipe:
    """The recipe that `recipe_to_dict` wrote.

    Args:
        values: what the file holds.
        path: of the file, for the message.

    Raises:
        InputError: a field is unknown, or a value out of range or of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"Expected a recipe in {path}, but it holds {type(values).__name__}; train the run again.")
    what = f"in {path} the fields of a recipe as this version of keras_cifar knows them"
    return Recipe(**_checked(values, lambda field: f"{field} in {path}", what))
