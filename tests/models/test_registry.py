"""The table of networks."""

from __future__ import annotations

import pytest
import torch

from steadymap.models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_for_its_side_and_a_number_of_classes(name: str) -> None:
    side = MODELS[name].side
    # Shapes alone: the study's network has 86.6 million parameters.
    with torch.device("meta"):
        network = MODELS[name].build(5)
        assert network(torch.empty(2, 3, side, side)).shape == (2, 5)
        with pytest.raises(RuntimeError, match="must have same reduction dim"):
            network(torch.empty(2, 3, side + 8, side + 8))
