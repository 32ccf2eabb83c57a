"""What a network answers to a few fixed images, in as few numbers as tell it from another."""

from __future__ import annotations

import math

import torch

from steadymap.bench.core.answers import Answers, distances
from steadymap.models import Classifier

SEED = 20
# Cells a side of each image: large and small ones, under noise, so that no maximum is a tie.
CELLS = (2, 4, 8, 16)
NUMBERS = 16
# No float32: moving an image by it and back rounds the image.
THIRD = 1 / 3


def answers_of(classifier: Classifier) -> Answers:
    """Return what a network answers to fixed images, and how far rounding reaches.

    One image at a time goes through the network, twice, so that answers depend neither on the
    memory that is left nor on the images of a run. An image on which it raises has no answer, and
    a network that nothing comes back through has no gradients.
    """
    images = probe_images(classifier.input_size).to(classifier.module.mean.device)
    logits, gradients = _answers(classifier, images)
    rounded_logits, rounded_gradients = _answers(classifier, (images + THIRD) - THIRD)
    return Answers(
        logits, gradients, _most(logits, rounded_logits), _most(gradients, rounded_gradients)
    )


def probe_images(size: tuple[int, int]) -> torch.Tensor:
    """Return images (4, 3, H, W) in [0, 1] that are the same, to the bit, everywhere."""
    generator = torch.Generator().manual_seed(SEED)
    height, width = size
    images = []
    for cells in CELLS:
        colours = torch.rand(3, cells, cells, generator=generator)
        rows = torch.arange(height) * cells // height
        columns = torch.arange(width) * cells // width
        noise = torch.rand(3, height, width, generator=generator)
        images.append((colours[:, rows][:, :, columns] + noise) / 2)
    return torch.stack(images)


Sketches = tuple[tuple[float, ...], ...]


def _answers(classifier: Classifier, images: torch.Tensor) -> tuple[Sketches, Sketches]:
    """Return sketches of logits and of input gradients, image by image."""
    logits: list[tuple[float, ...]] = [()] * len(images)
    gradients = logits.copy()
    for place, image in enumerate(images):
        with torch.random.fork_rng(), torch.enable_grad():
            point = image[None].clone().requires_grad_()
            try:
                # A copy of it: a network may write into what it is given.
                answer = classifier(point.clone())
                logits[place] = _sketch(answer)
                # Not the logit of one class: which is the largest may be a matter of rounding.
                summed = (answer * _signs(answer.numel()).to(answer)).sum()
                (gradient,) = torch.autograd.grad(summed, point)
            except Exception:  # noqa: BLE001, S112 - a network may raise anything, on some image or on the way back; the run says so, in the cells that it costs
                continue
            gradients[place] = _sketch(gradient)
    return tuple(logits), tuple(gradients)


def _sketch(tensor: torch.Tensor) -> tuple[float, ...]:
    """Return sums of a tensor's numbers, each with a sign of its own: as far apart as tensors are.

    Source: Charikar, Chen, Farach-Colton 2002 (count sketch), with every NUMBERS-th number to a
    sum. Empty where they are not finite.
    """
    values = tensor.detach().flatten().cpu().double()
    signed = values * _signs(len(values))
    padded = torch.nn.functional.pad(signed, (0, -len(values) % NUMBERS))
    sums = tuple(padded.view(-1, NUMBERS).sum(dim=0).tolist())
    return sums if all(map(math.isfinite, sums)) else ()


def _signs(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, 2, (count,), generator=generator).double() * 2 - 1


def _most(one: Sketches, other: Sketches) -> float:
    return max(filter(math.isfinite, distances(one, other)), default=0.0)
