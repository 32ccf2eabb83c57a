"""Saliency methods and controls: what each is, what it is capable of, and how it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from steadymap.bench.core.errors import PluginError, one_line
from steadymap.bench.core.names import nearest
from steadymap.bench.core.plugins import YOUR_OWN, Shelf, check_function, offers, summary_of
from steadymap.bench.methods import (
    backprop,
    cam,
    coalitions,
    controls,
    integrated_gradients,
    surrogates,
)
from steadymap.bench.methods import expected_gradients as expectations
from steadymap.bench.methods import gradient as attributions
from steadymap.bench.methods import occlusion as ablation
from steadymap.bench.methods import smooth_grad as smoothing
from steadymap.bench.methods.baselines import BASELINES, BaselineName, Start
from steadymap.bench.methods.integrated_gradients import Steps
from steadymap.bench.methods.method import (
    BoundMethod,
    Capability,
    Method,
    Parameters,
    Share,
    one_baseline,
)
from steadymap.bench.methods.paths import points_at
from steadymap.bench.records.schema import INPUT, OVERALL
from steadymap.models import Classifier


def _always(*capabilities: Capability) -> Callable[[Parameters], frozenset[Capability]]:
    return lambda _parameters: frozenset(capabilities)


def _complete_from(*more: Capability) -> Callable[[Parameters], frozenset[Capability]]:
    """Return what a method is capable of that is complete from its baseline, whichever that is."""

    def can(parameters: Parameters) -> frozenset[Capability]:
        baseline = BASELINES[str(parameters["baseline"])]
        found: set[Capability] = {"complete", "signed", *more}
        if baseline.drawn:
            found.add("stochastic")
        if baseline.moves_along:
            found.add("shift_invariant")
        return frozenset(found)

    return can


def _drawing_baseline_can(parameters: Parameters) -> frozenset[Capability]:
    drawn = BASELINES[str(parameters["baseline"])].drawn
    return frozenset(("signed", "stochastic") if drawn else ("signed",))


def _kernel_shap_can(parameters: Parameters) -> frozenset[Capability]:
    drawn = BASELINES[str(parameters["baseline"])].drawn
    exact = not drawn and surrogates.exhaustive(parameters)
    return frozenset(("signed",) if exact else ("signed", "stochastic"))


def _grad_cam_can(parameters: Parameters) -> frozenset[Capability]:
    both: tuple[Capability, ...] = () if parameters["relu"] else ("signed",)
    return frozenset(("shift_invariant", *both))


def _lacks_cam_layer(classifier: Classifier) -> str | None:
    return None if classifier.cam_layer else "the network has no convolution with a spatial output"


def _captum_lacks_grid(classifier: Classifier) -> str | None:
    planes = classifier.cam_layout == "channels_first"
    return None if planes else f"captum's Grad-CAM reads planes, not {classifier.cam_layout}"


def _steps(parameters: Parameters) -> int:
    """Return how many points of a path one map takes; with `auto`, the least there can be."""
    steps = parameters["steps"]
    return steps if isinstance(steps, int) else points_at(1)


def _samples(parameters: Parameters) -> int:
    """Return how many noisy copies one map takes."""
    return int(str(parameters["samples"]))


def _baselines(parameters: Parameters) -> int:
    """Return how many baselines one map starts from."""
    return int(str(parameters["baselines"]))


def _drawn_baselines(parameters: Parameters) -> Start:
    return Start(cast("BaselineName", parameters["baseline"]), _baselines(parameters))


def _every(_parameters: Parameters) -> bool:
    """Say yes, whatever the parameters."""
    return True


def _none(_parameters: Parameters) -> int:
    """Return no passes: a control does not look at the network."""
    return 0


METHODS: dict[str, Method] = {
    "gradient": Method(
        attributions.gradient,
        "vanilla gradient of the target's logit",
        "Simonyan et al. 2013",
        _always("shift_invariant", "signed"),
        on_linear=lambda weights, _batch: weights,
        captum=attributions.captum_gradient,
        share=Share("gradient", attributions.read_gradient),
    ),
    "gradient_x_input": Method(
        attributions.gradient_x_input,
        "gradient times image",
        "Shrikumar et al. 2016",
        _always("signed"),
        on_linear=lambda weights, batch: weights * batch.images,
        captum=attributions.captum_gradient_x_input,
        share=Share("gradient", attributions.read_gradient_x_input),
    ),
    "integrated_gradients": Method(
        integrated_gradients.integrated_gradients,
        "gradients averaged from a baseline to the image, times the way",
        "Sundararajan et al. 2017",
        _complete_from("needs_baseline"),
        captum=integrated_gradients.captum_integrated_gradients,
        passes=_steps,
        nested=integrated_gradients.nested_path,
    ),
    "grad_cam": Method(
        cam.grad_cam,
        "gradient-weighted activations of the last convolution",
        "Selvaraju et al. 2017",
        _grad_cam_can,
        inapplicable=_lacks_cam_layer,
        captum=cam.captum_grad_cam,
        captum_inapplicable=_captum_lacks_grid,
        share=Share("layer", cam.read_grad_cam),
    ),
    "grad_cam_plus_plus": Method(
        cam.grad_cam_plus_plus,
        "Grad-CAM with a weight for every place",
        "Chattopadhyay et al. 2018",
        _always("shift_invariant"),
        degree=None,
        inapplicable=_lacks_cam_layer,
        share=Share("layer", cam.read_grad_cam_plus_plus),
    ),
    "hires_cam": Method(
        cam.hires_cam,
        "gradient times activations of the last convolution, place by place",
        "Draelos and Carin 2020",
        _grad_cam_can,
        inapplicable=_lacks_cam_layer,
        share=Share("layer", cam.read_hires_cam),
    ),
    "layer_cam": Method(
        cam.layer_cam,
        "positive gradient times activations of the last convolution, place by place",
        "Jiang et al. 2021",
        _always("shift_invariant"),
        inapplicable=_lacks_cam_layer,
        share=Share("layer", cam.read_layer_cam),
    ),
    "smooth_grad": Method(
        smoothing.smooth_grad,
        "gradient averaged over noisy copies of the image",
        "Smilkov et al. 2017",
        _always("shift_invariant", "signed", "stochastic"),
        on_linear=lambda weights, _batch: weights,
        passes=_samples,
    ),
    "smooth_grad_squared": Method(
        smoothing.smooth_grad_squared,
        "squared gradient averaged over noisy copies",
        "Hooker et al. 2019",
        _always("shift_invariant", "stochastic"),
        on_linear=lambda weights, _batch: weights.square(),
        degree=2,
        passes=_samples,
    ),
    "var_grad": Method(
        smoothing.var_grad,
        "variance of the gradient over noisy copies",
        "Adebayo et al. 2018",
        _always("shift_invariant", "stochastic"),
        on_linear=lambda weights, _batch: torch.zeros_like(weights),
        degree=2,
        passes=_samples,
    ),
    "integrated_gradients_averaged": Method(
        expectations.integrated_gradients_averaged,
        "integrated gradients averaged over several draws of a baseline",
        "Sturmfels et al. 2020",
        _complete_from(),
        passes=lambda parameters: _baselines(parameters) * _steps(parameters),
        start=_drawn_baselines,
    ),
    "expected_gradients": Method(
        expectations.expected_gradients,
        "gradients at random places between images of the data set and the image, times the way",
        "Erion et al. 2021",
        _always("signed", "stochastic"),
        passes=_samples,
        needs_references=_every,
    ),
    "gradient_shap": Method(
        expectations.gradient_shap,
        "expected gradients with noise added to the image",
        "Lundberg and Lee 2017",
        _always("signed", "stochastic"),
        passes=_samples,
        needs_references=_every,
    ),
    "guided_backprop": Method(
        backprop.guided_backprop,
        "gradient that no ReLU lets through where it is negative",
        "Springenberg et al. 2014",
        _always("shift_invariant", "signed"),
        inapplicable=backprop.lacks_relu,
        captum=backprop.captum_guided_backprop,
    ),
    "deconvolution": Method(
        backprop.deconvolution,
        "gradient that each ReLU cuts off below 0, whatever came through it",
        "Zeiler and Fergus 2014",
        _always("shift_invariant", "signed"),
        inapplicable=backprop.lacks_relu,
        captum=backprop.captum_deconvolution,
    ),
    "guided_grad_cam": Method(
        backprop.guided_grad_cam,
        "guided backpropagation times Grad-CAM, brought to the image's size by nearest neighbours",
        "Selvaraju et al. 2017",
        _always("shift_invariant", "signed"),
        degree=2,
        inapplicable=lambda classifier: (
            _lacks_cam_layer(classifier) or backprop.lacks_relu(classifier)
        ),
        captum=backprop.captum_guided_grad_cam,
        passes=lambda _parameters: 2,
    ),
    "deep_lift": Method(
        backprop.deep_lift,
        "differences from a baseline carried back through each activation, rescale rule",
        "Shrikumar et al. 2017",
        _complete_from("needs_baseline"),
        inapplicable=backprop.lacks_differences,
        captum=backprop.captum_deep_lift,
        forward_only=lambda _parameters, _size: 1,
    ),
    "deep_lift_shap": Method(
        backprop.deep_lift_shap,
        "DeepLIFT averaged over images of the data set",
        "Lundberg and Lee 2017",
        _always("complete", "signed"),
        inapplicable=backprop.lacks_differences,
        captum=backprop.captum_deep_lift_shap,
        passes=_baselines,
        forward_only=lambda parameters, _size: _baselines(parameters),
        start=lambda parameters: Start(None, _baselines(parameters)),
        needs_references=_every,
    ),
    "lrp": Method(
        backprop.lrp,
        "the logit handed back in the shares that each input had in its sum; "
        "with ReLU alone, gradient times normalised image",
        "Bach et al. 2015; Ancona et al. 2018, proposition 1",
        _always("shift_invariant", "signed"),
        on_linear=lambda weights, batch: weights * batch.images,
        inapplicable=backprop.lacks_shares,
        exempt={"normalisation": "what is shared out reaches the normalised image, not the image"},
    ),
    "occlusion": Method(
        ablation.occlusion,
        "drop of the logit behind a sliding window",
        "Zeiler and Fergus 2014",
        _drawing_baseline_can,
        on_linear=ablation.occlusion_on_linear,
        captum=ablation.captum_occlusion,
        passes=_none,
        forward_only=ablation.occlusion_passes,
    ),
    "feature_ablation": Method(
        ablation.feature_ablation,
        "drop of the logit with one superpixel absent",
        "captum's FeatureAblation",
        _drawing_baseline_can,
        on_linear=coalitions.sums_on_linear,
        captum=ablation.captum_feature_ablation,
        passes=_none,
        forward_only=ablation.feature_ablation_passes,
    ),
    "shapley_sampling": Method(
        coalitions.shapley_sampling,
        "mean rise of the logit when a superpixel comes, over orders",
        "Castro et al. 2009; Strumbelj and Kononenko 2010",
        _always("signed", "stochastic"),
        on_linear=coalitions.sums_on_linear,
        passes=_none,
        forward_only=coalitions.shapley_sampling_passes,
    ),
    "lime": Method(
        surrogates.lime,
        "ridge regression of the logit on which superpixels are there",
        "Ribeiro et al. 2016",
        _always("signed", "stochastic"),
        on_linear=surrogates.lime_on_linear,
        passes=_none,
        forward_only=surrogates.lime_passes,
    ),
    "kernel_shap": Method(
        surrogates.kernel_shap,
        "Shapley values of superpixels by weighted least squares",
        "Lundberg and Lee 2017; Covert and Lee 2021",
        _kernel_shap_can,
        on_linear=surrogates.kernel_shap_on_linear,
        passes=_none,
        forward_only=surrogates.kernel_shap_passes,
    ),
    "constant": Method(
        controls.constant,
        "control: the same number everywhere",
        "Adebayo et al. 2018, for all controls",
        _always("shift_invariant"),
        control=True,
        passes=_none,
    ),
    "random": Method(
        controls.random,
        "control: noise, the same for an image and its perturbed self",
        "",
        _always("shift_invariant", "signed", "stochastic"),
        control=True,
        passes=_none,
    ),
    "edge": Method(
        controls.edge,
        "control: Sobel's magnitude of the image",
        "Sobel and Feldman 1968",
        _always("shift_invariant"),
        control=True,
        passes=_none,
    ),
    "centre_blob": Method(
        controls.centre_blob,
        "control: a Gaussian blob in the middle",
        "",
        _always("shift_invariant"),
        control=True,
        passes=_none,
    ),
}

CONTROLS = tuple(name for name, method in METHODS.items() if method.control)

DEFAULT_METHODS = (
    "gradient",
    "gradient_x_input",
    "integrated_gradients:baseline=black",
    "integrated_gradients:baseline=white",
    "integrated_gradients:baseline=random",
    "grad_cam",
)


def _as_method(found: object) -> Method:
    """Make an entry of a `Method`, or of a function that explains.

    Of a function no promises are known.
    """
    if not isinstance(found, Method):
        check_function(found, "classifier, batch")
        explain = cast("Callable[..., Tensor]", found)
        return Method(explain, summary_of(found), YOUR_OWN, degree=None)
    check_function(found.explain, "classifier, batch")
    _check_promises(BoundMethod("", found, tuple(_defaults(found).items())))
    return found


def _defaults(method: Method) -> dict[str, object]:
    """Return the parameters of a method: its keyword-only arguments, with their defaults."""
    signature = inspect.signature(method.explain).parameters.values()
    return {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}


def _check_promises(bound: BoundMethod) -> None:
    """See, before anything is computed, that what a plug-in says of itself can be asked.

    Raises:
        TypeError: it cannot.
    """
    try:
        complete, _ = bound.can("complete"), bound.passes
    except Exception as error:  # a plug-in may raise anything; the line says what
        raise TypeError(f"capabilities or passes: {one_line(error)}") from error
    own_start = bound.method.start is not one_baseline
    if complete and not own_start and dict(bound.parameters).get("baseline") not in BASELINES:
        raise TypeError(
            f"a method that is complete has a parameter baseline: {', '.join(BASELINES)}"
        )


METHOD_SHELF = Shelf("method", METHODS, _as_method, (INPUT, OVERALL))


def bind_method(spec: str, steps: Steps | None = None) -> BoundMethod:
    """Parse `name:key=value,key=value`.

    Args:
        spec: a key of `METHODS`, the name of a plug-in, or `package.module:function` (a dot in the
            colon's place does as well) for one of your own; with parameters where they differ from
            the defaults.
        steps: the number of steps for a method that has them and whose spec does not set them.

    Raises:
        ValueError: an unknown name or parameter, with the nearest known one, or a bad value.
    """
    name, text = _split_spec(spec)
    module, dot, attribute = name.rpartition(".")
    method = METHOD_SHELF.find(f"{module}:{attribute}" if dot else name)
    defaults = _defaults(method)
    given = dict(_split_parameter(name, part) for part in text.split(",") if part)
    if steps is not None and "steps" in defaults:
        given.setdefault("steps", str(steps))
    types = _types(name, method) if given else {}
    values = defaults.copy()
    for key, value in given.items():
        if key not in defaults:
            known = nearest(key, defaults) if defaults else "it has none"
            raise ValueError(f"method {name}: unknown parameter {key!r}; {known}")
        try:
            kind = types.get(key, type(defaults[key]))
            values[key] = TypeAdapter(kind).validate_strings(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"method {name}: {key}={value}: {reason}") from error
    settings = ",".join(f"{key}={str(value).lower()}" for key, value in values.items())
    bound = BoundMethod(f"{name}:{settings}" if settings else name, method, tuple(values.items()))
    if name not in METHODS:
        try:
            _check_promises(bound)
        except TypeError as error:
            raise PluginError(f"method {bound.spec}: {error}") from error
    return bound


def _split_spec(spec: str) -> tuple[str, str]:
    """Return a method's name and the text of its parameters.

    A colon begins the parameters, which have an equals sign, or the function of a module, which has
    none; that becomes `package.module.function`.
    """
    name, _, rest = spec.partition(":")
    if name in METHODS or ("." not in name and name in offers("method")):
        return name, rest
    attribute, _, text = rest.partition(":")
    return (f"{name}.{attribute}", text) if attribute and "=" not in attribute else (name, rest)


def _types(name: str, method: Method) -> dict[str, Any]:
    try:
        return get_type_hints(method.explain, include_extras=True)
    except Exception as error:  # an annotation may be any expression; the line says what
        reason = one_line(error)
        raise ValueError(f"method {name}: its annotations cannot be read: {reason}") from error


def _split_parameter(name: str, part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ValueError(f"method {name}: expected key=value, got {part!r}")
    return key.strip(), value.strip()
