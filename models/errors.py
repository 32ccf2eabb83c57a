"""A user's mistakes about networks; torch need not be there to speak of them."""

from __future__ import annotations


class ModelError(ValueError):
    """A network, a model name or a weights file that cannot be used, with what to do about it."""
