"""What a run does, as data: `Recipe`, the levels, and how a command line becomes one recipe.

Each level is the one before it with a few fields replaced. What the levels' source left open was
chosen on val, with EfficientNet-Lite0 on CIFAR-10 (JPEG copy), seed 0; the figures are in
results/choices and results/cifar10-jpeg-efficientnet_lite0:

- Level 1: 160 px reaches .8254 on val, 128 px .7988; at 128 px dropout .5 reaches .7898, and after
  20 epochs .2 reaches .7949, none .7947. One pass computes the features, so the size costs little here.
- Level 2: on 10,000 images and 3 epochs, P5 reaches .8225 on val, the head alone .6256. P4 and P5
  together reach .8595, but that is the step that level 4 takes.
- Level 3: on 10,000 images and 3 epochs, dropout .3 reaches .8256, none .8320, .5 .8274: too close
  to choose by. A head of 512 units is no better (.8248) than one of 256. Batch normalisation kept as
  it was pretrained beats an updated one (.7965). From a rate of 5e-4 down a cosine it reaches .8466: hence
  `BackboneSpec.level_defaults`, as the levels themselves keep their source's rates.
- Level 4: from a level 3 on all images, on 10,000 of them for 2 epochs, 5e-5 constant reaches .9131, 1e-4 and
  2e-4 down a cosine .9127 and .9126, 5e-4 .9079.
- Level 5: from a level 3 on 10,000 images, 3 more epochs on them at 128 px, all stages reach .8796, P3 to P5 alone
  .8812 in 55 % of the time. Of all stages, smoothed labels reach .8831. What did not help there: a rate of 1e-3
  (.8784), rates that decay by .7 a stage (.8770), averaged weights (.8790). TrivialAugment does not in so few epochs
  (.8726), but its loss on val is lower and it is right on fewer of its training images (.8293) than on val: level 5
  has the epochs for it. On 10,000 images and 12 epochs at 128 px, 4e-4 reaches .9005, 2e-4 .8945, 8e-4 .8928. On all
  images, 14 epochs at 224 px from a rate of 4e-4 reach .9363, at 160 px from 2e-4 .9358, 6 epochs at 224 px from
  3e-4 .9301 (results/cifar10-jpeg-efficientnet_lite0, -level5 and -level5-224).
- Views: on 20,000 images and 3 epochs, level 3 reaches .8553 with fresh crops each epoch, .8551 with
  two stored views an image, .8571 with three, .8508 with one: two or more lose nothing.
"""

import dataclasses
import os
from typing import Any

from keras_cifar.checks import (
    FLOAT32_MAX,
    FLOAT32_MIN,
    INT32_MAX,
    UINT32_MAX,
    UNSET,
    Choice,
    Names,
    Number,
    Rule,
    Switch,
    Text,
    Weights,
    closest,
    load_json,
    show,
)
from keras_cifar.data.policies import POLICIES
from keras_cifar.data.specs import RESIZES, SOURCES, DataName, Division
from keras_cifar.errors import InputError
from keras_cifar.exclude_list import ImageNames
from keras_cifar.model.specs import BackboneName, backbone_spec
from keras_cifar.training.losses import LOSSES


@dataclasses.dataclass(frozen=True)
class SearchRange:
    """What a search may do with a field.

    Attributes:
        low, high: bounds of the range; for `choices` of those.
        relative: whether the bounds are multiples of the level's own value.
        log: whether equal ratios, rather than equal differences, are equally likely.
        choices: the only values there are; empty for every number in the range.
        head: the head that the field means something for; None for all.
    """

    low: float
    high: float
    relative: bool = False
    log: bool = False
    choices: tuple[int, ...] = ()
    head: str | None = None


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """All that is known of one field of `Recipe`; it is the field's metadata, and everything else is made from it.

    Attributes:
        rule: what a value may be. A limit is where something breaks; a comment there says what.
        help: one line for people.
        is_option: whether the command line has an option of the field's name.
        changes_model: whether the graph, its initial weights or what it is fed with depend on it: a model built for one
            value does not serve another.
        parent: "same" if a run must have this field in common with any run that it starts from, "level" if only with
            the level that it continues, else "".
        is_handed_down: whether a level that is trained on the way gets it from the one that asks for it, if it is not
            that level's default there; fields with `parent` are always handed down.
        is_of_mean: whether runs whose weights are averaged must have it in common: it decides the graph, what that is
            fed with, or which images the weights have seen.
        search: what a search may do with it; None if it cannot be searched.
    """

    rule: Rule
    help: str
    is_option: bool = False
    changes_model: bool = False
    parent: str = ""
    is_handed_down: bool = False
    is_of_mean: bool = False
    search: SearchRange | None = None

    @property
    def help_text(self) -> str:
        """The help, with the choices there are now."""
        return self.help.format(choices=", ".join(map(str, getattr(self.rule, "choices", ()))))


def _field(default, rule, help, **info):
    found = FieldInfo(rule, help, **info)
    return dataclasses.field(default=default, metadata={"info": found})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's numbers; `FIELDS` has the help, the limits and the uses of each field.

    Every way to make one checks it: a value of another type, out of range, or an unknown name is an InputError.
    """

    level: int = _field(1, Choice((1, 2, 3, 4, 5)), "key in `LEVELS`", is_of_mean=True)
    title: str = _field("Frozen backbone, linear head", Text("My level"), "one line for people")
    data: str = _field(
        "cifar10",
        DataName("cifar10"),
        "data set: {choices}; a folder has one subfolder per class",
        is_option=True,
        changes_model=True,
        parent="same",
        is_of_mean=True,
    )
    backbone: str = _field(
        "resnet18",
        BackboneName("resnet18"),
        "pretrained network: {choices}, which is any of KerasHub's with stages, or a folder of one",
        is_option=True,
        changes_model=True,
        parent="same",
        is_of_mean=True,
    )
    weights: str = _field(
        "imagenet",
        Text("imagenet"),
        "imagenet (of hub:PRESET, its own), torchvision, none, or a path to a KerasHub or timm folder, .safetensors or "
        ".pth",
        is_option=True,
        changes_model=True,
        is_handed_down=True,
        is_of_mean=True,
    )
    image_size: int = _field(
        128,
        # One image of 2048 px takes 256 MiB in the first layer of a ResNet, and as much for its gradient.
        Number(32, 2048, whole=True, example=128),
        "side in pixels that images are resized to inside the model, a multiple of 32",
        is_option=True,
        changes_model=True,
        is_handed_down=True,
        is_of_mean=True,
    )
    resize: str = _field(
        "crop",
        Choice(RESIZES),
        "how image files that are not square become so: {choices} (the centre alone, all with bars, all out of "
        "proportion)",
        is_option=True,
        changes_model=True,
        is_handed_down=True,
        is_of_mean=True,
    )
    taps: tuple[str, ...] = _field(
        ("P5",),
        Names('["P4", "P5"]'),
        "pyramid stages whose pooled outputs feed the head, lowest first",
        changes_model=True,
        parent="level",
        is_of_mean=True,
    )
    head: str = _field(
        "linear",
        Choice(("linear", "fusion")),
        "kind of head: {choices}",
        changes_model=True,
        parent="level",
        is_of_mean=True,
    )
    head_width: int = _field(
        256,
        # 65,536 units on the 2048 features of a ResNet-50 are 134 million weights.
        Number(1, 65536, whole=True, example=256),
        "units of the fusion head's hidden layer",
        changes_model=True,
        parent="level",
        search=SearchRange(64, 1024, log=True, choices=(64, 128, 256, 512, 1024), head="fusion"),
        is_of_mean=True,
    )
    dropout: float = _field(
        0.0,
        # Closer to 1, 1 / (1 - dropout) is lost in float32's rounding.
        Number(0, 0.99, example=0.2),
        "fraction of the head's units dropped in training",
        changes_model=True,
        search=SearchRange(0.0, 0.6),
    )
    drop_path: float = _field(
        0.0,
        Number(0, 0.9, example=0.1),
        "probability that the highest block's residual branch is left out for an image in training, less below, in "
        "backbones that have it (stochastic depth, Huang et al., 2016)",
        is_option=True,
        changes_model=True,
        search=SearchRange(0.0, 0.3),
    )
    trainable_stages: tuple[str, ...] = _field(
        (),
        Names('["P5"]', may_be_empty=True),
        "backbone stages that train, lowest first; the head always does",
        changes_model=True,
        is_of_mean=True,
    )
    train_batch_norm: bool = _field(
        False,
        Switch(),
        "whether batch normalization in trained stages updates; if not, it keeps the pretrained statistics, scale and "
        "shift. In frozen stages it never updates",
        changes_model=True,
    )
    flip: bool = _field(False, Switch(), "random horizontal flips in training", changes_model=True)
    crop_padding: int = _field(
        0,
        Number(0, INT32_MAX, whole=True, example=4),  # further limited by the images, see `_check_fit`
        "pixels of zero padding before a random crop back to size, at most half the image; 0 for no crop",
        changes_model=True,
    )
    views: int = _field(
        0,
        # The crops of all images are drawn and held at once: 1000 of 50,000 images are 600 MB.
        Number(0, 1000, whole=True, example=3),
        "random crops and flips that an image is limited to: epoch e shows view e modulo N, the same for every seed, "
        "so that their features can be stored; 0 draws fresh ones each epoch",
        is_option=True,
        changes_model=True,
    )
    policy: str = _field(
        "none",
        Choice(POLICIES),
        "random changes of training images besides flips and crops, drawn anew at each step: {choices}",
        is_option=True,
        changes_model=True,
    )
    erasing: float = _field(
        0.0,
        Number(0, 1, example=0.25),
        "probability that a random rectangle of a training image is erased (Zhong et al., 2020)",
        is_option=True,
        changes_model=True,
    )
    mixup: float = _field(
        0.0,
        Number(0, 100, example=0.2),
        "alpha of mixup (Zhang et al., 2018): images and labels are averaged in pairs; 0 for none",
        is_option=True,
        changes_model=True,
    )
    cutmix: float = _field(
        0.0,
        Number(0, 100, example=1.0),
        "alpha of CutMix (Yun et al., 2019): a rectangle comes from another image; 0 for none; with "
        "mixup, each batch gets one of the two",
        is_option=True,
        changes_model=True,
    )
    learning_rate: float = _field(
        1e-3,
        Number(FLOAT32_MIN, FLOAT32_MAX, example=1e-4),
        "Adam's learning rate at the start",
        is_option=True,
        # Around the level's own rate, so that each level has its own range.
        search=SearchRange(1 / 30, 30, relative=True, log=True),
    )
    weight_decay: float = _field(
        0.0,
        # At a rate of 1e-3, 1000 takes off a whole kernel a step.
        Number(0, 1000, example=0.01),
        "share of each kernel subtracted per step, times the learning rate (AdamW, Loshchilov and Hutter, 2019); "
        "biases and normalization keep theirs",
        is_option=True,
        search=SearchRange(1e-5, 1.0, log=True),
    )
    loss: str = _field("cross_entropy", Choice(LOSSES), "what training minimizes: {choices}", changes_model=True)
    label_smoothing: float = _field(
        0.0,
        Number(0, 0.99, example=0.1),
        "share of each target that is spread over all classes (Szegedy et al., 2016)",
        is_option=True,
        changes_model=True,
        search=SearchRange(0.0, 0.2),
    )
    class_weights: str | dict[str, float] = _field(  # noqa: RUF009 - nothing changes the dictionary
        "none",
        Weights(("none", "balanced")),
        "how much each class counts in the loss: none for all the same, balanced for N / (C x its images), or a JSON "
        "file of class -> weight",
        is_option=True,
        changes_model=True,
    )
    schedule: str = _field("cosine", Choice(("constant", "cosine")), "constant, or cosine to zero at the last step")
    warmup: float = _field(
        0.0,
        Number(0, 10_000, example=0.5),
        "epochs in which the learning rate rises from zero, at most all",
        is_option=True,
    )
    layer_decay: float = _field(
        1.0,
        Number(0.01, 1, example=0.7),
        "factor on the learning rate of each stage, from the head downwards; 1 for the same rate everywhere",
        is_option=True,
        changes_model=True,
        search=SearchRange(0.4, 1.0),
    )
    clip_norm: float = _field(
        0.0,
        Number(0, FLOAT32_MAX, example=1.0),
        "largest norm of all gradients of a step together; larger ones are scaled down; 0 for no limit",
        is_option=True,
        changes_model=True,
    )
    accumulate: int = _field(
        1,
        Number(1, 10_000, whole=True, example=4),
        "steps whose gradients are averaged before the weights change",
        is_option=True,
        changes_model=True,
    )
    ema: float = _field(
        0.0,
        # At 0.99999 the weights of the first of 100,000 steps still count a third.
        Number(0, 0.99999, example=0.999),
        "decay of the moving average of the weights, which is what is evaluated and saved; 0 for the last weights",
        is_option=True,
        changes_model=True,
    )
    epochs: int = _field(
        20,
        # The rates of all steps are held at once: 10,000 epochs of 40,000 images, one a step, are 3 GB.
        Number(1, 10_000, whole=True, example=3),
        "passes over the training images",
        is_option=True,
    )
    batch_size: int = _field(
        64,
        Number(1, INT32_MAX, whole=True, example=64),
        "images per step",
        is_option=True,
        is_handed_down=True,
        search=SearchRange(16, 512, log=True, choices=(16, 32, 64, 128, 256, 512)),
    )
    precision: str = _field(
        "auto",
        Choice(("auto", "float32", "bfloat16")),
        "arithmetic of training: {choices}",
        is_option=True,
        changes_model=True,
        is_handed_down=True,
    )
    tta: bool = _field(
        False, Switch(), "whether the level's headline accuracy is with flip test-time augmentation", is_of_mean=True
    )
    seed: int = _field(
        0,
        # NumPy's and TensorFlow's seeds have 32 bits, and seeds next to this one are used as well.
        Number(0, INT32_MAX, whole=True, example=0),
        "of initial weights, order, augmentation and dropout",
        is_option=True,
        changes_model=True,
        is_handed_down=True,
    )
    split_seed: int = _field(
        0,
        Number(0, UINT32_MAX, whole=True, example=0),
        "of the train/val split; the same for every level and seed, so that weights carried from one run to the next "
        "have never seen val",
        changes_model=True,
        parent="same",
        is_of_mean=True,
    )
    refit: bool = _field(
        False,
        Switch(),
        "whether val is trained on as well, but for a tenth of it, for epochs that were chosen on val before; the "
        "weights are those of the last epoch",
        changes_model=True,
        is_of_mean=True,
    )
    averages: int = _field(
        1,
        Number(1, 10_000, whole=True, example=1),
        "runs whose weights were averaged, see `keras_cifar.training.average`; 1 for a run that was trained",
    )
    limit: int | None = _field(
        None,
        Number(1, INT32_MAX, whole=True, optional=True, example=1000),
        "use only N training images, stratified, for a quick look; none for all",
        is_option=True,
        changes_model=True,
        is_handed_down=True,
        is_of_mean=True,
    )
    exclude: tuple[str, ...] = _field(
        (),
        ImageNames('["train cat/17.png", "val 17"]', may_be_empty=True),
        "leave out of train and val the images that a CSV file lists (columns image, split), as `check --fix-list` "
        "writes it; test stays whole",
        is_option=True,
        changes_model=True,
        parent="level",
        is_of_mean=True,
    )
    continues: int | None = _field(
        None,
        Number(1, 4, whole=True, optional=True, example="null"),
        "lower level whose best weights this one starts from; null for the pretrained ones",
        changes_model=True,
        is_of_mean=True,
    )

    @property
    def division(self) -> Division:
        """How its images are divided into train and val."""
        return Division(self.split_seed, self.refit, self.exclude)

    def __post_init__(self):
        for field, info in FIELDS.items():
            object.__setattr__(self, field, info.rule.check(option_name(field), getattr(self, field)))
        _check_fit(self)


# What is known of each field, by its name.
FIELDS: dict[str, FieldInfo] = {field.name: field.metadata["info"] for field in dataclasses.fields(Recipe)}
# The fields that a run must have in common with any run that it starts from, and with the level that it continues.
SHARED_FIELDS = tuple(name for name, info in FIELDS.items() if info.parent == "same")
PARENT_FIELDS = tuple(name for name, info in FIELDS.items() if info.parent)
# The fields that a level which is trained on the way gets from the one that asks for it.
HANDED_DOWN_FIELDS = tuple(name for name, info in FIELDS.items() if info.parent or info.is_handed_down)
# The fields that runs whose weights are averaged must have in common.
MEAN_FIELDS = tuple(name for name, info in FIELDS.items() if info.is_of_mean)
# The fields whose values decide whether a model and its stored features serve another recipe.
MODEL_FIELDS = tuple(name for name, info in FIELDS.items() if info.changes_model)
OPTION_FIELDS = tuple(name for name, info in FIELDS.items() if info.is_option)


def _check_fit(recipe):
    """Raises InputError for the first field that does not fit the others."""
    if recipe.image_size % 32:
        raise InputError(
            f"Expected --image-size to be a multiple of 32, but got {recipe.image_size}; "
            f"try {max(32, round(recipe.image_size / 32) * 32)}."
        )
    for field in ("taps", "trainable_stages"):
        _check_stages(field, recipe.backbone, getattr(recipe, field))
    known = backbone_spec(recipe.backbone).stages
    idle = [stage for stage in recipe.trainable_stages if known.index(stage) > known.index(recipe.taps[-1])]
    if idle:
        raise InputError(
            f"Expected trainable_stages no higher than the highest of taps, {recipe.taps[-1]}, but got {idle[-1]}, "
            "whose output nothing uses; remove it, or add it to taps."
        )
    side = SOURCES[recipe.data.partition(":")[0]].side or recipe.image_size
    if recipe.crop_padding > side // 2:
        raise InputError(
            f"Expected crop_padding of at most {side // 2}, half the images' {side} px, but got {recipe.crop_padding}; "
            "try 4."
        )
    fresh = [flag(name) for name in ("erasing", "mixup", "cutmix") if getattr(recipe, name)]
    fresh += ["--policy"] * (recipe.policy != "none")
    if fresh and recipe.views:
        raise InputError(
            f"Expected --views 0 with {', '.join(fresh)}, which change images at each step, but got {recipe.views}; "
            "pass --views 0."
        )
    if recipe.warmup > recipe.epochs:
        raise InputError(
            f"Expected --warmup of at most {recipe.epochs}, all epochs, but got {recipe.warmup:g}; pass a smaller one."
        )
    if recipe.continues is not None and recipe.continues >= recipe.level:
        raise InputError(
            f"Expected continues to be a level below {recipe.level} or null, but got {recipe.continues}; choose one of "
            "them."
        )


def _check_stages(field, backbone, stages):
    known = backbone_spec(backbone).stages
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


def option_name(field: str) -> str:
    """A field's name in messages: its option, where the command line has one."""
    return flag(field) if FIELDS[field].is_option else field


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
_LEVEL_5 = dataclasses.replace(
    _LEVEL_4,
    level=5,
    title="Last three stages fine-tuned, regularized",
    trainable_stages=("P3", "P4", "P5"),
    policy="trivialaugment",
    learning_rate=4e-4,
    label_smoothing=0.1,
    schedule="cosine",
    warmup=0.5,
    epochs=14,
)

LEVELS = {recipe.level: recipe for recipe in (_LEVEL_1, _LEVEL_2, _LEVEL_3, _LEVEL_4, _LEVEL_5)}

# The assignment that levels 1 to 4 come from, and its test accuracies: original CIFAR-10, ResNet-18.
REFERENCE = "[Terafac_Assignment_PS_1](https://github.com/Sonu0Sharma/Terafac_Assignment_PS_1)"
REFERENCE_TEST_TOP1 = {1: "80–81 %", 2: "~70 % (partly trained)", 3: "~91.7 %", 4: "~94.25 % (TTA)"}


def resolve_recipe(level: int, **changes: Any) -> Recipe:
    """A level's recipe with the backbone's and data set's defaults and the caller's changes applied.

    Args:
        level: key in `LEVELS`.
        **changes: fields to replace. None is a value as any other; leave out what is to stay as it is, or pass `UNSET`.

    Raises:
        InputError: an unknown level or field, or a value out of range or of another type.
    """
    FIELDS["level"].rule.check("a level", level)
    given = {field: value for field, value in changes.items() if value is not UNSET}
    checked = _checked(given, option_name, "the fields of a recipe")
    backbone, data = (checked.get(field, getattr(LEVELS[level], field)) for field in ("backbone", "data"))
    defaults = {**backbone_spec(backbone).level_defaults.get(level, {}), **SOURCES[data.partition(":")[0]].defaults}
    return dataclasses.replace(LEVELS[level], **{**defaults, **checked})


def _checked(values, name_of, what):
    """Each value as its field's rule wants it; `name_of` gives a field's name in messages."""
    for field in values:
        if field not in FIELDS:
            raise InputError(f"Expected {what}, but got {show(field)}{closest(field, FIELDS)}; correct or remove it.")
    return {field: FIELDS[field].rule.check(name_of(field), value) for field, value in values.items()}


def load_changes(path: str | os.PathLike, level: int) -> dict:
    """The changes for `resolve_recipe` that a recipe file holds: a whole recipe, or some of its fields.

    Args:
        path: of a JSON file.
        level: that the file must be for, if it says.

    Raises:
        InputError: the file cannot be read, a field is unknown or there twice, a value is out of range or of another
            type, or the recipe is another level's.
    """
    return recipe_changes(load_json(path, "a recipe as JSON"), level, path)


def recipe_changes(values: Any, level: int, path: str | os.PathLike) -> dict:
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
