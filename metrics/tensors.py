"""Maps and metrics once more, on PyTorch tensors: what is computed on a GPU is scored there.

Each function is the twin of the one of its name in `maps`, `similarity` or `single`, which says
what it is; the tests hold the two to 1e-9 of each other. Everything is in double precision. Of
`check` and of the scores, (B,) numbers leave the device, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce

import numpy as np
import torch

from steadymap.metrics.maps import (
    CONSTANT_SPREAD,
    Array,
    Checks,
    Flags,
    Maps,
    clip_place,
    top_count,
    window_matrix,
)
from steadymap.metrics.similarity import SSIM_C1, SSIM_C2
from steadymap.metrics.single import coverage

# Kendall's pairs compared at a time: 64 MiB a comparison.
PAIRS = 2**26


@dataclass(frozen=True)
class TensorMaps:
    """A batch of saliency maps on a device; see `Maps`.

    Attributes:
        signed: (B, h, w), float64, attributions summed over channels, unscaled.
    """

    signed: torch.Tensor

    @classmethod
    def from_attributions(cls, attributions: torch.Tensor) -> TensorMaps:
        """Sum attributions (B, C, h, w) over their channels, in double precision, where they are.

        Raises:
            ValueError: another number of dimensions.
        """
        if attributions.ndim != 4:  # noqa: PLR2004 - (B, C, h, w)
            raise ValueError(
                f"attributions: expected (batch, channels, height, width), "
                f"got shape {tuple(attributions.shape)}"
            )
        # One channel after the other, as NumPy does: rounding is the same, so ties are.
        return cls(reduce(torch.add, attributions.detach().double().unbind(dim=1)))

    def __len__(self) -> int:
        """Return the number of maps."""
        return len(self.signed)

    @cached_property
    def on_host(self) -> Maps:
        """The same maps for NumPy."""
        return Maps(self.signed.cpu().numpy())

    @cached_property
    def magnitude(self) -> torch.Tensor:
        """(B, h, w) in [0, 1]: absolute values, clipped at each map's own 99th percentile."""
        return magnitude(self.signed)

    @cached_property
    def signed_checks(self) -> Checks:
        """Which signed maps are finite, which constant; on the host."""
        return check(self.signed)

    @cached_property
    def magnitude_checks(self) -> Checks:
        """Which magnitudes are finite, which constant; on the host."""
        return check(self.magnitude)

    @cached_property
    def ranks(self) -> torch.Tensor:
        """(B, h * w): `unit_ranks` of the signed maps."""
        return unit_ranks(self.signed)

    @cached_property
    def magnitude_ranks(self) -> torch.Tensor:
        """(B, h * w): `unit_ranks` of the magnitudes."""
        return unit_ranks(self.magnitude)

    @cached_property
    def window_mean(self) -> torch.Tensor:
        """(B, h - 10, w - 10): means of the magnitude in SSIM's windows."""
        return window_mean(self.magnitude)

    @cached_property
    def window_variance(self) -> torch.Tensor:
        """(B, h - 10, w - 10): variances of the magnitude in SSIM's windows."""
        return window_mean(self.magnitude**2) - self.window_mean**2

    @cached_property
    def strongest(self) -> torch.Tensor:
        """(B, h * w): how much of each pixel belongs to the strongest 5%, in [0, 1]."""
        return membership(self.magnitude, top_count(self.magnitude[0].numel()))

    def copy(self) -> TensorMaps:
        """Return the maps once more, without what has been derived from them."""
        return TensorMaps(self.signed.clone())

    def select(self, chosen: Flags) -> TensorMaps:
        """Return some of the maps; all of them keep what has been derived from them."""
        return self if chosen.all() else TensorMaps(select(self.signed, chosen))

    def take(self, places: Sequence[int]) -> TensorMaps:
        """Return the maps at these places, in this order."""
        return TensorMaps(self.signed[list(places)])


def on_device(values: Array | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return values on a device, in double precision."""
    tensor = values if isinstance(values, torch.Tensor) else torch.tensor(values)
    return tensor.to(device, torch.float64)


def select(values: torch.Tensor, chosen: Flags) -> torch.Tensor:
    """Return some rows of values (B, ...), by flags (B,) on the host."""
    return values[torch.from_numpy(np.flatnonzero(chosen)).to(values.device)]


def check(values: torch.Tensor) -> Checks:
    """Check maps or masks (B, h, w), or deltas (B,); the answer comes to the host in one piece."""
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    finite = flat.isfinite().all(dim=1)
    highest, lowest = flat.amax(dim=1), flat.amin(dim=1)
    spread = highest - lowest
    constant = finite & (spread <= CONSTANT_SPREAD * torch.maximum(highest, -lowest))
    flags = torch.stack((finite, constant)).cpu().numpy()
    return Checks(flags[0], flags[1])


def magnitude(signed: torch.Tensor) -> torch.Tensor:
    """Turn signed maps (B, h, w) into magnitudes (B, h, w) in [0, 1]."""
    absolute = signed.abs()
    flat = absolute.flatten(1)
    low, share = clip_place(flat.shape[1])
    # Not torch.quantile, which refuses batches of more than 2^24 values.
    ordered = flat.sort(dim=1).values
    lower, upper = ordered[:, low], ordered[:, min(low + 1, flat.shape[1] - 1)]
    top = (lower + (upper - lower) * share)[:, None, None]
    scaled = torch.where(top != 0, torch.minimum(absolute, top) / top, 0.0)
    return torch.where(flat.isfinite().all(dim=1)[:, None, None], scaled, torch.nan)


def unit_ranks(maps: torch.Tensor) -> torch.Tensor:
    """Rank each map, centre the ranks and scale them to norm 1: (B, h * w)."""
    flat = maps.flatten(1).contiguous()
    ordered = flat.sort(dim=1).values
    # How many are smaller, and how many not larger: the mean of the two is the rank less 1/2.
    smaller = torch.searchsorted(ordered, flat)
    not_larger = torch.searchsorted(ordered, flat, right=True)
    ranks = (smaller + not_larger).double() / 2 - flat.shape[1] / 2
    norms = (ranks**2).sum(dim=1, keepdim=True).sqrt()
    return torch.where(norms != 0, ranks / norms, 0.0)


@lru_cache
def _window(size: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(window_matrix(size)).to(device)


def window_mean(maps: torch.Tensor) -> torch.Tensor:
    """Average maps (..., h, w) in Gaussian windows that lie inside: (..., h - 10, w - 10)."""
    height, width = maps.shape[-2:]
    return _window(height, maps.device) @ maps @ _window(width, maps.device).T


def ssim(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Mean structural similarity of magnitudes."""
    first, second = clean.window_mean, perturbed.window_mean
    covariance = window_mean(clean.magnitude * perturbed.magnitude) - first * second
    luminance = (2 * first * second + SSIM_C1) / (first**2 + second**2 + SSIM_C1)
    contrast = (2 * covariance + SSIM_C2) / (
        clean.window_variance + perturbed.window_variance + SSIM_C2
    )
    return (luminance * contrast).mean(dim=(-2, -1))


def spearman(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Spearman's rank correlation of signed maps."""
    return (clean.ranks * perturbed.ranks).sum(dim=-1)


def spearman_magnitude(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Spearman's rank correlation of magnitudes."""
    return (clean.magnitude_ranks * perturbed.magnitude_ranks).sum(dim=-1)


def kendall(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Kendall's tau-b of signed maps: every pair of pixels is compared, some rows at a time."""
    first, second = clean.signed.flatten(1), perturbed.signed.flatten(1)
    count, size = first.shape
    # (4, B): pairs of the same order, of the opposite one, and those untied in each map.
    totals = torch.zeros(4, count, dtype=torch.int64, device=first.device)
    step = max(1, PAIRS // (count * size))
    for start in range(0, size, step):
        rows = slice(start, start + step)
        # Each pair of pixels is met twice, and rises in the clean map on one occasion at most.
        rises = first[:, rows, None] < first[:, None, :]
        rises_too = second[:, rows, None] < second[:, None, :]
        falls = second[:, rows, None] > second[:, None, :]
        pairs = (rises & rises_too, rises & falls, rises, rises_too)
        totals += torch.stack([flags.sum(dim=(1, 2)) for flags in pairs])
    same, opposite, untied, untied_too = totals.double().unbind()
    # Two roots, as SciPy does; rounding must not lead out of the range.
    tau: torch.Tensor = (same - opposite) / untied.sqrt() / untied_too.sqrt()
    return tau.clamp(-1, 1)


def top_k_intersection(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Share of the 5% of pixels of largest magnitude that both maps have in common."""
    height, width = clean.signed.shape[-2:]
    return torch.minimum(clean.strongest, perturbed.strongest).sum(dim=-1) / top_count(
        height * width
    )


def membership(maps: torch.Tensor, count: int) -> torch.Tensor:
    """(B, h * w): how much of each pixel belongs to the `count` largest, in [0, 1]."""
    flat = maps.flatten(1)
    threshold = flat.topk(count, dim=1).values[:, -1:]
    above, tied = (flat > threshold).double(), (flat == threshold).double()
    places = count - above.sum(dim=1, keepdim=True)
    return above + tied * (places / tied.sum(dim=1, keepdim=True))


def relative_l2(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Euclidean distance of the signed maps over the norm of the clean one."""
    difference = ((perturbed.signed - clean.signed) ** 2).sum(dim=(-2, -1)).sqrt()
    return difference / (clean.signed**2).sum(dim=(-2, -1)).sqrt()


def cosine(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Cosine of the angle between signed maps."""
    return _cosine(clean.signed, perturbed.signed)


def pearson(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Pearson's correlation of signed maps."""
    first, second = (
        maps.signed - maps.signed.mean(dim=(-2, -1), keepdim=True) for maps in (clean, perturbed)
    )
    return _cosine(first, second)


def _cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    both = (first * second).sum(dim=(-2, -1))
    return both / ((first**2).sum(dim=(-2, -1)).sqrt() * (second**2).sum(dim=(-2, -1)).sqrt())


def centre_shift(clean: TensorMaps, perturbed: TensorMaps) -> torch.Tensor:
    """Distance between the centres of mass of magnitudes, as a share of the diagonal."""
    height, width = clean.signed.shape[-2:]
    apart = _centre(clean.magnitude) - _centre(perturbed.magnitude)
    shift: torch.Tensor = torch.hypot(*apart) / (height**2 + width**2) ** 0.5
    return shift


def _centre(magnitude: torch.Tensor) -> torch.Tensor:
    """Return row and column of the centres of mass, (2, ...), in pixels."""
    rows, columns = (
        torch.arange(size, device=magnitude.device).to(magnitude.dtype)
        for size in magnitude.shape[-2:]
    )
    down = (magnitude.sum(dim=-1) * rows).sum(dim=-1)
    across = (magnitude.sum(dim=-2) * columns).sum(dim=-1)
    return torch.stack([down, across]) / magnitude.sum(dim=(-2, -1))


def completeness_error(maps: TensorMaps, deltas: torch.Tensor) -> torch.Tensor:
    """Absolute completeness error, in logits."""
    return (maps.signed.sum(dim=(1, 2)) - deltas).abs()


def completeness_error_relative(maps: TensorMaps, deltas: torch.Tensor) -> torch.Tensor:
    """Completeness error over |delta|."""
    return completeness_error(maps, deltas) / deltas.abs()


def mask_mass(maps: TensorMaps, masks: torch.Tensor) -> torch.Tensor:
    """Share of a map's magnitude inside a mask (B, H, W)."""
    height, width = maps.signed.shape[1:]
    rows = _coverage(height, masks.shape[1], masks.device)
    columns = _coverage(width, masks.shape[2], masks.device)
    coarse = rows @ masks @ columns.T
    return (maps.magnitude * coarse).sum(dim=(1, 2)) / maps.magnitude.sum(dim=(1, 2))


@lru_cache
def _coverage(new: int, old: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(coverage(new, old)).to(device)
