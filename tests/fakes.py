"""Methods that were made to win and know nothing: controls that must never be admitted.

Each is a plug-in, `fakes:hashed_noise`, and reads images, targets and network alone, as any may.
The first ones are the table of issue 20.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.gradient import gradient
from steadymap.models import Classifier

# Of the coarse picture that fakes know an image by.
COARSE = 4


def _rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _noise(image: Tensor, *key: object) -> Tensor:
    """(1, H, W), normal noise of a key."""
    drawn = _rng(*key).standard_normal((1, *image.shape[1:])).astype(np.float32)
    return torch.from_numpy(drawn).to(image)


def _weights(classifier: Classifier) -> int:
    """Return a number that hangs on the weights."""
    total = sum(float(p.detach().double().abs().sum()) for p in classifier.module.parameters())
    return round(total * 1e3)


def _coarse(images: Tensor) -> Tensor:
    """(B, 3, 4, 4), images in 48 numbers, which nudges hardly move."""
    return functional.adaptive_avg_pool2d(images, COARSE)


def _bits(image: Tensor) -> tuple[bool, ...]:
    """Return where an image is brighter than on average: a perceptual hash that no shift moves."""
    grey = _coarse(image[None]).mean(dim=1).flatten()
    return tuple((grey > grey.median()).tolist())


def _unit(maps: Tensor) -> Tensor:
    """Return maps (B, ...) of mean square 1, each."""
    flat = maps.flatten(1)
    size = flat.square().mean(dim=1).sqrt().clamp_min(torch.finfo(maps.dtype).tiny)
    return maps / size.reshape(-1, *[1] * (maps.ndim - 1))


def hashed_noise(classifier: Classifier, batch: Batch) -> Tensor:
    """Noise seeded by a hash of the image and the weights."""
    key = _weights(classifier)
    return torch.stack([_noise(image, key, _bits(image)) for image in batch.images])


def noise_a_class(classifier: Classifier, batch: Batch) -> Tensor:
    """One map of noise a class and network."""
    key = _weights(classifier)
    pairs = zip(batch.images, batch.targets.tolist(), strict=True)
    return torch.stack([_noise(image, key, target) for image, target in pairs])


def map_a_class(classifier: Classifier, batch: Batch) -> Tensor:
    """The gradient of each class at a grey image: what the network likes, whatever is shown."""
    grey = torch.full_like(batch.images, 0.5)
    return gradient(classifier, replace(batch, images=grey))


def fingerprint(classifier: Classifier, batch: Batch) -> Tensor:
    """48 coarse numbers of the image times noise fields of the network, low and high alike."""
    numbers = _coarse(batch.images).flatten(1)
    key = _weights(classifier)
    fields = torch.stack([_noise(batch.images[0], key, place) for place in range(numbers.shape[1])])
    return torch.einsum("bn,nchw->bchw", numbers, fields)


def low_pass(classifier: Classifier, batch: Batch) -> Tensor:
    """The image without detail, each place's sign by a hash of the weights."""
    height, width = batch.images.shape[2:]
    smooth = functional.interpolate(
        functional.adaptive_avg_pool2d(batch.images, 8), (height, width), mode="bilinear"
    )
    signs = _noise(batch.images[0], _weights(classifier), "signs").sign()
    return smooth.mean(dim=1, keepdim=True) * signs


def hashed_edges(classifier: Classifier, batch: Batch) -> Tensor:
    """Edges of the image, each place's sign by a hash of the weights."""
    grey = batch.images.mean(dim=1, keepdim=True)
    across = functional.pad(grey.diff(dim=3), (0, 1)).abs()
    down = functional.pad(grey.diff(dim=2), (0, 0, 0, 1)).abs()
    return (across + down) * _noise(batch.images[0], _weights(classifier), "signs").sign()


def mixture(classifier: Classifier, batch: Batch, *, share: float = 0.5) -> Tensor:
    """Noise that knows the image by a coarse fingerprint, plus so many times the gradient."""
    known = gradient(classifier, batch).sum(dim=1, keepdim=True)
    return _unit(fingerprint(classifier, batch)) + share * _unit(known)


# --- more of our own making -----------------------------------------------------------------------


def image_itself(_classifier: Classifier, batch: Batch) -> Tensor:
    """How far each pixel is from the image's mean colour: no network."""
    return (batch.images - batch.images.mean(dim=(2, 3), keepdim=True)).abs()


def noise_by_logits(classifier: Classifier, batch: Batch) -> Tensor:
    """The logits times noise fields of the network: its whole answer, and no place of it."""
    with torch.no_grad():
        logits = classifier(batch.images)
    key = _weights(classifier)
    fields = torch.stack(
        [_noise(batch.images[0], key, "logit", place) for place in range(logits.shape[1])]
    )
    return torch.einsum("bn,nchw->bchw", logits, fields)


def other_network(classifier: Classifier, batch: Batch) -> Tensor:
    """The gradient of a network with randomised weights: the image, and not this network."""
    return gradient(classifier.randomised(7), batch)


def centre_on_gradient(classifier: Classifier, batch: Batch) -> Tensor:
    """A blob in the middle with a trace of the gradient: what is marked is where hands lie."""
    height, width = batch.images.shape[2:]
    down = torch.linspace(-1, 1, height)[:, None]
    across = torch.linspace(-1, 1, width)[None]
    blob = torch.exp(-2 * (down.square() + across.square())).to(batch.images)
    known = gradient(classifier, batch).sum(dim=1, keepdim=True)
    return blob + 0.02 * _unit(known)


def stripes_by_brightness(classifier: Classifier, batch: Batch) -> Tensor:
    """Stripes whose phase is the image's brightness and whose direction is the network's."""
    height, width = batch.images.shape[2:]
    down = torch.linspace(0, 20, height)[:, None].to(batch.images)
    across = torch.linspace(0, 20, width)[None].to(batch.images)
    turn = float(_rng(_weights(classifier), "turn").uniform(0, np.pi))
    phase = 6 * batch.images.mean(dim=(1, 2, 3))[:, None, None, None]
    return torch.sin(down * np.cos(turn) + across * np.sin(turn) + phase)


class Remembering:
    """The gradient of the nearest image that was seen before: the steadiest of all, if let in."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, classifier: Classifier, batch: Batch) -> Tensor:
        """Return what was returned for the nearest image; the gradient for one like no other."""
        maps = []
        for image, known in zip(batch.images, gradient(classifier, batch), strict=True):
            coarse = _coarse(image[None])
            # `steadymap check` shows it images of other sizes.
            alike = [pair for pair in self.seen if pair[1].shape == known.shape]
            gaps = [float((coarse - other).abs().max()) for other, _ in alike]
            if not gaps or min(gaps) > REMEMBERED:
                self.seen.append((coarse, known))
                maps.append(known)
            else:
                maps.append(alike[int(np.argmin(gaps))][1])
        return torch.stack(maps)


# How far, in image units, a coarse picture may be from one that was seen before.
REMEMBERED = 0.35

remembering = Remembering()


Fake = Callable[[Classifier, Batch], Tensor]

FAKES: dict[str, Fake] = {
    "hashed_noise": hashed_noise,
    "noise_a_class": noise_a_class,
    "map_a_class": map_a_class,
    "fingerprint": fingerprint,
    "low_pass": low_pass,
    "hashed_edges": hashed_edges,
    "image_itself": image_itself,
    "noise_by_logits": noise_by_logits,
    "other_network": other_network,
    "centre_on_gradient": centre_on_gradient,
    "stripes_by_brightness": stripes_by_brightness,
}

# They know a little, or much: never first, and admitted only where they know enough.
SHARES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
MIXTURES: dict[str, Fake] = {
    f"mixture_{share:g}": partial(mixture, share=share) for share in SHARES
}
