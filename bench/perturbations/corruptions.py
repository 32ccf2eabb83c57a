"""Perturbations that change an image's light, colour or sharpness, each a pure function.

Each takes an image (3, H, W), float32 in [0, 1] on the CPU, a severity and the generator of this
draw. At severity 0 each returns the image's own values. Those that go through 8 bits or through
another colour space (`hue`, `jpeg`, `pixelate`) give values in [0, 1]; nothing else is clamped.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

# Rec. 601 luma, as in torchvision's adjustments.
LUMA = (0.2989, 0.587, 0.114)
RED, GREEN, BLUE = range(3)


def _grey(image: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(LUMA, dtype=image.dtype)
    return (image * weights[:, None, None]).sum(dim=0, keepdim=True)


def _blend(image: torch.Tensor, other: torch.Tensor, severity: float) -> torch.Tensor:
    """Move away from another image by that share of the distance; towards it where negative."""
    return image + severity * (image - other)


def brightness(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Multiply by 1 + severity: the light changes, black stays black."""
    return _blend(image, torch.zeros_like(image), severity)


def contrast(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Multiply the distance from the mean grey by 1 + severity."""
    return _blend(image, _grey(image).mean().expand_as(image), severity)


def saturation(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Multiply the distance from each pixel's grey by 1 + severity."""
    return _blend(image, _grey(image).expand_as(image), severity)


def hue(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Turn the hue by that share of the circle, in HSV."""
    if severity == 0:
        return image.clone()
    # Loaded here: it takes a second.
    from torchvision.transforms.v2.functional import adjust_hue  # noqa: PLC0415

    turned: torch.Tensor = adjust_hue(image, severity)
    return turned


def channel_bias(image: torch.Tensor, severity: float, channel: int) -> torch.Tensor:
    """Add the severity to every value of one channel."""
    moved = image.clone()
    moved[channel] += severity
    return moved


def red_bias(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Add the severity to red."""
    return channel_bias(image, severity, RED)


def green_bias(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Add the severity to green."""
    return channel_bias(image, severity, GREEN)


def blue_bias(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Add the severity to blue."""
    return channel_bias(image, severity, BLUE)


def gaussian_blur(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Blur with a Gaussian whose standard deviation is that share of the shorter side."""
    sigma = severity * min(image.shape[1:])
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, sigma, sigma)))


def pixelate(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Shrink the sides by that share, averaging, and enlarge again without smoothing."""
    if severity == 0:
        return image.clone()
    height, width = image.shape[1:]
    across, down = (max(1, round(side * (1 - severity))) for side in (width, height))
    shrunk = _picture(image).resize((across, down), Image.Resampling.BOX)
    return _image(shrunk.resize((width, height), Image.Resampling.NEAREST))


def jpeg(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Compress as JPEG with quality 100 (1 - severity), at least 1, and read it back."""
    if severity == 0:
        return image.clone()
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=max(1, round(100 * (1 - severity))))
    with Image.open(file) as picture:
        return _image(picture)


def _picture(image: torch.Tensor) -> Image.Image:
    """Return an image as one in 8 bits."""
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def _image(picture: Image.Image) -> torch.Tensor:
    values = torch.from_numpy(np.array(picture.convert("RGB")))
    return values.permute(2, 0, 1).to(torch.float32) / 255
