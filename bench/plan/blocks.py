"""How the images of a run are cut into pieces, each of which stands alone."""

from __future__ import annotations

from itertools import pairwise

from steadymap.bench.network.memory import free_memory
from steadymap.models import Classifier

# Images whose maps are held against each other's. Small enough that a piece is quickly done, large
# enough that each image has several others, and that a batch fills a CPU.
BLOCK = 8

# Images of a batch on a GPU, which wants more of them.
ON_GPU = 64


def cut(count: int, size: int) -> list[range]:
    """Return `count` images cut into pieces of `size`, in their order.

    A last piece of less than half joins the one before. The cut hangs on nothing but the two
    numbers, and images that are added at the end leave all pieces but the last as they were.

    Args:
        count: how many images.
        size: of a piece, 1 or more.
    """
    starts = list(range(0, count, size))
    if len(starts) > 1 and 2 * (count - starts[-1]) < size:
        starts.pop()
    return [range(low, high) for low, high in pairwise([*starts, count])]


def batches(count: int, size: int, batch_size: int) -> list[range]:
    """Return `count` images cut into batches of whole pieces, in their order.

    Args:
        count: how many images.
        size: of a piece, as `cut` makes them.
        batch_size: of a batch, in images; a piece is the least.
    """
    pieces, each = cut(count, size), max(1, batch_size // size)
    groups = [pieces[low : low + each] for low in range(0, len(pieces), each)]
    return [range(group[0].start, group[-1].stop) for group in groups]


# The share of the free memory that maps may take which are kept; and in how many forms a map is
# kept: signed, magnitude, the ranks of either, local means and variances, the strongest pixels.
MEMORY_SHARE = 0.25
FORMS = 7


def most_methods(classifier: Classifier, images: int, kept: int) -> int | None:
    """Return of how many methods memory holds what is kept; None where nobody says.

    Args:
        classifier: its input is as large as a map can be.
        images: how many there are.
        kept: how many maps of each image and method all workers keep together: the clean one, one
            of each randomised network, and one for another class.
    """
    free = free_memory(classifier.module.mean.device)
    if free is None or not kept:
        return None
    height, width = classifier.input_size
    one_method = kept * images * FORMS * 8 * height * width
    return max(1, int(MEMORY_SHARE * free / one_method))
