"""Methods that hand something else than the gradient back through activations.

The network is rewritten by its graph, so that activations in place, functional or used several
times are like any other, and each hands back what the method's rule says. Forward it computes the
same. captum's versions, where there are such, are the oracles.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steadymap.bench.methods import cam, expected_gradients, gradient
from steadymap.bench.methods.baselines import BASELINES, BaselineName, Start
from steadymap.bench.methods.batch import Batch
from steadymap.bench.network import graph, passes
from steadymap.models import Classifier

Call = Callable[[torch.Tensor], torch.Tensor]

# By the names of modules and functions. Value by value, and with 0 for 0:
THROUGH_ZERO = frozenset(
    {
        *("ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "SiLU", "GELU", "Mish"),
        *("Hardswish", "Tanh", "Softsign"),
        *("relu6", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "mish"),
        *("hardswish", "tanh", "softsign"),
    }
)
# Value by value.
ELEMENTWISE = THROUGH_ZERO | {
    *("Sigmoid", "Hardsigmoid", "Softplus", "LogSigmoid", "Hardtanh"),
    *("sigmoid", "hardsigmoid", "softplus", "logsigmoid", "hardtanh"),
}
# The largest of several values.
POOLS = frozenset({"MaxPool2d", "max_pool2d", "AdaptiveMaxPool2d", "adaptive_max_pool2d"})
# Differences and shares pass through these as gradients do.
LINEAR = frozenset(
    {
        *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "Linear", "Identity"),
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "AvgPool2d", "AdaptiveAvgPool2d"),
        *("Flatten", "Unflatten", "Dropout", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout"),
        *("ZeroPad2d", "ConstantPad2d", "ReflectionPad2d", "ReplicationPad2d", "CircularPad2d"),
        *("PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "UpsamplingNearest2d"),
        *("UpsamplingBilinear2d",),
        *("add", "add_", "iadd", "sub", "sub_", "isub", "neg", "sum", "mean", "cat", "concat"),
        *("stack", "chunk", "split", "unbind", "getitem", "flatten"),
        *("unflatten", "view", "reshape", "permute", "transpose", "movedim", "contiguous"),
        *("squeeze", "unsqueeze", "expand", "clone", "to", "float", "pad", "narrow", "swapaxes"),
        *("dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout", "stochastic_depth"),
        *("avg_pool2d", "adaptive_avg_pool2d", "pixel_shuffle", "channel_shuffle", "T", "mT"),
        *("Upsample", "interpolate"),
    }
)
# No activations: a rule for ReLU leaves them to the gradient.
NORMS = frozenset(
    {
        *("GroupNorm", "LayerNorm", "InstanceNorm2d", "LocalResponseNorm", "RMSNorm"),
        *("group_norm", "layer_norm", "instance_norm", "local_response_norm", "rms_norm"),
    }
)


# --- what can be explained so ---------------------------------------------------------------------


def lacks_relu(classifier: Classifier) -> str | None:
    """Say why rules for ReLU alone do not explain a network; None where they do."""
    try:
        parts = graph.structure(classifier)
    except graph.UntraceableError as error:
        return str(error)
    others = sorted(parts.names - LINEAR - POOLS - NORMS - {"ReLU"})
    if others:
        return f"the rule is for ReLU alone, and the network has {', '.join(others)}"
    return None if torch.nn.ReLU in parts.modules else "the network has no ReLU"


def lacks_layer_or_relu(classifier: Classifier) -> str | None:
    """Say why a network has no guided Grad-CAM; None where it has."""
    return cam.lacks_layer(classifier) or lacks_relu(classifier)


def lacks_differences(classifier: Classifier) -> str | None:
    """Say why DeepLIFT's rescale rule does not explain a network; None where it does."""
    return _uncovered(classifier, ELEMENTWISE | POOLS, "the rescale rule")


def lacks_shares(classifier: Classifier) -> str | None:
    """Say why layer-wise relevance propagation does not explain a network; None where it does."""
    return _uncovered(classifier, THROUGH_ZERO | POOLS, "layer-wise relevance propagation")


def _uncovered(classifier: Classifier, covered: frozenset[str], rule: str) -> str | None:
    try:
        parts = graph.structure(classifier)
    except graph.UntraceableError as error:
        return str(error)
    strange = sorted(parts.names - LINEAR - covered)
    return f"{rule} does not cover {', '.join(strange)}" if strange else None


# --- rules ----------------------------------------------------------------------------------------


class _Ruled(torch.autograd.Function):
    """A function forward; backward what a rule makes of its input and of what comes back."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own context
        values: torch.Tensor,
        call: Call,
        rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        ctx.save_for_backward(values)
        ctx.rule = rule
        return call(values)

    @staticmethod
    def backward(ctx: Any, *back: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401 - as above
        (values,) = ctx.saved_tensors
        return ctx.rule(values, back[0]), None, None


def _through(call: Call, values: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Return the gradient that comes back through a function."""
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        (input_gradient,) = torch.autograd.grad(call(leaves), leaves, back)
    return input_gradient


class _Activation(torch.nn.Module):
    """A function with a rule of its own."""

    def __init__(
        self, call: Call, rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        self.call, self.rule = call, rule

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute what the function computes."""
        output: torch.Tensor = _Ruled.apply(values, self.call, self.rule)
        return output


class _Rescaled(torch.nn.Module):
    """A function whose slope is that from a reference to the image.

    Run without gradients, it keeps what came in: the reference of the run with gradients.
    """

    def __init__(self, call: Call, *, pool: bool) -> None:
        super().__init__()
        self.call, self.pool = call, pool
        self.reference: torch.Tensor | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute what the function computes."""
        if not torch.is_grad_enabled():
            self.reference = values.clone()
            return self.call(values)
        output: torch.Tensor = _Ruled.apply(values, self.call, self._back)
        return output

    def _back(self, values: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """Return difference out over difference in; where there is none, the gradient."""
        if self.reference is None:
            raise TypeError("run without gradients first: that is the reference")
        credit = (_credit_of_pool if self.pool else _credit)(
            self.call, values, self.reference, back
        )
        apart = values - self.reference
        return torch.where(apart != 0, credit / apart, _through(self.call, values, back))


def _credit(
    call: Call, values: torch.Tensor, reference: torch.Tensor, back: torch.Tensor
) -> torch.Tensor:
    return back * (call(values) - call(reference))


def _credit_of_pool(
    call: Call, values: torch.Tensor, reference: torch.Tensor, back: torch.Tensor
) -> torch.Tensor:
    """Credit the image's largest with what it has more, the reference's with what it had more.

    In either place image and reference differ, so that no credit falls where nothing does.
    """
    out, before = call(values), call(reference)
    larger = torch.maximum(out, before)
    gained = _through(call, values, back * (larger - before))
    return gained + _through(call, reference, back * (out - larger))


def _rescaling(name: str, call: Call) -> torch.nn.Module | None:
    return _Rescaled(call, pool=name in POOLS) if name in ELEMENTWISE | POOLS else None


def _sharing(name: str, call: Call) -> torch.nn.Module | None:
    """Hand relevance on in the shares of the sum: out over in; there is none where in is 0."""

    def rule(values: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        return back * torch.where(values != 0, call(values) / values, 0)

    return _Activation(call, rule) if name in THROUGH_ZERO else None


# --- methods --------------------------------------------------------------------------------------


def guided_backprop(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Gradient that no ReLU lets through where it is negative, signed: (B, 3, H, W).

    Source: Springenberg et al. 2014.
    """
    return _by_rule(
        classifier, batch, lambda values, back: torch.where(values > 0, back.relu(), 0.0)
    )


def deconvolution(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Gradient that each ReLU cuts off below 0, whatever came through it: (B, 3, H, W).

    Source: Zeiler and Fergus 2014.
    """
    return _by_rule(classifier, batch, lambda _values, back: back.relu())


def _by_rule(
    classifier: Classifier, batch: Batch, rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    graph.check(classifier, batch.images, batch.targets, batch.at_once)
    changed = graph.rewritten(classifier, lambda: _Activation(torch.relu, rule))
    seen = passes.shared_pass(changed, batch.images, batch.targets, ["gradient"], batch.at_once)
    return seen.need_gradient()


def guided_grad_cam(
    classifier: Classifier, batch: Batch, *, layer: str | None = None
) -> torch.Tensor:
    """Guided backpropagation times Grad-CAM, signed: (B, 3, H, W).

    Grad-CAM is brought to the image's size by nearest neighbours, as captum does unless told
    otherwise; the paper does so bilinearly. Source: Selvaraju et al. 2017, section 3.2.
    """
    coarse = cam.grad_cam(classifier, batch, layer=layer)
    size = batch.images.shape[2:]
    return torch.nn.functional.interpolate(coarse, size) * guided_backprop(classifier, batch)


def deep_lift(
    classifier: Classifier, batch: Batch, *, baseline: BaselineName = "black"
) -> torch.Tensor:
    """Differences from a baseline, carried back through each activation: (B, 3, H, W).

    Each activation's slope is its difference out over its difference in (the rescale rule), so that
    maps add up to the logit minus the baseline's. Source: Shrikumar et al. 2017, section 3.5.1.

    captum's version is not complete where windows of a pooling overlap, as they do in ResNets.
    """
    return _lifted(classifier, batch, BASELINES[baseline].make(batch))


def deep_lift_shap(
    classifier: Classifier, batch: Batch, *, baselines: expected_gradients.Baselines = 8
) -> torch.Tensor:
    """Mean of DeepLIFT over images of the data set as baselines: (B, 3, H, W).

    Source: Lundberg and Lee 2017.

    Raises:
        ValueError: the batch has no images of the data set.
    """
    total = torch.zeros_like(batch.images)
    for start in Start(None, baselines).images(batch):
        total += _lifted(classifier, batch, start)
    return total / baselines


def _lifted(classifier: Classifier, batch: Batch, starts: torch.Tensor) -> torch.Tensor:
    graph.check(classifier, batch.images, batch.targets, batch.at_once)
    changed = graph.rewritten(classifier, lambda: _Rescaled(torch.relu, pool=False), _rescaling)
    attributions = []
    try:
        for first in range(0, len(batch.images), batch.at_once):
            few = slice(first, first + batch.at_once)
            images, targets = batch.images[few], batch.targets[few]
            with torch.no_grad():
                changed(starts[few])
            seen = passes.shared_pass(changed, images, targets, ["gradient"], batch.at_once)
            attributions.append(seen.need_gradient() * (images - starts[few]))
    finally:
        # A rewritten network knows its graph, which knows it: it goes at the next collection.
        for part in changed.module.modules():
            if isinstance(part, _Rescaled):
                part.reference = None
    return torch.cat(attributions)


def lrp(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Relevance of each value of the normalised image, signed: (B, 3, H, W).

    The logit is handed back from layer to layer in the shares that each input had in its sum, and
    of a pooling to its largest: the epsilon rule with epsilon towards 0. As a gradient with the
    slope out over in at each activation. On networks with ReLU alone that is the gradient times the
    normalised image. Biases keep their share. Sources: Bach et al. 2015, equation 58; Ancona et al.
    2018, proposition 1.
    """
    graph.check(classifier, batch.images, batch.targets, batch.at_once)
    changed = graph.rewritten(classifier, other=_sharing)
    seen = passes.shared_pass(changed, batch.images, batch.targets, ["gradient"], batch.at_once)
    module = classifier.module
    # Per unit of the image: the normalisation's division is in the gradient already.
    return seen.need_gradient() * (batch.images - module.shift - module.mean)


# --- oracles --------------------------------------------------------------------------------------

_quiet = threading.Lock()


@contextmanager
def _without_notices() -> Iterator[None]:
    """Silence captum's notices that it hangs hooks on activations, which it does each time.

    Filters belong to the process: one thread at a time.
    """
    with _quiet, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s)Setting (forward, )?backward hooks", UserWarning)
        yield


def captum_guided_backprop(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Compute the same with captum, on the rewritten network: the oracle of `guided_backprop`."""
    return _captum_rule(classifier, batch, "GuidedBackprop")


def captum_deconvolution(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Compute the same with captum, on the rewritten network: the oracle of `deconvolution`."""
    return _captum_rule(classifier, batch, "Deconvolution")


def _captum_rule(classifier: Classifier, batch: Batch, name: str) -> torch.Tensor:
    graph.check(classifier, batch.images, batch.targets, batch.at_once)
    method = getattr(gradient.captum_attr(), name)(graph.rewritten(classifier).module)
    with _without_notices():
        maps: torch.Tensor = method.attribute(gradient.own_copy(batch.images), target=batch.targets)
    return maps.detach()


def captum_guided_grad_cam(
    classifier: Classifier, batch: Batch, *, layer: str | None = None
) -> torch.Tensor:
    """Compute the same with captum's parts: the oracle of `guided_grad_cam`.

    In the rewritten network the layer of Grad-CAM may be no module any more.
    """
    captum = gradient.captum_attr()
    coarse = cam.captum_grad_cam(classifier, batch, layer=layer)
    size = tuple(batch.images.shape[2:])
    fine: torch.Tensor = captum.LayerAttribution.interpolate(coarse, size)
    return fine * captum_guided_backprop(classifier, batch)


class _Clone(torch.nn.Module):
    """Sets a ReLU apart from a pooling behind it.

    captum's hooks of both would hang on the same tensor, and the ReLU's would read a gradient that
    the pooling's is about to change.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Copy."""
        return values.clone()


def captum_deep_lift(
    classifier: Classifier, batch: Batch, *, baseline: BaselineName = "black"
) -> torch.Tensor:
    """Compute the same with captum, on the rewritten network: the oracle of `deep_lift`.

    Not the same, and not complete, where windows of a pooling overlap or the pooling is a function.
    """
    return _captum_lifted(classifier, batch, BASELINES[baseline].make(batch))


def captum_deep_lift_shap(
    classifier: Classifier, batch: Batch, *, baselines: expected_gradients.Baselines = 8
) -> torch.Tensor:
    """Average captum's DeepLIFT over the same baselines: the oracle of `deep_lift_shap`."""
    starts = Start(None, baselines).images(batch)
    return torch.stack([_captum_lifted(classifier, batch, start) for start in starts]).mean(dim=0)


def _captum_lifted(classifier: Classifier, batch: Batch, starts: torch.Tensor) -> torch.Tensor:
    graph.check(classifier, batch.images, batch.targets, batch.at_once)
    apart = graph.rewritten(classifier, lambda: torch.nn.Sequential(torch.nn.ReLU(), _Clone()))
    method = gradient.captum_attr().DeepLift(apart.module)
    with _without_notices():
        maps: torch.Tensor = method.attribute(
            gradient.own_copy(batch.images), starts, target=batch.targets
        )
    return maps.detach()
