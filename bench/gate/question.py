"""Which of two questions a gate asks: of the same weights, or of a new training."""

from __future__ import annotations

from dataclasses import dataclass

from steadymap.bench.core import errors, names
from steadymap.bench.gate.differences import value_at
from steadymap.bench.gate.side import Side

LEAST_NETWORKS = 5

# What a new training against a baseline of one network is told. Of the study's five networks (one
# recipe, other seeds) each ordered pair was gated, at 20, 60 and 229 images: a test prints it.
ONE_SEED_RATES = {20: 0.85, 60: 0.95, 229: 1.00}


@dataclass(frozen=True)
class Asked:
    """The question of a comparison.

    Attributes:
        before: what the run is compared with, image by image: of a baseline of several networks the
            one with the run's weights.
        networks: the networks of the recipe, for a new training; empty where the question is
            another, or one network stands for its recipe.
        text: the question, in plain words.
    """

    before: Side
    networks: tuple[Side, ...]
    text: str


def weights_of(side: Side) -> str | None:
    """Return the hash of a network's weights; None where the manifest has none."""
    digest = value_at(side.manifest, "model", "weights_sha256")
    return None if digest is None else str(digest)


def ask(before: Side, after: Side, *, allow_one_seed: bool = False) -> Asked:
    """Return the question that the weights of two sides ask.

    Args:
        before: the baseline.
        after: the run to judge.
        allow_one_seed: whether new weights may be held against a baseline of one network.

    Raises:
        ConfigError: they are held against one, and may not be.
    """
    mine = weights_of(after)
    several = before.networks or (before,)
    for network in several:
        if weights_of(network) == mine:
            return Asked(network, (), _of_these_weights(network, before))
    if before.networks:
        return Asked(
            before,
            before.networks,
            f"Question: a new training. Is this network as good as one more of the recipe of which "
            f"{before.name} holds {len(before.networks)} networks?",
        )
    if not allow_one_seed:
        raise errors.ConfigError(
            f"weights: the run's are not those of {before.name}, which holds one network. One "
            "network does not say what another training of its recipe does. Save a baseline of "
            f"{LEAST_NETWORKS} trainings or more: steadymap baseline save RUN RUN RUN RUN RUN "
            f"{before.name}; or give --allow-one-seed"
        )
    return Asked(before, (), f"Question: a new training, against one network. {one_seed_text()}")


def _of_these_weights(network: Side, before: Side) -> str:
    which = "" if network is before else f", of one of its {len(before.networks)} networks"
    return (
        f"Question: the same weights as {before.name}{which}. Are maps and network as good, now "
        "that code, libraries or machine may differ?"
    )


def one_seed_text() -> str:
    """Return how often a gate against one network fails a training of the same recipe."""
    rates = ", ".join(
        f"{names.percent(rate)} at {images} images" for images, rate in ONE_SEED_RATES.items()
    )
    return (
        "A failure says little here: of the pairs of five networks of one recipe that differ in "
        f"their seed alone, the gate failed {rates}."
    )
