"""The two networks of the project: the study's own, and the same plan scaled down."""

from __future__ import annotations

from torch import Tensor, nn

from steadymap.models.registry import COMPACT_SIDE, HANDS, RPS_SIDE


class HandNetwork(nn.Module):
    """Six 3 x 3 convolutions in three pooled pairs, then three linear layers.

    The layers live in `self.network`, as in the study, so that its checkpoints load.
    """

    def __init__(
        self, channels: tuple[int, ...], hidden: tuple[int, int], side: int, classes: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(
            zip((3, *channels[:-1]), channels, strict=True), start=1
        ):
            layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU()]
            if index % 2 == 0:
                layers.append(nn.MaxPool2d(2, 2))
        # Three poolings halve the side three times, rounding down each time.
        flat = channels[-1] * (side // 2 // 2 // 2) ** 2
        layers += [
            nn.Flatten(),
            nn.Linear(flat, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], classes),
        ]
        self.network = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, side, side) in [0, 1] to logits (B, classes)."""
        logits: Tensor = self.network(images)
        return logits


def rps(classes: int = len(HANDS)) -> HandNetwork:
    """Build the study's network: 150 x 150 input, 86.6 M parameters, 96% in the study."""
    return HandNetwork((32, 64, 128, 128, 256, 256), (1024, 512), RPS_SIDE, classes)


def compact(classes: int = len(HANDS)) -> HandNetwork:
    """Build the same plan scaled down: 64 x 64 input, 0.22 M parameters."""
    return HandNetwork((8, 8, 16, 16, 32, 32), (96, 48), COMPACT_SIDE, classes)
