"""Three small networks of different kinds, in plain torch, as a user's module may hold them.

They take images of 32 x 32 pixels and have three classes; their weights are drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 32
CLASSES = ("dots", "rings", "stripes")


class Plain(nn.Module):
    """Convolutions with functional ReLUs, and poolings that take the largest."""

    mean, std = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 12, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(12 * (SIDE // 4) ** 2, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) to logits (B, 3)."""
        coarse = self.pool(functional.relu(self.a(images)))
        logits: Tensor = self.head(self.pool(functional.relu(self.b(coarse))).flatten(1))
        return logits


class Block(nn.Module):
    """Two convolutions with batch norms, and a way past them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_a = nn.BatchNorm2d(channels)
        self.relu_a = nn.ReLU()
        self.b = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_b = nn.BatchNorm2d(channels)
        self.relu_b = nn.ReLU()

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        inner = self.norm_b(self.b(self.relu_a(self.norm_a(self.a(values)))))
        output: Tensor = self.relu_b(values + inner)
        return output


class Residual(nn.Module):
    """Two residual blocks with batch norms that have seen something, and a mean over places."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 4 * 4, len(CLASSES))
        )
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.3)
                nn.init.normal_(part.running_mean, std=0.2)  # type: ignore[arg-type] # it has one
                nn.init.uniform_(part.running_var, 0.3, 1.2)  # type: ignore[arg-type] # as above

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) to logits (B, 3)."""
        logits: Tensor = self.head(self.blocks(self.stem(images)))
        return logits


class Smooth(nn.Module):
    """No ReLU: SiLU and GELU, whose values may be negative, and poolings that take means."""

    mean, std = (0.48, 0.46, 0.41), (0.23, 0.22, 0.23)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 10, 5, padding=2),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(10, 12, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(12, 12, 3, padding=1, groups=2),
            nn.SiLU(),
        )
        self.head = nn.Linear(12 * (SIDE // 4) ** 2, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) to logits (B, 3)."""
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits


NETWORKS: dict[str, type[Plain | Residual | Smooth]] = {
    "plain": Plain,
    "residual": Residual,
    "smooth": Smooth,
}


def build(name: str) -> Plain | Residual | Smooth:
    """Draw a network's weights, large ones; torch's global generator is left as it was."""
    make: Callable[[], Plain | Residual | Smooth] = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = make().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.5)
    return network
