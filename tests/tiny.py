"""Small backbones for tests, and the command line that knows it: `python tests/tiny.py train ...`."""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from keras_cifar.model.specs import BACKBONES, register_backbone

_LITE0 = BACKBONES["efficientnet_lite0"]
_BLOCKS = {
    "stackwise_width_coefficients": [1.0] * 5,
    "stackwise_depth_coefficients": [1.0] * 5,
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5],
    "stackwise_num_repeats": [1] * 5,
    "stackwise_input_filters": [32, 16, 24, 40, 80],
    "stackwise_output_filters": [16, 24, 40, 80, 112],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0] * 5,
    "stackwise_strides": [1, 2, 2, 2, 2],
    "stackwise_block_types": ["v1"] * 5,
}
register_backbone(dataclasses.replace(_LITE0, name="tiny", config={**_LITE0.config, **_BLOCKS}))
# With residual branches, in P3 to P5.
_TWICE = {**_BLOCKS, "stackwise_num_repeats": [1, 1, 2, 2, 2]}
register_backbone(dataclasses.replace(_LITE0, name="tiny_residual", config={**_LITE0.config, **_TWICE}))

if __name__ == "__main__":
    import cli

    sys.exit(cli.main())
