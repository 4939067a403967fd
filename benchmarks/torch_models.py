"""The measured architectures in native PyTorch, channels last; imported only where PyTorch is installed."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.models import IMAGE_SIZE, LEARNING_RATE, batch


class Unit(nn.Sequential):
    """Convolution, batch normalisation, and an activation where one is given."""

    def __init__(self, inputs, outputs, size, stride=1, groups=1, activation=None, epsilon=1e-5):
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, epsilon),
            *([activation()] if activation else []),
        )


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(Unit(inputs, outputs, 3, stride, activation=nn.ReLU), Unit(outputs, outputs, 3))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else Unit(inputs, outputs, 1, stride)

    def forward(self, x):
        return functional.relu(self.body(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """EfficientNet-Lite's block: expansion, depthwise convolution, projection."""

    def __init__(self, inputs, outputs, stride, size, expansion):
        super().__init__()
        hidden = inputs * expansion
        expand = [Unit(inputs, hidden, 1, activation=nn.ReLU6, epsilon=1e-3)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            Unit(hidden, hidden, size, stride, hidden, nn.ReLU6, 1e-3),
            Unit(hidden, outputs, 1, epsilon=1e-3),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.body(x) if self.is_residual else self.body(x)


def stage(block, inputs, outputs, repeats, stride, *rest):
    """`repeats` blocks, the first with the stride."""
    return nn.Sequential(*(block(outputs if i else inputs, outputs, 1 if i else stride, *rest) for i in range(repeats)))


class Classifier(nn.Module):
    """(B, H, W, 3) uint8 -> logits (B, 10), with modules `low`, `P4`, `P5` and `head`.

    Args:
        backbone: "resnet18" or "efficientnet_lite0".
        image_size: side that images are resized to.
    """

    def __init__(self, backbone: str, image_size: int):
        super().__init__()
        self.image_size = image_size
        if backbone == "resnet18":
            self.mean, self.std, middle, top = 117.0, 58.0, 256, 512
            stem = nn.Sequential(Unit(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1))
            self.low = nn.Sequential(stem, stage(BasicBlock, 64, 64, 2, 1), stage(BasicBlock, 64, 128, 2, 2))
            self.P4, self.P5 = stage(BasicBlock, 128, 256, 2, 2), stage(BasicBlock, 256, 512, 2, 2)
        else:
            self.mean, self.std, middle, top = 127.0, 128.0, 112, 1280
            block = InvertedResidual
            self.low = nn.Sequential(
                Unit(3, 32, 3, 2, activation=nn.ReLU6, epsilon=1e-3),
                stage(block, 32, 16, 1, 1, 3, 1),
                stage(block, 16, 24, 2, 2, 3, 6),
                stage(block, 24, 40, 2, 2, 5, 6),
            )
            self.P4 = nn.Sequential(stage(block, 40, 80, 3, 2, 3, 6), stage(block, 80, 112, 3, 1, 5, 6))
            self.P5 = nn.Sequential(
                stage(block, 112, 192, 4, 2, 5, 6),
                stage(block, 192, 320, 1, 1, 3, 6),
                Unit(320, 1280, 1, activation=nn.ReLU6, epsilon=1e-3),
            )
        self.head = nn.Sequential(nn.Linear(middle + top, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        images = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        images = functional.interpolate(images, size=(self.image_size, self.image_size), mode="bilinear")
        middle = self.P4(self.low(images.contiguous(memory_format=torch.channels_last)))
        return self.head(torch.cat([middle.mean((2, 3)), self.P5(middle).mean((2, 3))], 1))


def torch_step(backbone: str, stages: tuple[str, ...], precision: str):
    """One step of a plain PyTorch loop."""
    torch.manual_seed(0)
    model = Classifier(backbone, IMAGE_SIZE).eval()
    whole = "P3" in stages
    for parameter in model.parameters():
        parameter.requires_grad_(whole)
    for name in (*(stage for stage in stages if not whole), "head"):
        getattr(model, name).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], LEARNING_RATE)
    images, labels = (torch.from_numpy(part) for part in batch())

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step
