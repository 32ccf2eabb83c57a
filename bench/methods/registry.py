"""Saliency methods and controls: what each is and what it is capable of."""

from __future__ import annotations

from typing import cast

from steadymap.bench.core.on_demand import OnDemand
from steadymap.bench.methods.baselines import BaselineName, Start
from steadymap.bench.methods.method import (
    Method,
    Parameters,
    Share,
    always,
    complete_from,
    signed_from,
    signed_without_relu,
)


def _ours(place: str) -> OnDemand:
    """Return a function of a module beside this one, which loads torch when it is called."""
    return OnDemand(f"steadymap.bench.methods.{place}")


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
        _ours("gradient:gradient"),
        "vanilla gradient of the target's logit",
        "Simonyan et al. 2013",
        always("shift_invariant", "signed"),
        on_linear=lambda weights, _batch: weights,
        captum=_ours("gradient:captum_gradient"),
        share=Share("gradient", _ours("gradient:read_gradient")),
        order="magnitude",
    ),
    "gradient_x_input": Method(
        _ours("gradient:gradient_x_input"),
        "gradient times image",
        "Shrikumar et al. 2016",
        always("signed"),
        on_linear=lambda weights, batch: weights * batch.images,
        captum=_ours("gradient:captum_gradient_x_input"),
        share=Share("gradient", _ours("gradient:read_gradient_x_input")),
        order="signed",
    ),
    "integrated_gradients": Method(
        _ours("integrated_gradients:integrated_gradients"),
        "gradients averaged from a baseline to the image, times the way",
        "Sundararajan et al. 2017",
        complete_from("needs_baseline"),
        captum=_ours("integrated_gradients:captum_integrated_gradients"),
        passes=_ours("integrated_gradients:points_of"),
        nested=_ours("integrated_gradients:nested_path"),
        order="signed",
    ),
    "grad_cam": Method(
        _ours("cam:grad_cam"),
        "gradient-weighted activations of the last feature map",
        "Selvaraju et al. 2017",
        signed_without_relu,
        layered=True,
        inapplicable=_ours("cam:lacks_layer"),
        captum=_ours("cam:captum_grad_cam"),
        captum_inapplicable=_ours("cam:captum_lacks_grid"),
        share=Share("layer", _ours("cam:read_grad_cam")),
        order="signed",
    ),
    "grad_cam_plus_plus": Method(
        _ours("cam:grad_cam_plus_plus"),
        "Grad-CAM with a weight for every place",
        "Chattopadhyay et al. 2018",
        always("shift_invariant"),
        degree=None,
        layered=True,
        inapplicable=_ours("cam:lacks_activation"),
        share=Share("layer", _ours("cam:read_grad_cam_plus_plus")),
        order="signed",
    ),
    "hires_cam": Method(
        _ours("cam:hires_cam"),
        "gradient times activations of the last feature map, place by place",
        "Draelos and Carin 2020",
        signed_without_relu,
        layered=True,
        inapplicable=_ours("cam:lacks_layer"),
        share=Share("layer", _ours("cam:read_hires_cam")),
        order="signed",
    ),
    "layer_cam": Method(
        _ours("cam:layer_cam"),
        "positive gradient times activations of the last feature map, place by place",
        "Jiang et al. 2021",
        always("shift_invariant"),
        layered=True,
        inapplicable=_ours("cam:lacks_activation"),
        share=Share("layer", _ours("cam:read_layer_cam")),
        order="signed",
    ),
    "smooth_grad": Method(
        _ours("smooth_grad:smooth_grad"),
        "gradient averaged over noisy copies of the image",
        "Smilkov et al. 2017",
        always("shift_invariant", "signed", "stochastic"),
        on_linear=lambda weights, _batch: weights,
        passes=_samples,
        order="magnitude",
    ),
    "smooth_grad_squared": Method(
        _ours("smooth_grad:smooth_grad_squared"),
        "squared gradient averaged over noisy copies",
        "Hooker et al. 2019",
        always("shift_invariant", "stochastic"),
        on_linear=lambda weights, _batch: weights.square(),
        degree=2,
        passes=_samples,
        order="magnitude",
    ),
    "var_grad": Method(
        _ours("smooth_grad:var_grad"),
        "variance of the gradient over noisy copies",
        "Adebayo et al. 2018",
        always("shift_invariant", "stochastic"),
        on_linear=_ours("smooth_grad:var_grad_on_linear"),
        degree=2,
        passes=_samples,
        order="magnitude",
    ),
    "integrated_gradients_averaged": Method(
        _ours("expected_gradients:integrated_gradients_averaged"),
        "integrated gradients averaged over several draws of a baseline",
        "Sturmfels et al. 2020",
        complete_from(),
        passes=_ours("expected_gradients:averaged_points"),
        start=_drawn_baselines,
        order="signed",
    ),
    "expected_gradients": Method(
        _ours("expected_gradients:expected_gradients"),
        "gradients at random places between images of the data set and the image, times the way",
        "Erion et al. 2021",
        always("signed", "stochastic"),
        passes=_samples,
        needs_references=_every,
        order="signed",
    ),
    "gradient_shap": Method(
        _ours("expected_gradients:gradient_shap"),
        "expected gradients with noise added to the image",
        "Lundberg and Lee 2017",
        always("signed", "stochastic"),
        passes=_samples,
        needs_references=_every,
        order="signed",
    ),
    "guided_backprop": Method(
        _ours("backprop:guided_backprop"),
        "gradient that no ReLU lets through where it is negative",
        "Springenberg et al. 2014",
        always("shift_invariant", "signed"),
        inapplicable=_ours("backprop:lacks_relu"),
        captum=_ours("backprop:captum_guided_backprop"),
        order="magnitude",
    ),
    "deconvolution": Method(
        _ours("backprop:deconvolution"),
        "gradient that each ReLU cuts off below 0, whatever came through it",
        "Zeiler and Fergus 2014",
        always("shift_invariant", "signed"),
        inapplicable=_ours("backprop:lacks_relu"),
        captum=_ours("backprop:captum_deconvolution"),
        order="magnitude",
    ),
    "guided_grad_cam": Method(
        _ours("backprop:guided_grad_cam"),
        "guided backpropagation times Grad-CAM, brought to the image's size by nearest neighbours",
        "Selvaraju et al. 2017",
        always("shift_invariant", "signed"),
        degree=2,
        layered=True,
        inapplicable=_ours("backprop:lacks_layer_or_relu"),
        captum=_ours("backprop:captum_guided_grad_cam"),
        captum_inapplicable=_ours("cam:captum_lacks_grid"),
        passes=lambda _parameters: 2,
        order="magnitude",
    ),
    "deep_lift": Method(
        _ours("backprop:deep_lift"),
        "differences from a baseline carried back through each activation, rescale rule",
        "Shrikumar et al. 2017",
        complete_from("needs_baseline"),
        inapplicable=_ours("backprop:lacks_differences"),
        captum=_ours("backprop:captum_deep_lift"),
        forward_only=lambda _parameters, _size: 1,
        order="signed",
    ),
    "deep_lift_shap": Method(
        _ours("backprop:deep_lift_shap"),
        "DeepLIFT averaged over images of the data set",
        "Lundberg and Lee 2017",
        always("complete", "signed"),
        inapplicable=_ours("backprop:lacks_differences"),
        captum=_ours("backprop:captum_deep_lift_shap"),
        passes=_baselines,
        forward_only=lambda parameters, _size: _baselines(parameters),
        start=lambda parameters: Start(None, _baselines(parameters)),
        needs_references=_every,
        order="signed",
    ),
    "lrp": Method(
        _ours("backprop:lrp"),
        "the logit handed back in the shares that each input had in its sum; "
        "with ReLU alone, gradient times normalised image",
        "Bach et al. 2015; Ancona et al. 2018, proposition 1",
        always("shift_invariant", "signed"),
        on_linear=lambda weights, batch: weights * batch.images,
        inapplicable=_ours("backprop:lacks_shares"),
        exempt={"normalisation": "what is shared out reaches the normalised image, not the image"},
        order="signed",
    ),
    "occlusion": Method(
        _ours("occlusion:occlusion"),
        "drop of the logit behind a sliding window",
        "Zeiler and Fergus 2014",
        signed_from,
        on_linear=_ours("occlusion:occlusion_on_linear"),
        captum=_ours("occlusion:captum_occlusion"),
        passes=_none,
        forward_only=_ours("occlusion:occlusion_passes"),
        order="signed",
    ),
    "feature_ablation": Method(
        _ours("occlusion:feature_ablation"),
        "drop of the logit with one superpixel absent",
        "captum's FeatureAblation",
        signed_from,
        on_linear=_ours("coalitions:sums_on_linear"),
        captum=_ours("occlusion:captum_feature_ablation"),
        passes=_none,
        forward_only=_ours("occlusion:feature_ablation_passes"),
        order="signed",
    ),
    "shapley_sampling": Method(
        _ours("coalitions:shapley_sampling"),
        "mean rise of the logit when a superpixel comes, over orders",
        "Castro et al. 2009; Strumbelj and Kononenko 2010",
        always("signed", "stochastic"),
        on_linear=_ours("coalitions:sums_on_linear"),
        passes=_none,
        forward_only=_ours("coalitions:shapley_sampling_passes"),
        order="signed",
    ),
    "lime": Method(
        _ours("surrogates:lime"),
        "ridge regression of the logit on which superpixels are there",
        "Ribeiro et al. 2016",
        always("signed", "stochastic"),
        on_linear=_ours("surrogates:lime_on_linear"),
        passes=_none,
        forward_only=_ours("surrogates:lime_passes"),
        order="signed",
    ),
    "kernel_shap": Method(
        _ours("surrogates:kernel_shap"),
        "Shapley values of superpixels by weighted least squares",
        "Lundberg and Lee 2017; Covert and Lee 2021",
        _ours("surrogates:kernel_shap_can"),
        on_linear=_ours("surrogates:kernel_shap_on_linear"),
        passes=_none,
        forward_only=_ours("surrogates:kernel_shap_passes"),
        order="signed",
    ),
    "constant": Method(
        _ours("controls:constant"),
        "control: the same number everywhere",
        "Adebayo et al. 2018, for all controls",
        always("shift_invariant"),
        control=True,
        passes=_none,
        order="signed",
    ),
    "random": Method(
        _ours("controls:random"),
        "control: noise, the same for an image and its perturbed self",
        "",
        always("shift_invariant", "signed", "stochastic"),
        control=True,
        passes=_none,
        order="signed",
    ),
    "edge": Method(
        _ours("controls:edge"),
        "control: Sobel's magnitude of the image",
        "Sobel and Feldman 1968",
        always("shift_invariant"),
        control=True,
        passes=_none,
        order="signed",
    ),
    "centre_blob": Method(
        _ours("controls:centre_blob"),
        "control: a Gaussian blob in the middle",
        "",
        always("shift_invariant"),
        control=True,
        passes=_none,
        order="signed",
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

# Other names that people know methods by.
ALSO_CALLED = {
    "saliency": "gradient",
    "vanilla_gradient": "gradient",
    "vanilla": "gradient",
    "input_x_gradient": "gradient_x_input",
    "ig": "integrated_gradients",
    "cam": "grad_cam",
    "gradcam++": "grad_cam_plus_plus",
    "grad_cam++": "grad_cam_plus_plus",
    "shap": "kernel_shap, gradient_shap or deep_lift_shap",
    "deconvnet": "deconvolution",
    "feature_permutation": "feature_ablation",
}
