"""Train one of the project's networks on any data spec, and say on its card how it went."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steadymap.bench.core.names import nearest
from steadymap.bench.data.open import ImageSet, open_images
from steadymap.bench.plan.plan import ConfigError, first_line
from steadymap.bench.runs.manifest import write_json
from steadymap.models import MODELS, Framing, write_weights


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam with a one-cycle schedule, cross-entropy, vertical flips.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step.
        learning_rate: peak of the cycle.
        seed: of the initial weights, the order of the images and the flips.
    """

    epochs: int = 14
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0


class Training(BaseModel):
    """What to train, on what, and how; each key is also a flag of `steadymap train`.

    Attributes:
        model: a key of `MODELS`.
        data: a data spec; its classes become the network's.
        epochs: as in `Recipe`, like the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = "compact"
    data: str = "hands:4000"
    epochs: Annotated[int, Field(ge=1)] = Recipe.epochs
    batch_size: Annotated[int, Field(ge=1)] = Recipe.batch_size
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Recipe.learning_rate
    seed: Annotated[int, Field(ge=0)] = Recipe.seed

    @property
    def recipe(self) -> Recipe:
        """How to train."""
        return Recipe(self.epochs, self.batch_size, self.learning_rate, self.seed)


def make_training(layers: list[Mapping[str, Any]]) -> Training:
    """Merge layers of settings, later ones over earlier ones, and check the result.

    Raises:
        ConfigError: one line for the first thing wrong.
    """
    merged = {key: value for layer in layers for key, value in layer.items()}
    for key in merged:
        if key not in Training.model_fields:
            raise ConfigError(f"unknown key {key!r}; {nearest(key, Training.model_fields)}")
    try:
        return Training.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(first_line(error)) from error


@dataclass(frozen=True)
class Split:
    """A split in memory: images (N, 3, H, W), labels (N,), and what they are."""

    images: Tensor
    labels: Tensor
    source: ImageSet


def train(
    model: str,
    data: str,
    recipe: Recipe,
    device: torch.device,
    report: Callable[[str], None],
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a network of the project.

    Args:
        model: a key of `MODELS`.
        data: a data spec; its classes become the network's.
        recipe: how.
        device: where.
        report: called with a line after each epoch.

    Returns:
        the network on the CPU, in eval mode, and its card.

    Raises:
        ConfigError: an unknown model, a class without training images, or weights that diverged.
        DataError: data that cannot be used.
    """
    if model not in MODELS:
        raise ConfigError(f"unknown model {model!r} to train; {nearest(model, MODELS)}")
    side = MODELS[model].side
    splits = {name: _load(data, side, name) for name in ("train", "validation", "test")}
    class_names = splits["train"].source.class_names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = MODELS[model].build(len(class_names))
    present = set(splits["train"].labels.tolist())
    absent = [name for label, name in enumerate(class_names) if label not in present]
    if absent:
        raise ConfigError(f"data: {data} has no training image of {', '.join(absent)}")
    network.to(device)
    network.to(memory_format=torch.channels_last)
    curve = _fit(network, splits, recipe, report)
    if not all(torch.isfinite(part).all() for part in network.parameters()):
        raise ConfigError(
            f"learning_rate: training diverged at {recipe.learning_rate:g}; choose a smaller one"
        )
    card = {
        "model": model,
        "parameters": sum(part.numel() for part in network.parameters()),
        "class_names": list(class_names),
        "data": splits["train"].source.name,
        "splits": {
            name: {"images": len(split.labels), "sha256": split.source.data_hash()}
            for name, split in splits.items()
        },
        "recipe": asdict(recipe),
        "curve": curve,
        "accuracy": {name: round(accuracy(network, split), 4) for name, split in splits.items()},
        "torch": importlib.metadata.version("torch"),
    }
    return network.cpu().eval(), card


def _load(data: str, side: int, split: str) -> Split:
    source = open_images(data, Framing((side, side)), split)
    labels = torch.tensor([picture.label for picture in source.pictures])
    return Split(source.images(range(len(source))), labels, source)


def _fit(
    network: nn.Module, splits: dict[str, Split], recipe: Recipe, report: Callable[[str], None]
) -> list[dict[str, float]]:
    """Train in place; return loss, accuracy on the way and on the validation split by epoch."""
    images, labels = splits["train"].images, splits["train"].labels
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    steps = -(-len(labels) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps
    )
    curve = []
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses, right = 0.0, 0
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order.split(recipe.batch_size):
            flip = torch.rand(len(chosen), generator=generator) < 0.5  # noqa: PLR2004 - a coin
            batch = torch.where(flip[:, None, None, None], images[chosen].flip(2), images[chosen])
            logits, wanted = network(batch.to(device)), labels[chosen].to(device)
            loss = cross_entropy(logits, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += loss.item() * len(chosen)
            right += int((logits.argmax(dim=1) == wanted).sum())
        held = accuracy(network, splits["validation"])
        report(f"epoch {epoch}/{recipe.epochs}  validation accuracy {held:.4f}")
        curve.append(
            {
                "loss": round(losses / len(labels), 4),
                "train": round(right / len(labels), 4),
                "validation": round(held, 4),
            }
        )
    return curve


def accuracy(network: nn.Module, split: Split) -> float:
    """Return the share of a split's images that the network gets right."""
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        right = sum(
            (network(images.to(device)).argmax(dim=1).cpu() == labels).sum().item()
            for images, labels in zip(split.images.split(64), split.labels.split(64), strict=True)
        )
    return float(right / len(split.labels))


def save(network: nn.Module, card: dict[str, Any], path: Path) -> None:
    """Write the weights and, beside them, the card."""
    write_weights(path, network, tuple(card["class_names"]))
    hashed = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    write_json(path.with_suffix(".json"), card | hashed)
