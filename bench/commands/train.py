"""Train one of the project's networks on any data spec, and say on its card how it went."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch.nn.functional import cross_entropy

from steadymap.bench.core import console, errors, files, names, safe_yaml
from steadymap.bench.data import image_set, opening
from steadymap.bench.network.devices import device_of
from steadymap.bench.plan.plan import first_line
from steadymap.models import MODELS, Framing, write_weights


class Training(BaseModel):
    """What to train, on what, and how; each key is also a flag of `steadymap train`.

    By Adam with a one-cycle schedule, cross-entropy and vertical flips.

    Attributes:
        model: a key of `MODELS`.
        data: a data spec; its classes become the network's.
        epochs: passes over the training split.
        batch_size: images a step.
        learning_rate: peak of the cycle.
        seed: of the initial weights, the order of the images and the flips.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = "compact"
    data: str = "hands:4000"
    epochs: Annotated[int, Field(ge=1)] = 14
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0


def make_training(layers: list[Mapping[str, Any]]) -> Training:
    """Merge layers of settings, later ones over earlier ones, and check the result.

    Raises:
        ConfigError: one line for the first thing wrong.
    """
    merged = {key: value for layer in layers for key, value in layer.items()}
    for key in merged:
        if key not in Training.model_fields:
            raise errors.ConfigError(
                f"unknown key {key!r}; {names.nearest(key, Training.model_fields)}"
            )
    try:
        return Training.model_validate(merged)
    except ValidationError as error:
        raise errors.ConfigError(first_line(error, Training)) from error


@dataclass(frozen=True)
class Split:
    """A split in memory: images (N, 3, H, W), labels (N,), and what they are."""

    images: torch.Tensor
    labels: torch.Tensor
    source: image_set.ImageSet


def train(
    training: Training, device: torch.device, report: Callable[[str], None]
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Train a network of the project.

    Args:
        training: what, on what, and how.
        device: where.
        report: called with a line after each epoch.

    Returns:
        the network on the CPU, in eval mode, and its card.

    Raises:
        ConfigError: an unknown model, a class without training images, or weights that diverged.
        DataError: data that cannot be used.
    """
    model, data = training.model, training.data
    if model not in MODELS:
        raise errors.ConfigError(
            f"unknown model {model!r} to train; {names.nearest(model, MODELS)}"
        )
    side = MODELS[model].side
    splits = {name: _load(data, side, name) for name in ("train", "validation", "test")}
    class_names = splits["train"].source.class_names
    if not class_names:
        raise errors.ConfigError(f"data: {data} has no classes to train for: give each a subfolder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = MODELS[model].build(len(class_names))
    present = set(splits["train"].labels.tolist())
    absent = [name for label, name in enumerate(class_names) if label not in present]
    if absent:
        raise errors.ConfigError(f"data: {data} has no training image of {', '.join(absent)}")
    network.to(device)
    network.to(memory_format=torch.channels_last)
    curve = _fit(network, splits, training, report)
    if not all(torch.isfinite(part).all() for part in network.parameters()):
        raise errors.ConfigError(
            f"learning_rate: training diverged at {training.learning_rate:g}; choose a smaller one"
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
        "recipe": training.model_dump(exclude={"model", "data"}),
        "curve": curve,
        "accuracy": {name: round(accuracy(network, split), 4) for name, split in splits.items()},
        "torch": importlib.metadata.version("torch"),
    }
    return network.cpu().eval(), card


def _load(data: str, side: int, split: str) -> Split:
    source = opening.open_images(data, Framing((side, side)), split)
    labels = torch.tensor([picture.label for picture in source.pictures])
    return Split(source.images(range(len(source))), labels, source)


def _fit(
    network: torch.nn.Module,
    splits: dict[str, Split],
    training: Training,
    report: Callable[[str], None],
) -> list[dict[str, float]]:
    """Train in place; return loss, accuracy on the way and on the validation split by epoch."""
    images, labels = splits["train"].images, splits["train"].labels
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(training.seed)
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate)
    steps = -(-len(labels) // training.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.epochs * steps
    )
    curve = []
    for epoch in range(1, training.epochs + 1):
        network.train()
        losses, right = 0.0, 0
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order.split(training.batch_size):
            flip = torch.rand(len(chosen), generator=generator) < 0.5  # noqa: PLR2004 - a coin
            batch = torch.where(flip[:, None, None, None], images[chosen].flip(2), images[chosen])
            logits, batch_labels = network(batch.to(device)), labels[chosen].to(device)
            loss = cross_entropy(logits, batch_labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += loss.item() * len(chosen)
            right += int((logits.argmax(dim=1) == batch_labels).sum())
        held = accuracy(network, splits["validation"])
        report(f"epoch {epoch}/{training.epochs}  validation accuracy {held:.4f}")
        curve.append(
            {
                "loss": round(losses / len(labels), 4),
                "train": round(right / len(labels), 4),
                "validation": round(held, 4),
            }
        )
    return curve


def accuracy(network: torch.nn.Module, split: Split) -> float:
    """Return the share of a split's images that the network gets right."""
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        right = sum(
            (network(images.to(device)).argmax(dim=1).cpu() == labels).sum().item()
            for images, labels in zip(split.images.split(64), split.labels.split(64), strict=True)
        )
    return float(right / len(split.labels))


def save(network: torch.nn.Module, card: dict[str, Any], path: Path) -> None:
    """Write the weights and, beside them, the card."""
    write_weights(path, network, tuple(card["class_names"]))
    hashed = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    files.write_json(path.with_suffix(".json"), card | hashed)


def train_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with the keys of these flags; flags override it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=", ".join(MODELS))] = None,
    data: Annotated[str | None, typer.Option(help="See `steadymap list data`; hands:4000.")] = None,
    output: Annotated[Path | None, typer.Option(help="Weights file, .safetensors.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the cycle.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and flips.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train a network of the project; write its weights and a card."""
    flags = {
        "model": model,
        "data": data,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    settings = {key: value for key, value in flags.items() if value is not None}
    chosen = make_training([safe_yaml.read_config(recipe) if recipe else {}, settings])
    # The data's last name: of folder:a/b it is b.
    last = re.split("[:/]", chosen.data.rstrip("/"))[-1]
    path = output or console.RUNS / f"{chosen.model}-{last}.safetensors"
    if path.suffix != ".safetensors":
        raise errors.ConfigError(f"output: weights are written as .safetensors, got {path.name}")
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise errors.ConfigError(f"output: {file} exists; choose another --output")
    files.make_folder(path.parent)
    if threads:
        torch.set_num_threads(threads)
    network, card = train(chosen, device_of(device), console.say)
    save(network, card, path)
    scores = ", ".join(f"{name} {names.percent(value)}" for name, value in card["accuracy"].items())
    console.line(console.console_of(), f"accuracy: {scores}; {path}")
