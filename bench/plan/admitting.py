"""What a run asks of maps before it ranks them: where, how often, and what that costs."""

from __future__ import annotations

from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.perturbations import registry
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import Setup
from steadymap.bench.records import vocabulary

# In how many equal steps cells are deleted, and of how many others' maps a margin is the mean. For
# seven methods on 48 hands of no experiment 6, 8 and 16 steps separate no better; a second other
# counts (occlusion's p goes from 1e-4 to 1e-6), a third hardly.
STEPS = 4
PARTNERS = 2

# Whose margins the others' are held to.
YARDSTICK = "gradient"


def wanted(plan: Plan) -> bool:
    """Return whether a run measures margins: without null maps there is nothing to beat."""
    return plan.admission and plan.nulls > 0


def kept_cell(plan: Plan, family: str) -> Cell | None:
    """Return where it is asked what maps still know: the middle severity of those that are not 0.

    None where there is no other, and of a family under which maps say nothing of the clean image's
    pixels: one that moves things, or is there for the diagnosis.
    """
    entry = registry.FAMILY_SHELF.known(family)
    moves = entry is not None and entry.warp is not None
    if moves or family in vocabulary.DIAGNOSIS:
        return None
    levels = [level for level in plan.severities()[family] if level]
    return Cell(family, levels[len(levels) // 2], 0) if levels else None


def names_of(method: BoundMethod, setup: Setup) -> list[str]:
    """Return the names of the margins that a method has on clean images."""
    if not wanted(setup.plan):
        return []
    begins = [vocabulary.MARGIN]
    if method.method.order is None:
        begins.append(vocabulary.MARGIN_OF_MAGNITUDE)
    names = [beginning + kind for beginning in begins for kind in vocabulary.MARGINS]
    if all(other.spec != YARDSTICK for other in setup.plan.bound_methods()):
        # Beside each, since a run may be cut by methods; of it no other class is asked.
        names += [vocabulary.GRADIENT_MARGIN + kind for kind in vocabulary.MARGINS[:-1]]
    return [*names, vocabulary.DELETION_LOGIT]


def deletion_passes(setup: Setup) -> int:
    """Return how many times images go forward for deletions, at most.

    Less where two orders of an image are the same, or no other image is predicted as its class.
    """
    plan = setup.plan
    if not wanted(plan):
        return 0
    methods = [method for method in setup.methods if not method.unfit(setup.classifier)]
    # Its own, other images', others' of its class, another class's; and each network's.
    each = 2 + 2 * PARTNERS + plan.nulls
    orders = sum(each * (2 if method.method.order is None else 1) for method in methods)
    kept = [name for name in plan.severities() if kept_cell(plan, name)]
    orders += (1 + PARTNERS) * len(kept) * sum(not method.control for method in methods)
    count = orders * (STEPS - 1) + 1
    if yardstick_maps(setup):
        count += (each - 1) * (STEPS - 1)
    return len(setup.images) * count


def yardstick_maps(setup: Setup) -> int:
    """Return how many maps of plain gradient are made for its margins, beside those of the run."""
    runs = any(method.spec == YARDSTICK for method in setup.plan.bound_methods())
    if runs or not wanted(setup.plan) or bind_method(YARDSTICK).unfit(setup.classifier):
        return 0
    return len(setup.images) * (1 + setup.plan.nulls)
