"""Where the figures in the documents come from; `python -m benchmarks figures` checks them.

A function of `SOURCES` reads committed files and yields a `Claim` for each sentence that they carry: the document, the
sentence with a hole for each figure, and the figures. To add one, add a sentence to a document and a claim here, with
`{}` for the figures: `--write` fills them in.
"""

import statistics
from collections.abc import Iterator

from benchmarks.figures import Claim, Reader

_RESULTS = "benchmarks/results"
_LADDER = "results/cifar10-jpeg-efficientnet_lite0"
_LEVEL5 = "results/cifar10-jpeg-efficientnet_lite0-level5"
_LONG = "results/cifar10-jpeg-efficientnet_lite0-long"
_REFERENCE_TOP1 = 94.25  # of level 4 with TTA, in percent, see `keras_cifar.recipes.REFERENCE_TEST_TOP1`
_PACKAGED = "export/pretrained/cifar10_efficientnet_lite0_int8"
_README, _BENCHMARKS, _CHOICES = "README.md", "benchmarks/README.md", "results/choices/README.md"
_RESULTS_PAGE, _DATA_PAGE = "docs/results.md", "docs/data.md"
_SHIFT_PAGE, _SHIFT = "docs/shift.md", "results/shift/corruptions"
_SERVE_PAGE, _PREDICT_PAGE = "docs/serve.md", "docs/predict.md"
_RECIPES, _SPECS = "keras_cifar/recipes.py", "keras_cifar/model/specs.py"
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# Numbers that no measurement gave: what the text is -> why its numbers need no file.
NO_MEASUREMENTS = {
    r"\b[Ll]evels? \d(?:,? (?:and|to) \d)?": "name of a level",
    r"^\| \d(?= \|)": "name of a level, in a table",
    r"\b(?:[Ss]eed|batch(?: sizes?)?|opset|stride(?: is)?)[- ]\d+(?:, \d+)*(?: and \d+)?": "setting",
    r"saved (?:atomically )?every 30\s+seconds": "default of KERAS_CIFAR_SAVE_SECONDS",
    r"\(default 8\)": "default of KERAS_CIFAR_CACHE_GB",
    r"points \(0\.5\)": "default of --max-drop",
    r"by default 100\b": "default of --suspects",
    r"\b25 \| 50 \| 100 \| 200 \| 400\b|first 25 to 400 of the list": "lengths of lists",
    r"fewer than 10 images": "limit of keras_cifar/data/suspects.py",
    r"logits by less than 1e-3": "limit of export/parity.py",
    r"The goal of 1\.3 times|goal was under 1 ms": "goal",
    r"batches of 256|a rate of [2348]e-4": "setting",
    r"\b20 %(?= of (?:train|them))|below 20 %": "setting: how much of train becomes val",
    r"\(quality 75,\s+4:2:0\)": "property of the data set's files",
    r"\bat most 8 of 64 bits\b|\bcorrelate by 0\.9\b": "limits of keras_cifar/data/looks.py",
    r"a cosine of 0\.7|correlates by 0\.85": "limits of keras_cifar/data/looks.py",
    r"up to 32 steps|as many steps as 32 MB": "limits of keras_cifar/training/feeds.py and fit.py",
    r"counts 325 test images": "of ciFAIR's authors",
    r"a sample of 64|\bdefault 50\b": "settings of keras_cifar/data/image_store.py",
    r"trial 0": "name of a trial",
    r"^\d+\. ": "number of an item in a list",
    r"\b2 to 33 % of its area|up to 45 % of": "setting of an augmentation",
    r"\b\d+(?:(?: and| to) \d+)? px\b": "setting: size of an image",
    r"\b\d+ epochs\b": "setting",
    r"\b[\d,]+ (?:training |val )?(?:images|units|digits|channels)\b(?!/)": "setting: how much data, how wide a layer",
    r"\b\d+ ?x ?\d+\b": "shape",
    r"8-bit|\b16[- ]bits?\b": "type of numbers",
    r"\b(?:9?5 %|2\.5 and 97\.5 % quantiles)": "conventional level of an interval or a test",
    r"Python 3\.\d+|onnxruntime 1\.\d+|source of 2\.60|JAX 0\.10|Slurm 22\.05": "version",
    r"\b[Mm]achine 0\b|--machines? [01]\b|from 0\b": "number of a machine",
    r"Keras 3\b": "version",
    r"CPUs \(1\)": "default of --threads",
    r"within 1e-5": "limit of tests/training/test_machines.py",
    r"256 to 4,096 image files": "settings of export/inputs.py",
    r"about 100 seconds": "default of jax.distributed.initialize",
    r"more than 128(?=\s+together)|at most 128(?=\s+together)|\b[78] bits\b": "property of the grid of INT8 weights",
    r"\b(?:et al\.|and Carin), \d{4}": "year of a publication",
    r"more than 100 classes|the 20 most likely": "settings of keras_cifar/evaluation/answers.py",
    r"Apache-2\.0": "licence",
    r"\b64(?: and 512)? clients\b|^\|[^|]*\| (?:64|512)(?= \|)": "setting: clients of a load test",
    r"\| (?:400|408|413|503)\b|else 503|with (?:400|500)\s+by": "status of HTTP",
    r"at most 16 times that": "limit of export/serve/bodies.py",
    r"at most 4 MiB": "limit of export/serve/protocol.py",
    r"127\.0\.0\.1": "address",
    r"Pillow 13|over 16 megapixels": "version, and limit, that export/web/static/pixels.js names",
}


def ladder(read: Reader) -> Iterator[Claim]:
    """README's ladder."""
    environment, recipe = read(f"{_LADDER}/seed0/level4/environment.json"), read(f"{_LADDER}/seed0/level4/recipe.json")
    yield Claim(
        _RESULTS_PAGE,
        "EfficientNet-Lite0** at {} px, {}, on {} cores of an {} CPU",
        (recipe["image_size"], _precision(environment), _WORDS[environment["cpus"]], environment["cpu"]),
    )
    where = [f"{_LADDER}/seed{seed}/level{level}" for seed in range(3) for level in range(1, 5)]
    where += [f"{_LONG}/seed0/level3", f"{_LONG}/seed0/level4", "results/tuning/level1", "results/tuning/level3"]
    cpus = {read(f"{folder}/environment.json")["cpu"] for folder in where}
    yield Claim(
        _RESULTS_PAGE,
        "Levels 1 to 4 of this table and the searches are from such CPUs",
        holds=cpus == {environment["cpu"]},
    )
    epochs = [read(f"{_LADDER}/seed0/level{level}/recipe.json")["epochs"] for level in (2, 3)]
    yield Claim(_RESULTS_PAGE, "Level 2 trains for {} epochs and level 3 for {}:", tuple(_WORDS[n] for n in epochs))


def long_ladder(read: Reader) -> Iterator[Claim]:
    """Levels 3 and 4 trained twice as long."""
    metrics, tests, recipes = (
        [read(f"{_LONG}/seed0/level{level}/{name}.json") for level in (3, 4)]
        for name in ("metrics", "evaluation_test", "recipe")
    )
    short = [read(f"{_LADDER}/seed0/level{level}/recipe.json")["epochs"] for level in (3, 4)]
    yield Claim(
        _RESULTS_PAGE,
        "takes {:.0f} minutes of steps and reaches {:.2f} % at level 3 and {:.2f} % at level 4 on test with TTA",
        (sum(found["seconds"] for found in metrics) / 60, *(100 * test["tta"]["top1"] for test in tests)),
        holds=[recipe["epochs"] for recipe in recipes] == [2 * epochs for epochs in short],
    )
    history = read(f"{_LONG}/seed0/level4/history.csv")
    yield Claim(
        _RESULTS_PAGE,
        "By then {:.0f} % of the training images are right and val loss rises",
        (100 * history[-1]["train_top1"],),
        holds=history[-1]["val_loss"] > history[0]["val_loss"],
    )


def level5(read: Reader) -> Iterator[Claim]:
    """Level 5, trained once, and two other recipes of it."""
    three, five, small, short = (
        _run(read, folder)
        for folder in (f"{_LEVEL5}/seed0/level3", f"{_LADDER}/seed0/level5", f"{_LEVEL5}/seed0/level5",
                       f"{_LEVEL5}-224/seed0/level5")
    )  # fmt: skip
    tests = [100 * found["evaluation_test"]["tta"]["top1"] for found in (three, five, small, short)]
    level4 = [100 * read(f"{_LADDER}/seed{seed}/level4/evaluation_test.json")["tta"]["top1"] for seed in range(3)]
    recipes = [found["recipe"] for found in (five, small, short)]
    yield Claim(
        _RESULTS_PAGE,
        "which reaches {:.2f} % on test with TTA, {} epochs at {} px from a rate of 4e-4 reach {:.2f} %, which is past "
        "level 4 and short of the reference. At {} px from half the rate they reach {:.2f} %",
        (tests[0], recipes[0]["epochs"], recipes[0]["image_size"], tests[1], recipes[1]["image_size"], tests[2]),
        holds=max(level4) < tests[1] < _REFERENCE_TOP1
        and [one["learning_rate"] for one in recipes] == [4e-4, 2e-4, 3e-4],
    )
    yield Claim(
        _RESULTS_PAGE,
        "{} epochs at {} px from a rate of 3e-4 {:.2f} %",
        (recipes[2]["epochs"], recipes[2]["image_size"], tests[3]),
    )
    last = read(f"{_LADDER}/seed0/level5/history.csv")[-1]
    yield Claim(
        _RESULTS_PAGE,
        "In the last epoch {:.2f} % of the augmented training images are right, and {:.2f} % of val",
        (100 * last["train_top1"], 100 * last["val_top1"]),
    )
    yield Claim(
        _RECIPES,
        "On all images, 14 epochs at 224 px from a rate of 4e-4 reach {}, at 160 px from 2e-4 {}, 6 epochs at 224 px "
        "from 3e-4 {}",
        tuple(_top1(found["metrics"]["val"]["top1"]) for found in (five, small, short)),
        holds=[(one["epochs"], one["image_size"]) for one in recipes] == [(14, 224), (14, 160), (6, 224)],
    )


def cycles(read: Reader) -> Iterator[Claim]:
    """Level 5 trained on from its own weights, and the means of these runs."""
    runs = [_run(read, f"{_LEVEL5}/seed0/level5")]
    newer = {"exclude": [], "averages": 1}  # fields that the first recipes do not have yet
    texts = (
        "reach {:.2f} % on val, and the mean of the two runs' weights {:.2f} %. On test with TTA the mean reaches "
        "{:.2f} %, {:.1f} points short of the reference",
        "that mean reach {:.2f} % on val, and the mean of all three runs {:.2f} %; on test with TTA it reaches "
        "{:.2f} %, {:.1f} points short",
    )
    minutes = ("after {:.0f} minutes of steps", "short, after {:.0f} minutes:")
    for number, (text, time) in enumerate(zip(texts, minutes, strict=True), start=1):
        run, mean = (_run(read, f"{_LEVEL5}-mean/seed{number}/{name}") for name in ("level5", "level5-mean"))
        runs.append(run)
        changed = {"learning_rate": 4e-4, "mixup": 0.2, "cutmix": 1.0, "seed": number}
        val = [each["metrics"]["val"]["top1"] for each in (*runs, mean)]
        top1 = 100 * mean["evaluation_test"]["tta"]["top1"]
        yield Claim(
            _RESULTS_PAGE,
            text,
            (100 * val[-2], 100 * val[-1], top1, _REFERENCE_TOP1 - top1),
            holds=run["recipe"] | newer == runs[0]["recipe"] | changed | newer
            and [member["val_top1"] for member in mean["metrics"]["members"]] == val[:-1],
        )
        yield Claim(_RESULTS_PAGE, time, (mean["metrics"]["seconds"] / 60,))


def refits(read: Reader) -> Iterator[Claim]:
    """The second cycle of level 5 on train and val together, from restored weights."""
    folder, cycle = f"{_LEVEL5}-refit", _run(read, f"{_LEVEL5}-mean/seed1/level5")
    start, run = (_run(read, f"{folder}/{name}") for name in ("seed0/level5", "seed1/level5-refit"))
    top1 = _tta(run)
    yield Claim(
        _RESULTS_PAGE,
        "({:,} images, `--refit`), the second of these cycles reaches {:.2f} % on test with TTA, {:.1f} points short, "
        "in {:.0f} minutes of steps",
        (read(f"{folder}/seed1/level5-refit/environment.json")["images"]["train"], top1, _REFERENCE_TOP1 - top1,
         run["metrics"]["seconds"] / 60),
        holds=run["recipe"] == cycle["recipe"] | {"refit": True, "exclude": [], "averages": 1},
    )  # fmt: skip
    lost = _run(read, f"{_LEVEL5}/seed0/level5")["metrics"]["val"]["top1"]
    yield Claim(
        _RESULTS_PAGE,
        "from its INT8 file, {:.2f} % on val where the weights themselves, which are lost, had {:.2f} %",
        (100 * start["metrics"]["val"]["top1"], 100 * lost),
    )


def means_of_refits(read: Reader) -> Iterator[Claim]:
    """A third cycle from that refit, and the means."""
    run, further = _run(read, f"{_LEVEL5}-refit/seed1/level5-refit"), f"{_LEVEL5}-refit-mean"
    restored, with_start = (_run(read, f"{further}/seed1/level5-refit{suffix}") for suffix in ("", "-mean"))
    again, means = (
        [_run(read, f"{further}/seed{seed}/level5-refit{suffix}") for seed in (2, 3)] for suffix in ("", "-mean")
    )
    minutes = [found["metrics"]["seconds"] / 60 for found in again]
    yield Claim(
        _RESULTS_PAGE,
        "which its INT8 file gave back as well ({:.2f} % on test), reach {:.2f} and {:.2f} % with two seeds, in {:.0f} "
        "and {:.0f} minutes",
        (_tta(restored), *map(_tta, again), *minutes),
        holds=all(found["recipe"] | {"seed": 1} == run["recipe"] for found in (*again, restored)),
    )
    top1s = [_tta(found) for found in means]
    yield Claim(
        _RESULTS_PAGE,
        "The mean of each with its start reaches {:.2f} and {:.2f} %: over the two seeds {:.2f} ± {:.2f} %",
        (*top1s, statistics.mean(top1s), statistics.stdev(top1s)),
        holds=statistics.mean(top1s) >= _REFERENCE_TOP1,
    )
    before = _run(read, f"{_LEVEL5}/seed0/level3"), _run(read, f"{_LEVEL5}-mean/seed1/level5-mean"), run
    steps = sum(found["metrics"]["seconds"] for found in before) / 60 + statistics.mean(minutes)
    yield Claim(_RESULTS_PAGE, "from level 3 on and with the run that chose the epochs, took {:.0f} minutes", (steps,))
    every = _run(read, f"{further}/all/level5-refit-mean")
    yield Claim(
        _RESULTS_PAGE, "the mean of all three refits {:.2f} %", (_tta(every),), holds=every["recipe"]["averages"] == 3
    )
    yield Claim(
        _RESULTS_PAGE,
        "The mean of the first refit, so restored, with its own start, which had fewer images, gains {:.2f} points",
        (_tta(with_start) - _tta(restored),),
    )


def _tta(run):
    """Top-1 on test with TTA, in percent."""
    return 100 * run["evaluation_test"]["tta"]["top1"]


def _run(read, folder):
    """What a published run says of itself."""
    return {name: read(f"{folder}/{name}.json") for name in ("metrics", "evaluation_test", "recipe")}


def packaged(read: Reader) -> Iterator[Claim]:
    """The classifier of the package."""
    test = read(f"{_PACKAGED}.evaluation_test.json")
    top1 = 100 * test[test["headline"]]["top1"]
    exported = read("results/export-refit/level5.json")["files"]
    (same,) = (file for file in exported if file["file"] == "level5_int8_tta.onnx")
    is_same = top1 == 100 * same["top1"]
    yield Claim(
        _RESULTS_PAGE, "this mean's `level5_int8_tta.onnx`: {:.2f} % on test as INT8 with TTA", (top1,), holds=is_same
    )
    left_out = read(f"{_LEVEL5}-refit-mean/all/level5-refit-mean/environment.json")["images"]["val"]
    yield Claim(_RESULTS_PAGE, "on the {:,} images of val that a refit leaves out", (left_out,))
    yield Claim(_README, "reaches {:.2f} % on CIFAR-10's test images", (top1,))
    elsewhere = read(f"{_RESULTS}/packaged.json")["runtimes"]
    held, free, exact = (elsewhere[name] for name in ("openvino, AVX2", "openvino", "onnxruntime, exact"))
    yield Claim(
        _BENCHMARKS,
        "{:.2f} % on test, and {} predictions that differ from those where it was exported; in OpenVINO as it comes "
        "{:.2f} %, and {}.",
        (100 * held["top1"], held["changed"], 100 * free["top1"], free["changed"]),
        holds=not exact["changed"] and 100 * exact["top1"] == top1,
    )
    (before,) = (file for file in read("results/export/level5.json")["files"] if file["file"] == same["file"])
    text = "mean of three refits of level 5, as INT8 with TTA {:.2f} % on test ({:.2f} % before)"
    yield Claim("CHANGELOG.md", text, (top1, 100 * before["top1"]))
    text = "INT8 with TTA: {:.2f} % on test, {:.1f} MB"
    yield Claim("CHANGELOG.md", text, (100 * before["top1"], before["bytes"] / 1e6))


def tuning_level1(read: Reader) -> Iterator[Claim]:
    """The search of level 1's learning rate."""
    plan, found = read("results/tuning/level1/search.json"), read("results/tuning/level1/summary.json")
    seconds = [row["seconds"] for row in read("results/tuning/level1/trials.csv")]
    yield Claim(
        _RESULTS_PAGE,
        "{} epochs of level 1 took {:.0f} s in the median trial ({:.0f} to {:,.0f}, as other work shared the {} cores)",
        (plan["recipe"]["epochs"], statistics.median(seconds), min(seconds), max(seconds),
         _WORDS[read("results/tuning/level1/environment.json")["cpus"]]),
    )  # fmt: skip
    low, high = found["corrected_interval"]
    yield Claim(
        _RESULTS_PAGE,
        "EfficientNet-Lite0, {} random rates ([`results/tuning/level1`](../results/tuning/level1)): the best, {}, "
        "gains {:.2f} points over the level's own {} on the images that ranked the trials, and {:.2f} points "
        "(95 % {} to {}) once corrected",
        (found["trials"] - 1, _rate(found["best"]["values"]["learning_rate"]), 100 * found["gain"],
         _rate(plan["recipe"]["learning_rate"], 0), 100 * found["corrected_gain"], _signed(100 * low),
         _signed(100 * high)),
        holds=plan["oracle"] == "random" and low < 0,
    )  # fmt: skip


def tuning_level3(read: Reader) -> Iterator[Claim]:
    """The search of level 3's learning rate, on a part of its images."""
    recipe, rows = read("results/tuning/level3/search.json")["recipe"], read("results/tuning/level3/trials.csv")
    yield Claim(
        _RESULTS_PAGE,
        "Level 3 on {:,} of its 40,000 training images for {} of its {} epochs, {} px, only {} random rates",
        (recipe["limit"], _WORDS[recipe["epochs"]], _WORDS[read(f"{_LADDER}/seed0/level3/recipe.json")["epochs"]],
         recipe["image_size"], _WORDS[len(rows) - 1]),
    )  # fmt: skip
    own, others = rows[0], sorted(rows[1:], key=lambda row: -row["score"])
    near, low, worst = others[0], others[1], others[-1]
    smallest = min(read("results/tuning/level3/lr_range.csv"), key=lambda row: row["smoothed_loss"])["learning_rate"]
    yield Claim(
        _RESULTS_PAGE,
        "none passes the level's own {} ({:.1f} %). {} comes near ({:.1f} %), {} and less lose two points or more, and "
        "at {}, past the range test's smallest loss at {}, training fails to get far ({:.1f} %)",
        (_rate(own["learning_rate"], 0), 100 * own["score"], _rate(near["learning_rate"]), 100 * near["score"],
         _rate(low["learning_rate"]), _rate(worst["learning_rate"]), _rate(smallest, 2), 100 * worst["score"]),
        holds=near["score"] < own["score"] and own["score"] - low["score"] >= 0.02
        and low["learning_rate"] < near["learning_rate"] < own["learning_rate"] * 2
        and worst["learning_rate"] > smallest,
    )  # fmt: skip


def gradients(read: Reader) -> Iterator[Claim]:
    """Ways to take a kernel gradient."""
    rows = [row for row in read(f"{_RESULTS}/gradients.json")["rows"] if row["dtype"] == "bfloat16"]
    small = [row["milliseconds"] for row in rows if row["convolution"].startswith(("3x3 / 1, 4x4x5", "3x3 / 1, 8x8x2"))]
    yield Claim(
        _BENCHMARKS,
        "on a map of 4x4 or 8x8 takes {:.1f} to {:.1f} times its forward pass. One matrix product a tap, without the "
        "map's padding, takes {:.1f} to {:.1f} times",
        (
            *_range(ms["tensorflow"] / ms["forward"] for ms in small),
            *_range(ms["product"] / ms["forward"] for ms in small),
        ),
    )
    columns = [row["milliseconds"] for row in rows if row["taken"] == "columns"]
    yield Claim(
        _BENCHMARKS,
        "Three columns at a time are {:.1f} to {:.1f} times as fast in bfloat16",
        _range(ms["tensorflow"] / ms["columns"] for ms in columns),
    )


def step(read: Reader) -> Iterator[Claim]:
    """A training step."""
    found = read(f"{_RESULTS}/step.json")["images_per_second"]
    resnet, lite = _of(found, "resnet18"), _of(found, "efficientnet_lite0")
    yield Claim(_BENCHMARKS, "All on an {} with", (read(f"{_RESULTS}/step.json")["cpu"],))
    yield Claim(
        _BENCHMARKS,
        "with float32 for the latter a step is {:.1f} to {:.1f} times as fast as in float32",
        _range(rates["ours, bfloat16"] / rates["ours, float32"] for rates in lite),
    )
    yield Claim(
        _BENCHMARKS,
        "ResNet-18 {:.2f} times at level 3, {:.2f} at level 4 and {:.2f} with all layers; EfficientNet-Lite0 {:.1f}, "
        "{:.1f} and {:.1f} times. The goal of 1.3 times at levels 3 and 4 is missed for ResNet-18",
        (*_times(resnet, "PyTorch"), *_times(lite, "PyTorch")),
        holds=max(_times(resnet, "PyTorch")[:2]) < 1.3 <= min(_times(lite, "PyTorch")[:2]),
    )
    stored = [_times(rows, "PyTorch", "ours, features stored") for rows in (resnet, lite)]
    yield Claim(
        _BENCHMARKS,
        "level 3 is {:.1f} and {:.1f} times; level 4, only with `--views`, {:.1f} and {:.1f} times.",
        (stored[0][0], stored[1][0], stored[0][1], stored[1][1]),
    )
    yield Claim(
        _BENCHMARKS,
        "the same step measured under two names differs by up to {:.0f} %",
        (100 * max(abs(rates["ours"] / rates["ours, bfloat16"] - 1) for rates in found.values()),),
    )
    yield Claim(
        _BENCHMARKS,
        "Against Keras in its better precision: {:.1f} to {:.1f} times and {:.1f} to {:.1f} times",
        (*_range(_times(resnet, "Keras")), *_range(_times(lite, "Keras"))),
    )


def avx2(read: Reader) -> Iterator[Claim]:
    """A CPU with AVX2 alone."""
    measured, evaluated = read(f"{_RESULTS}/step-avx2.json"), read(f"{_RESULTS}/evaluate-avx2.json")
    found, rates = measured["images_per_second"], evaluated["images_per_second"]
    resnet, lite = _of(found, "resnet18"), _of(found, "efficientnet_lite0")
    goals = 1.3, 1.3, 1.0
    is_alone = not any("bfloat16" in way for ways in (*found.values(), *rates.values()) for way in ways)
    yield Claim(
        _BENCHMARKS,
        "ResNet-18 {:.2f} times PyTorch at level 3, {:.2f} at level 4 and {:.2f} with all layers; EfficientNet-Lite0 "
        "{:.1f}, {:.1f} and {:.1f} times. Other work shared the cores: two names of one step are up to {:.0f} % apart.",
        (*_times(resnet, "PyTorch"), *_times(lite, "PyTorch"),
         100 * max(abs(ways["ours"] / ways["ours, float32"] - 1) for ways in found.values())),
        holds=is_alone,
    )  # fmt: skip
    yield Claim(
        _BENCHMARKS,
        "The goals of {:.1f} times at levels 3 and 4 and {:.1f} with all layers are met there.",
        (goals[0], goals[-1]),
        holds=all(
            times >= goal for ways in (resnet, lite) for times, goal in zip(_times(ways, "PyTorch"), goals, strict=True)
        ),
    )
    yield Claim(
        _BENCHMARKS,
        "ResNet-18 {:.2f} to {:.2f} times PyTorch and EfficientNet-Lite0 {:.1f} to {:.1f} times",
        (*_range(_times(_of(rates, "resnet18"), "PyTorch")),
         *_range(_times(_of(rates, "efficientnet_lite0"), "PyTorch"))),
        holds=is_alone,
    )  # fmt: skip


def startup(read: Reader) -> Iterator[Claim]:
    """From the command to the first step."""
    found = read(f"{_RESULTS}/startup.json")["seconds_to_first_step"].values()
    yield Claim(
        _BENCHMARKS,
        "{:.1f} to {:.1f} s to the first step with everything in the cache, {:.1f} to {:.0f} s with nothing",
        (*_range(s for row in found for s in row["cached"]), *_range(row["nothing_cached"] for row in found)),
    )


def evaluate(read: Reader) -> Iterator[Claim]:
    """Prediction."""
    found = read(f"{_RESULTS}/evaluate.json")["images_per_second"]
    resnet, lite = _of(found, "resnet18"), _of(found, "efficientnet_lite0")
    yield Claim(
        _BENCHMARKS,
        "ResNet-18 {:.2f} to {:.2f} times PyTorch's better precision and {:.1f} to {:.1f} times Keras'; "
        "EfficientNet-Lite0 {:.1f} to {:.1f} and {:.1f} to {:.1f} times",
        tuple(x for rows in (resnet, lite) for name in ("PyTorch", "Keras") for x in _range(_times(rows, name))),
    )


def memory(read: Reader) -> Iterator[Claim]:
    """Peak memory of a process that takes steps."""
    found = list(read(f"{_RESULTS}/memory.json")["peak_mib"].values())
    yield Claim(
        _BENCHMARKS,
        "ours {:.1f} to {:.1f} GiB, which is {:.1f} to {:.2f} times that of plain Keras in float32, and {:.1f} to "
        "{:.1f} times PyTorch's in bfloat16",
        (*_range(row["ours"] / 1024 for row in found), *_range(row["ours"] / row["Keras float32"] for row in found),
         *_range(row["ours"] / row["PyTorch bfloat16"] for row in found)),
    )  # fmt: skip


def augmentation(read: Reader) -> Iterator[Claim]:
    """Augmentation on one core."""
    rates = read(f"{_RESULTS}/augment.json")["images_per_cpu_second"]
    ours, one_by_one, erased, trivial, mixed, keras = (
        [rates[f"{name}, batch {batch}"] for batch in (64, 256)]
        for name in ("ours (one fused gather)", "per image, stateful tf.image", "ours with erasing",
                     "ours with TrivialAugment", "ours with mixup or CutMix", "ours with Keras' RandAugment")
    )  # fmt: skip
    yield Claim(
        _BENCHMARKS,
        "flips and crops of {:,.0f} to {:,.0f} images a CPU-second, {:.1f} to {:.1f} times those of `tf.image` on one "
        "image at a time; with erasing of {:,.0f} to {:,.0f}, with TrivialAugment of {:,.0f} to {:,.0f}, with mixup or "
        "CutMix of {:,.0f} to {:,.0f}, and with Keras' own RandAugment of {:,.0f} to {:,.0f}.",
        tuple(x for values in (ours, [a / b for a, b in zip(ours, one_by_one, strict=True)], erased, trivial, mixed,
                               keras) for x in _range(values)),
    )  # fmt: skip


def level1(read: Reader) -> Iterator[Claim]:
    """Level 1 whole."""
    found = read(f"{_RESULTS}/level1.json")
    rounds = len(found["ways"]["ours"])
    yield Claim(
        _BENCHMARKS,
        "`results/level1.json`: {:,} digits, 96 px, {} epochs, {} rounds",
        (found["images"], found["epochs"], _WORDS[rounds]),
    )
    to_target, whole = (
        [_slower(found[key], name) for name in ("Keras", "PyTorch")] for key in ("seconds_to_target", "seconds")
    )
    yield Claim(
        _BENCHMARKS,
        "ours is {:.0f} times as fast as Keras `fit` and {:.0f} times as fast as a PyTorch loop, each in its faster "
        "precision; over all epochs {:.0f} and {:.0f} times. One forward pass takes {:.1f} of ours' {:.0f} s",
        (*to_target, *whole, found["one_forward_pass_seconds"], found["seconds"]["ours"]),
    )


def onnx(read: Reader) -> Iterator[Claim]:
    """Exported files."""
    found = read(f"{_RESULTS}/onnx.json")["ways"]
    by_name = {
        name: {way: by_batch["64"]["images_per_second"] for way, by_batch in ways.items()}
        for name, ways in found.items()
    }
    rates, lite = by_name["resnet18, 128 px"], by_name["efficientnet_lite0, 128 px"]
    others = ("fp32", "Keras predict", "PyTorch bfloat16")
    yield Claim(
        _BENCHMARKS,
        "INT8 on onnxruntime is {:.1f} times its float32, {:.1f} times Keras `predict` and {:.1f} times PyTorch's "
        "bfloat16 for ResNet-18; {:.1f}, {:.1f} and {:.1f} times for EfficientNet-Lite0. {} ways share one process",
        (*(rates["int8"] / rates[way] for way in others), *(lite["int8"] / lite[way] for way in others),
         {12: "Twelve"}.get(len(lite), str(len(lite)))),
    )  # fmt: skip
    alone = read(f"{_RESULTS}/evaluate.json")["images_per_second"]["efficientnet_lite0, plain, 128 px"]
    yield Claim(
        _BENCHMARKS,
        "INT8 is {:.1f} and {:.1f} times as fast.",
        tuple(lite["int8"] / _best(alone, name) for name in ("Keras", "PyTorch")),
    )


def quantization(read: Reader) -> Iterator[Claim]:
    """INT8 by the grid of its weights."""
    found = read(f"{_RESULTS}/quantization.json")
    rows = {(row["weights"], row["runtime"]): row for row in found["rows"]}
    yield Claim(_BENCHMARKS, "level {}, {:,} images of val):\n", (found["level"], found["val_images"]))
    plain, capped = (rows["signed, 8 bits", runtime] for runtime in ("openvino", "openvino, AVX2"))
    yield Claim(
        _BENCHMARKS,
        "{:,} channels may saturate, and OpenVINO held to AVX2 reaches {:.2f} % where it reaches {:.2f} % with VNNI; "
        "logits move by up to {:.1f}.",
        (plain["unsafe_channels"], 100 * capped["top1"], 100 * plain["top1"], capped["from_exact"]),
    )
    safe = {runtime: rows["signed, pairs within 128", runtime] for runtime in ("openvino", "openvino, AVX2")}
    same = [{name: row[name] for name in ("top1", "from_exact", "changed")} for row in safe.values()]
    yield Claim(
        _BENCHMARKS,
        "OpenVINO reaches {:.2f} % on both, its logits equally far from exact ones; onnxruntime takes {:.0f} images/s "
        "against {:.0f} as they come",
        (100 * safe["openvino"]["top1"], rows["signed, pairs within 128", "onnxruntime"]["images_per_second"],
         rows["signed, 8 bits", "onnxruntime"]["images_per_second"]),
        holds=same[0] == same[1] and not safe["openvino"]["unsafe_channels"],
    )  # fmt: skip
    unsigned = {runtime: rows["unsigned, 8 bits", runtime] for runtime in ("onnxruntime", "openvino, AVX2")}
    yield Claim(
        _BENCHMARKS,
        "without VNNI kernels ({:.0f} images/s)",
        (unsigned["onnxruntime"]["images_per_second"],),
        holds=not unsigned["openvino, AVX2"]["runs"],
    )


def choices(read: Reader) -> Iterator[Claim]:
    """What was chosen on val."""
    level1 = {(row["image_size"], row["dropout"], row["learning_rate"], row["epochs"]): row["val_top1"]
              for row in read("results/choices/level1.csv")}  # fmt: skip
    yield Claim(
        _RECIPES,
        "160 px reaches {} on val, 128 px {}; at 128 px dropout .5 reaches {}, and after 20 epochs .2 reaches {}, none "
        "{}.",
        tuple(map(_top1, (level1[160, 0.2, 1e-3, 40], level1[128, 0.2, 1e-3, 40], level1[128, 0.5, 1e-3, 40],
                          level1[128, 0.2, 1e-3, 20], level1[128, 0, 1e-3, 20]))),
    )  # fmt: skip
    last = {row["variant"]: row["val_top1"] for row in read("results/choices/level2.csv")}  # of the last epoch
    yield Claim(
        _RECIPES,
        "P5 reaches {} on val, the head alone {}. P4 and P5 together reach {}",
        tuple(_top1(last[name]) for name in ("P5", "head alone", "P4 and P5")),
    )
    last = {row["variant"]: row["val_top1"] for row in read("results/choices/level3.csv")}
    names = ("level 3", "dropout 0", "dropout 0.5", "head of 512", "batch norm trains", "rate 5e-4, cosine")
    yield Claim(
        _RECIPES,
        "dropout .3 reaches {}, none {}, .5 {}: too close to choose by. A head of 512 units is no better ({}) than one "
        "of 256. Batch normalisation kept as it was pretrained beats an updated one ({}). From a rate of 5e-4 down a "
        "cosine it reaches {}:",
        tuple(_top1(last[name]) for name in names),
        holds=last["head of 512"] <= last["level 3"] > last["batch norm trains"],
    )
    last = {row["variant"]: row["val_top1"] for row in read("results/choices/level4.csv")}
    names = ("rate 5e-5, constant", "rate 1e-4, cosine", "rate 2e-4, cosine", "rate 5e-4, cosine")
    yield Claim(
        _RECIPES,
        "5e-5 constant reaches {}, 1e-4 and 2e-4 down a cosine {} and {}, 5e-4 {}.",
        tuple(_top1(last[name]) for name in names),
    )


def choices_of_level5(read: Reader) -> Iterator[Claim]:
    """Level 5's stages and what regularizes it."""
    rows = [row for row in read("results/choices/all-stages.csv") if row["epoch"] == 3]
    by_name = {row["variant"]: row for row in rows}
    last = {name: row["val_top1"] for name, row in by_name.items()}
    whole, part, policy = (by_name[name] for name in ("all stages", "P3 to P5", "TrivialAugment"))
    helpless = ("rate 1e-3", "layer decay 0.7", "average 0.99")
    yield Claim(
        _RECIPES,
        "all stages reach {}, P3 to P5 alone {} in {:.0f} % of the time. Of all stages, smoothed labels reach {}. What "
        "did not help there: a rate of 1e-3 ({}), rates that decay by .7 a stage ({}), averaged weights ({}). "
        "TrivialAugment does not in so few epochs ({}), but its loss on val is lower and it is right on fewer of its "
        "training images ({})",
        (_top1(last["all stages"]), _top1(last["P3 to P5"]), 100 * part["seconds"] / whole["seconds"],
         _top1(last["label smoothing 0.1"]), *(_top1(last[name]) for name in helpless), _top1(policy["val_top1"]),
         _top1(policy["train_top1"])),
        holds=max(last[name] for name in helpless) < last["all stages"] < last["label smoothing 0.1"]
        and policy["val_loss"] < whole["val_loss"] and policy["train_top1"] < policy["val_top1"],
    )  # fmt: skip


def choices_around_level5(read: Reader) -> Iterator[Claim]:
    """One change of level 5 at a time."""
    last = {row["variant"]: row["val_top1"] for row in read("results/choices/level5.csv") if row["epoch"] == 12}
    names = (
        "rate 8e-4",
        "without TrivialAugment",
        "without label smoothing",
        "mixup 0.2",
        "drop path 0.2",
        "average 0.998",
        "CutMix 1",
    )
    yield Claim(
        _CHOICES,
        "After the last epoch val is right on {} of its images; at a rate of 4e-4 on {}, the only change that helps by "
        "more than chance; at a rate of 8e-4 on {}. Without TrivialAugment it is {}, without label smoothing {}, with "
        "mixup {}, drop path {}, averaged weights {}, CutMix {}.",
        tuple(_top1(last[name]) for name in ("level 5", "rate 4e-4", *names)),
        holds=max(last[name] for name in names) < last["level 5"] + 0.004 < last["rate 4e-4"],
    )
    rates = ("rate 4e-4", "level 5", "rate 8e-4")
    yield Claim(
        _RECIPES,
        "On 10,000 images and 12 epochs at 128 px, 4e-4 reaches {}, 2e-4 {}, 8e-4 {}.",
        tuple(_top1(last[name]) for name in rates),
    )


def choices_of_views(read: Reader) -> Iterator[Claim]:
    """Stored views against fresh crops."""
    last = {row["variant"]: row["val_top1"] for row in read("results/choices/views.csv")}
    names = ("fresh crops", "2 views", "3 views", "1 views")
    yield Claim(
        _RECIPES,
        "level 3 reaches {} with fresh crops each epoch, {} with two stored views an image, {} with three, {} with one"
        ": two or more lose nothing",
        tuple(_top1(last[name]) for name in names),
        holds=min(last["2 views"], last["3 views"]) > last["fresh crops"] - 0.001,
    )


def choices_of_padding(read: Reader) -> Iterator[Claim]:
    """The backbone's padding."""
    last = {row["variant"]: row["val_top1"] for row in read("results/choices/padding.csv")}
    points = 100 * (last["as TensorFlow pads"] - last["alike on all sides"])
    yield Claim(_SPECS, "which costs level 3 on EfficientNet-Lite0 {:.1f} points of val", (points,))


def intervals(read: Reader) -> Iterator[Claim]:
    """How wide an interval over the val images is, near the accuracies of the choices."""
    val = read(f"{_LADDER}/seed0/level1/metrics.json")["val"]
    low, high = val["top1_interval"]
    yield Claim(
        _CHOICES,
        "of one val accuracy near {} are {} wide on each side",
        (_top1(val["top1"], 2), _top1((high - low) / 2, 3)),
    )


def resize(read: Reader) -> Iterator[Claim]:
    """What making photographs square costs."""
    found = read(f"{_RESULTS}/resize.json")
    large, small = ([found["answers"][f"{side}, {way}"] for way in ("crop", "squash", "pad")] for side in (224, 160))
    yield Claim(
        _DATA_PAGE,
        "on {} photographs, of which {} are not square, gives the right class for {} of them with crop, {} with "
        "squash (McNemar's p {:.3f}) and {} with pad (p {:.3f}) at 224 px; at 160 px for {}, {} and {}",
        (found["photographs"], found["not_square"], large[0]["right"],
         *(value for way in large[1:] for value in (way["right"], way["p_against_crop"])),
         *(way["right"] for way in small)),
    )  # fmt: skip


def stores(read: Reader) -> Iterator[Claim]:
    """Memory by store, and decoding."""
    found = read(f"{_RESULTS}/stores.json")
    counts = (1_000, 10_000, 100_000)
    for store in ("memory", "mapped", "stream"):
        rows = [found["memory"]["mib"][f"{store}, {count}"] for count in counts]
        yield Claim(
            _DATA_PAGE, f"| `{store}` | {{:,}} | {{:,}} | {{:,}} |", tuple(row["peak"] - row["before"] for row in rows)
        )
    rates = found["decoding"]["images_per_cpu_second"]
    yield Claim(
        _DATA_PAGE,
        "gives {:.0f} images a CPU-second; plain `tf.data` with the same antialiased bicubic gives {:.0f}, "
        "torchvision's ImageFolder {:.0f}, and Keras' `image_dataset_from_directory`, which resizes without "
        "antialiasing, {:.0f}",
        tuple(rates[way] for way in ("ours", "tf.data", "torchvision", "image_dataset_from_directory")),
    )


def large(read: Reader) -> Iterator[Claim]:
    """The whole way on very many files."""
    found = read(f"{_RESULTS}/large.json")
    commands = found["commands"]
    resumed, reached = commands["train, to the end"]["said"]
    peak = {name: command["peak_mib"] for name, command in commands.items()}
    training = max(value for name, value in peak.items() if name.startswith("train,"))
    yield Claim(
        _DATA_PAGE,
        "Measured on {:,} generated JPEGs, level 2 of EfficientNet-Lite0 at 64 px with `--store stream`: training was "
        "killed while it read the files and again while it took steps, went on at step {} and reached {:.2f} % on val. "
        "Its anonymous memory was at most {:,} MiB, where training on digits in memory takes {:,} MiB; evaluation took "
        "{:,}, export with INT8 {:,} and predicting {:,} files {:,} MiB",
        (found["images"], int(resumed.split()[3]), 100 * float(reached.split()[2]), training, peak["train on digits"],
         peak["evaluate"], peak["export"], found["predicted"], peak["predict"]),
    )  # fmt: skip


def ray(read: Reader) -> Iterator[Claim]:
    """Batch prediction on a local Ray."""
    found = read(f"{_RESULTS}/ray.json")
    few, many = ({name.partition(",")[0]: row for name, row in found["memory"].items() if name.endswith(f", {count}")}
                 for count in (10_000, 100_000))  # fmt: skip
    alone, cluster = found["best_seconds"].values()
    yield Claim(
        _PREDICT_PAGE,
        "{:,} JPEGs of 500 x 375 were predicted by the package's classifier in {:.0f} s by one process, which uses "
        "both cores, and in {:.0f} s by two workers, most of which is Ray's start; the rows are the same",
        (found["images"], alone, cluster),
        holds=found["differing_rows"] == 0 and few["Ray"]["seconds"] > cluster / 2,
    )
    yield Claim(
        _PREDICT_PAGE,
        "{:,} small files took one process {:.0f} s and two workers {:.0f} s",
        (100_000, many["one process"]["seconds"], many["Ray"]["seconds"]),
    )
    yield Claim(
        _PREDICT_PAGE,
        "a worker had at most {} MiB of anonymous memory for {:,} small files and {} for {:,}, the command {} and "
        "{}, and one process {} and {}",
        (few["Ray"]["worker_mib"], 10_000, many["Ray"]["worker_mib"], 100_000,
         *(by["Ray"]["command_mib"] for by in (few, many)),
         *(by["one process"]["command_mib"] for by in (few, many))),
    )  # fmt: skip


def alike(read: Reader) -> Iterator[Claim]:
    """Images of CIFAR-10 that look like training images."""
    val, test = (read(f"{_RESULTS}/alike.json")["splits"][split] for split in ("val", "test"))
    yield Claim(
        _DATA_PAGE,
        "holds for {} of {:,} val images, whose twins in train are all of the same class, and for {} of {:,} test "
        "images",
        (val["alike"], val["images"], test["alike"], test["images"]),
        holds=val["alike"] == val["alike_same_class"],
    )
    yield Claim(
        _DATA_PAGE,
        "find {} of {:,} val images that are like training images, {} of them of one class, and {} of {:,} test images "
        "that are like others, {} of one class",
        (val["either"], val["images"], val["either_same_class"], test["either"], test["images"],
         test["either_same_class"]),
    )  # fmt: skip


def gpu(read: Reader) -> Iterator[Claim]:
    """The training loop itself, and the accelerator's benchmark tried on a CPU."""
    found = read(f"{_RESULTS}/gpu.json")
    loop, rates = found["milliseconds_a_step"], found["images_per_second"]
    kinds = ("device", "device, crops and flips", "host, crops and flips")
    yield Claim(
        _BENCHMARKS,
        "a step takes {:.2f} ms on TensorFlow and {:.2f} ms on JAX where the images stay on the device, {:.2f} and "
        "{:.2f} ms with crops and flips there, and {:.2f} and {:.2f} ms where the host makes the batches. The goal was "
        "under 1 ms.",
        tuple(loop[f"{backend}, {kind}"] for kind in kinds for backend in ("tensorflow", "jax")),
        holds=max(loop["tensorflow, device"], loop["jax, device"]) < 1,
    )
    yield Claim(
        _BENCHMARKS,
        "ours {:.0f} images/s on TensorFlow, where Keras `fit` takes {:.0f} and PyTorch {:.0f}; on JAX, whose many "
        "steps in one call do not use all of the CPU, {:.1f} against {:.1f} of `fit`",
        (rates["ours, tensorflow"], rates["Keras fit, tensorflow"], rates["PyTorch, compiled"], rates["ours, jax"],
         rates["Keras fit, jax"]),
    )  # fmt: skip


def labels(read: Reader) -> Iterator[Claim]:
    """Wrong labels that `check` finds among CIFAR-10's test images."""
    found = read(f"{_RESULTS}/labels.json")
    yield Claim(
        _DATA_PAGE,
        "of the {:,} test images of CIFAR-10 (JPEG copy), people reviewed {} that other classifiers had made suspects: "
        "five looked at each, and for {} fewer than three confirmed the label",
        (found["images"], found["reviewed"], found["wrong"]),
    )
    titles = {
        "features, test alone": "features, of the test images alone",
        "features, all splits": "features, of all 60,000 images",
        "run": "a run (level 5 at 160 px)",
    }
    for way, title in titles.items():
        scores = found["ways"][way]
        yield Claim(
            _DATA_PAGE,
            f"| {title} | {{:.2f}} % | {{}} | {{}} | {{}} | {{}} | {{}} | {{}} | {{:.3f}} |",
            (100 * scores["top1"], scores["confident_learning"], *(row["wrong"] for row in scores["lists"].values()),
             scores["average_precision"]),
        )  # fmt: skip
    best = found["ways"]["run"]["lists"]
    yield Claim(
        _DATA_PAGE,
        "a run's first {} hold {} of the {} (recall {:.0f} %, precision {:.0f} %), its first {} {} ({:.0f} %, "
        "{:.0f} %)",
        (100, best["100"]["wrong"], found["wrong"], 100 * best["100"]["recall"], 100 * best["100"]["precision"], 400,
         best["400"]["wrong"], 100 * best["400"]["recall"], 100 * best["400"]["precision"]),
    )  # fmt: skip


def serve(read: Reader) -> Iterator[Claim]:
    """The server under load, beside others."""
    found = read(f"{_RESULTS}/serve.json")
    before, after = found["load_average"]
    seconds = found["seconds"]
    yield Claim(
        _SERVE_PAGE,
        "both views) on {} cores, which the clients share; `serve` for {:.0f} s at each number of clients, the others "
        "for {:.0f} s",
        (_WORDS[found["cpus"]], seconds, seconds / 6),
    )
    yield Claim(_SERVE_PAGE, "its load average was {:.0f} before and {:.0f} after", (before, after))
    for name, title in (("serve", "`serve`"), ("LitServe", "LitServe"), ("FastAPI", "FastAPI")):
        for clients, row in found["photos"][name].items():
            percentiles = (row[f"p{n}_ms"] / 1000 for n in (50, 95, 99))
            yield Claim(
                _SERVE_PAGE,
                f"| {title} | {clients} | {{:,}} | {{}} | {{:.0f}} | {{:.2f}} | {{:.2f}} | {{:.2f}} | {{:.1f}} | "
                "{}, {}, {} |",
                (row["answers"], row["lost"], row["images_per_second"], *percentiles, row["cpu_ms_per_image"],
                 *row["memory_mb"]),
            )  # fmt: skip
    rates = {way: statistics.median(turns) for way, turns in found["images_per_second"].items()}
    turns = (found["images_per_second"][way] for way in ("batching", "runtime, batch 64"))
    share = statistics.median(ours / theirs for ours, theirs in zip(*turns, strict=True))
    milliseconds = found["one_client"]["milliseconds"]
    yield Claim(
        _SERVE_PAGE,
        "`serve` answers {:.0f} images/s, and {:.0f} images/s with `--batch 1`; the runtime by itself, in turns with "
        "them, gives {:.0f} images/s at batch 64, of which `serve` has {:.2f} in the median turn, and {:.0f} at "
        "batch 1",
        (rates["batching"], rates["without batching"], rates["runtime, batch 64"], share, rates["runtime, batch 1"]),
        holds=share > 0.9,
    )
    yield Claim(
        _SERVE_PAGE,
        "A single client waits {:.1f} ms where `OnnxClassifier` takes {:.1f} ms (the fastest tenth of the answers; the "
        "medians are {:.1f} and {:.1f} ms)",
        (
            milliseconds["serve"][0],
            milliseconds["OnnxClassifier"][0],
            milliseconds["serve"][1],
            milliseconds["OnnxClassifier"][1],
        ),
        holds=milliseconds["serve"][0] < milliseconds["OnnxClassifier"][0] + 3,
    )


def shift(read: Reader) -> Iterator[Claim]:
    """The ladder under fifteen corruptions; severity 0 is the images as they are."""
    rows = read(f"{_SHIFT}.csv")

    def mean(level, what, *severities):
        return statistics.mean(row[what] for row in rows if row["classifier"] == level and row["level"] in severities)

    def lead(*severities):
        return mean("level5", "top1", *severities) - mean("level4", "top1", *severities)

    all_five = range(1, 6)
    yield Claim(
        _SHIFT_PAGE,
        "its lead over level 4 is several times as large, and its calibration error does not grow",
        holds=lead(*all_five) > 3 * lead(0)
        and mean("level5", "calibration_error", 5) <= mean("level5", "calibration_error", 0),
    )
    for level in sorted({row["classifier"] for row in rows}):
        shares = (mean(level, "top1", *severities) for severities in ((0,), all_five, (1,), (5,)))
        errors = (mean(level, "calibration_error", *severities) for severities in ((0,), all_five))
        yield Claim(
            _SHIFT_PAGE,
            f"| {level.removeprefix('level')}{' | {:.1f} %' * 4}{' | {:.3f}' * 2} |",
            (*(100 * share for share in shares), *errors),
            holds=sum(row["classifier"] == level for row in rows) == 1 + 15 * 5,
        )


def web(read: Reader) -> Iterator[Claim]:
    """The page without a server, on photographs."""
    found = read(f"{_RESULTS}/web.json")
    int8, float32 = (found["models"][name] for name in ("cifar10_efficientnet_lite0_int8", "level5_fp32"))
    yield Claim(
        _SERVE_PAGE,
        "On {} photographs of all sizes and shapes (`python -m benchmarks web PHOTOS`) the page in Chromium sees the "
        "same pixels as `decode_image` on all {}. A float32 file (level 5, one view) gives the same top class on all "
        "{}; the package's INT8 file on {}:",
        (found["photos"], int8["same_pixels"], float32["same_top1"], int8["same_top1"]),
        holds=found["photos"] == int8["same_pixels"] == float32["same_pixels"] == float32["same_top1"],
    )
    yield Claim(
        _SERVE_PAGE,
        "An image takes {:.0f} ms in float32 with one view and {:.0f} ms in INT8 with two views, at 160 px on "
        "one thread. The page as one file with both models has {:.1f} MB",
        (float32["milliseconds"], int8["milliseconds"], found["page_bytes"] / 1e6),
    )


SOURCES = (
    ladder, long_ladder, level5, cycles, refits, means_of_refits, packaged, tuning_level1, tuning_level3, gradients,
    step, avx2, startup, evaluate, memory, augmentation, level1, onnx, quantization, resize, stores, large, ray,
    alike, gpu, labels, choices, choices_of_level5, choices_around_level5, choices_of_views, choices_of_padding,
    intervals, serve, shift, web,
)  # fmt: skip


def _of(by_name, start):
    """The rates of the workloads whose names begin with `start`."""
    return [rates for name, rates in by_name.items() if name.startswith(start)]


def _best(rates, name):
    """The rate of Keras or PyTorch in its faster precision."""
    return max(rate for way, rate in rates.items() if way.startswith(name))


def _times(workloads, name, ours="ours"):
    """How many times as fast ours is as the best of `name`, by workload."""
    return [rates[ours] / _best(rates, name) for rates in workloads]


def _slower(seconds, name):
    return min(value for way, value in seconds.items() if way.startswith(name)) / seconds["ours"]


def _range(values):
    values = list(values)
    return min(values), max(values)


def _precision(environment):
    return environment["precision"].removeprefix("mixed_")


def _top1(fraction, digits=4):
    """`.8254`."""
    return f"{fraction:.{digits}f}".removeprefix("0")


def _rate(value, digits=1):
    """`1.3e-3`."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _signed(value):
    return f"{value:+.2f}".replace("-", "−")
