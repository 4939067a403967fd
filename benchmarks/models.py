"""The models that are measured: ours, plain Keras', and the same architectures in PyTorch."""

import keras
import numpy as np

from keras_cifar.model import build_model
from keras_cifar.recipes import resolve_recipe

BATCH, IMAGE_SIZE = 64, 128
BACKBONES = ("resnet18", "efficientnet_lite0")
STAGES = {"level 3": ("P5",), "level 4": ("P4", "P5"), "all layers": ("P1", "P2", "P3", "P4", "P5")}
# What `step` and `evaluate` call the ways that they compare.
OURS, PLAIN, TORCH = "ours", "Keras", "PyTorch"


def classifier(backbone: str, stages: tuple[str, ...]) -> keras.Model:
    """A fusion classifier in the fastest precision of the backbone, with batch norms that do something."""
    stages = tuple(stage for stage in stages if backbone != "resnet18" or stage != "P1")
    recipe = resolve_recipe(3, backbone=backbone, weights="none", image_size=IMAGE_SIZE, trainable_stages=stages)
    model = build_model(recipe, 10, (32, 32, 3))
    random = np.random.default_rng(0)
    for layer in model.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return model


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Images (BATCH, 32, 32, 3) uint8 and labels (BATCH,)."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8), random.integers(0, 10, BATCH)


def torch_classifier(backbone: str):
    """The fusion classifier in PyTorch, channels last, with modules P4, P5 and head; images in, logits out."""
    import torch
    from torch import nn
    from torch.nn import functional

    def unit(inputs, outputs, size, stride=1, groups=1, activation=None):
        layers = [
            nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        return nn.Sequential(*layers, *([activation()] if activation else []))

    class Sum(nn.Module):
        """body(x) + shortcut(x), then an activation."""

        def __init__(self, body, shortcut, after):
            super().__init__()
            self.body, self.shortcut, self.after = body, shortcut, after

        def forward(self, x):
            return self.after(self.body(x) + self.shortcut(x))

    def basic(inputs, outputs, stride):
        body = nn.Sequential(unit(inputs, outputs, 3, stride, activation=nn.ReLU), unit(outputs, outputs, 3))
        return Sum(
            body, nn.Identity() if stride == 1 and inputs == outputs else unit(inputs, outputs, 1, stride), nn.ReLU()
        )

    def inverted(inputs, outputs, size, stride, expansion):
        hidden = inputs * expansion
        body = nn.Sequential(
            *([unit(inputs, hidden, 1, activation=nn.ReLU6)] if expansion > 1 else []),
            unit(hidden, hidden, size, stride, hidden, nn.ReLU6),
            unit(hidden, outputs, 1),
        )
        return Sum(body, nn.Identity(), nn.Identity()) if stride == 1 and inputs == outputs else body

    def stage(block, inputs, outputs, repeats, stride, *rest):
        blocks = [block(inputs, outputs, *rest[:1], stride, *rest[1:])]
        return nn.Sequential(*blocks, *(block(outputs, outputs, *rest[:1], 1, *rest[1:]) for _ in range(repeats - 1)))

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            if backbone == "resnet18":
                self.mean, self.std, channels = 117.0, 58.0, 256 + 512
                stem = nn.Sequential(unit(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1))
                self.low = nn.Sequential(stem, stage(basic, 64, 64, 2, 1), stage(basic, 64, 128, 2, 2))
                self.P4, self.P5 = stage(basic, 128, 256, 2, 2), stage(basic, 256, 512, 2, 2)
            else:
                self.mean, self.std, channels = 127.0, 128.0, 112 + 1280
                self.low = nn.Sequential(
                    unit(3, 32, 3, 2, activation=nn.ReLU6),
                    stage(inverted, 32, 16, 1, 1, 3, 1),
                    stage(inverted, 16, 24, 2, 2, 3, 6),
                    stage(inverted, 24, 40, 2, 2, 5, 6),
                )
                self.P4 = nn.Sequential(stage(inverted, 40, 80, 3, 2, 3, 6), stage(inverted, 80, 112, 3, 1, 5, 6))
                self.P5 = nn.Sequential(
                    stage(inverted, 112, 192, 4, 2, 5, 6),
                    stage(inverted, 192, 320, 1, 1, 3, 6),
                    unit(320, 1280, 1, activation=nn.ReLU6),
                )
            self.head = nn.Sequential(nn.Linear(channels, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))

        def forward(self, images):
            images = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
            images = functional.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
            middle = self.P4(self.low(images.contiguous(memory_format=torch.channels_last)))
            pooled = [middle.mean((2, 3)), self.P5(middle).mean((2, 3))]
            return self.head(torch.cat(pooled, 1))

    torch.manual_seed(0)
    return Classifier().to(memory_format=torch.channels_last).eval()
