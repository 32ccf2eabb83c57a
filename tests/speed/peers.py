"""Ours and the others on the same work: what each contender runs.

The captum and notebook contenders are written as their users write them; each says how. All get the
same network, images, targets and integration nodes, and the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from numpy.typing import NDArray
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from steadymap.bench import Plan, from_tensor, run
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.network.memory import images_at_once
from steadymap.metrics import magnitude
from steadymap.models import MODELS, Classifier, load_classifier, make_classifier, networks

THREE = ("black", "white", "random")
STEPS = 50
LEVELS = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)
CHEAP = ("gradient", "gradient_x_input", "grad_cam:relu=true")
SEED = 0


@dataclass(frozen=True)
class Work:
    """What every contender gets.

    Attributes:
        classifier: frozen, channels last; ours and the tuned captum use it.
        plain: the same network as its author leaves it: trainable parameters, default layout.
        layer: of `plain`, for Grad-CAM.
        batch: images (N, 3, H, W), targets and ids.
        workers: of our runner.
    """

    classifier: Classifier
    plain: nn.Module
    layer: nn.Module
    batch: Batch
    workers: int


def make_work(network: str, images: int, workers: int) -> Work:
    """Build the work on `rps` (random weights: they change no speed) or `compact`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        plain = networks.rps() if network == "rps" else load_classifier("compact").module.network
        state = plain.state_dict()
        twin = networks.rps() if network == "rps" else networks.compact()
    twin.load_state_dict(state)
    size = MODELS[network].side
    classifier = make_classifier(twin, (size, size))
    plain = plain.to(memory_format=torch.contiguous_format).eval().requires_grad_(True)
    generator = torch.Generator().manual_seed(SEED)
    shown = torch.rand(images, 3, size, size, generator=generator)
    targets = classifier(shown).argmax(dim=1)
    batch = Batch(
        shown, targets, draws_of(SEED, list(map(str, range(images)))), images_at_once(classifier)
    )
    layer = plain.get_submodule(classifier.need_cam().path)
    return Work(classifier, plain, layer, batch, workers)


# --- integrated gradients, 50 nodes, three baselines ----------------------------------------------


def ig_ours(work: Work) -> list[Tensor]:
    """Our engine."""
    return [
        bind_method(f"integrated_gradients:baseline={name},steps={STEPS}").explain(
            work.classifier, work.batch
        )
        for name in THREE
    ]


def _captum(work: Work, network: nn.Module, internal: int | None, images: slice) -> list[Tensor]:
    batch = work.batch.part(images)
    return [
        IntegratedGradients(network).attribute(
            batch.images,
            baselines=BASELINES[name].make(batch),
            target=batch.targets,
            n_steps=STEPS,
            method="gausslegendre",
            internal_batch_size=internal,
        )
        for name in THREE
    ]


def _one_by_one(work: Work, network: nn.Module, internal: int | None) -> list[Tensor]:
    count = len(work.batch.images)
    parts = [_captum(work, network, internal, slice(at, at + 1)) for at in range(count)]
    return [torch.cat(maps) for maps in zip(*parts, strict=True)]


def ig_captum_defaults(work: Work) -> list[Tensor]:
    """captum with no setting, image by image: its 50 points at once, kinder than a whole batch."""
    return _one_by_one(work, work.plain, None)


def ig_captum_8(work: Work) -> list[Tensor]:
    """captum with internal_batch_size=8."""
    return _one_by_one(work, work.plain, 8)


def ig_captum_tuned(work: Work) -> list[Tensor]:
    """captum with frozen parameters, channels last, internal_batch_size=16, heap retained."""
    return _captum(work, work.classifier.module, 16, slice(None))


def ig_notebook(work: Work) -> list[Tensor]:
    """The loop of a notebook: one point at a time, `.backward()`."""
    places, weights = np.polynomial.legendre.leggauss(STEPS)
    found = []
    for name in THREE:
        starts = BASELINES[name].make(work.batch)
        maps = []
        for image, start, target in zip(work.batch.images, starts, work.batch.targets, strict=True):
            total = torch.zeros_like(image)
            for place, weight in zip((1 + places) / 2, weights / 2, strict=True):
                point = (start + place.astype(np.float32) * (image - start)).requires_grad_()
                logits = work.plain(point.unsqueeze(0))
                work.plain.zero_grad()
                logits[0, target].backward()
                assert point.grad is not None
                total += np.float32(weight) * point.grad
            maps.append(total * (image - start))
        found.append(torch.stack(maps))
    return found


# --- the cheap sweep: three methods, six biases, SSIM and Spearman --------------------------------


def cheap_ours(work: Work) -> NDArray[np.float64]:
    """Our runner, from a tensor to a table of records."""
    plan = Plan(
        controls=False,
        nulls=0,
        method=CHEAP,
        family=("bias",),
        severity=LEVELS,
        metric=("ssim", "spearman"),
        jobs=work.workers,
    )
    records = run(work.classifier, from_tensor(work.batch.images), plan)
    values = records[records["method"] != "input"]["value"].to_numpy(dtype=np.float64)
    return values.reshape(len(work.batch.images), len(LEVELS), len(CHEAP), 2)


def cheap_captum(work: Work) -> NDArray[np.float64]:
    """A loop over pairs with captum, scikit-image and SciPy."""
    return _pairs(work, keep_clean=False)


def cheap_captum_kept(work: Work) -> NDArray[np.float64]:
    """The same loop, with the clean maps made once an image."""
    return _pairs(work, keep_clean=True)


def _pairs(work: Work, *, keep_clean: bool) -> NDArray[np.float64]:
    explainers: list[Callable[[Tensor, int], Tensor]] = [
        lambda image, target: Saliency(work.plain).attribute(image, target=target, abs=False),
        lambda image, target: InputXGradient(work.plain).attribute(image, target=target),
        lambda image, target: LayerGradCam(work.plain, work.layer).attribute(
            image, target=target, relu_attributions=True
        ),
    ]
    values = []
    for image, target in zip(work.batch.images.split(1), work.batch.targets.tolist(), strict=True):
        clean = [explain(_leaf(image), target) for explain in explainers] if keep_clean else []
        for level in LEVELS:
            for place, explain in enumerate(explainers):
                first = clean[place] if clean else explain(_leaf(image), target)
                values.append(_scores(first, explain(_leaf(image + level), target)))
    return np.array(values).reshape(len(work.batch.images), len(LEVELS), len(CHEAP), 2)


def _leaf(image: Tensor) -> Tensor:
    """Return a copy that asks for a gradient, as captum would have it."""
    return image.clone().requires_grad_()


def _scores(first: Tensor, second: Tensor) -> tuple[float, float]:
    maps = [one.detach().double().sum(dim=1).numpy() for one in (first, second)]
    pictures = [magnitude(one)[0] for one in maps]
    likeness = structural_similarity(
        *pictures, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
    )
    return float(likeness), float(spearmanr(maps[0].ravel(), maps[1].ravel()).statistic)


@dataclass(frozen=True)
class Contender:
    """Who runs a job.

    Attributes:
        run: the whole job.
        keep_heap: whether its process retains its heap; the others are as Python starts them.
    """

    run: Callable[[Work], object]
    keep_heap: bool = False


JOBS: dict[str, dict[str, Contender]] = {
    "ig": {
        "ours": Contender(ig_ours, keep_heap=True),
        "captum tuned": Contender(ig_captum_tuned, keep_heap=True),
        "captum defaults": Contender(ig_captum_defaults),
        "captum internal_batch_size=8": Contender(ig_captum_8),
        "notebook loop": Contender(ig_notebook),
    },
    "cheap": {
        "ours": Contender(cheap_ours, keep_heap=True),
        "captum pairs, clean maps kept": Contender(cheap_captum_kept),
        "captum pairs": Contender(cheap_captum),
    },
}
