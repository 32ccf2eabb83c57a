"""The front door in Python: what goes in, what comes out, and what a mistake is answered with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor

import steadymap as sm
from steadymap.bench.core.errors import PluginError
from steadymap.bench.methods.binding import METHOD_SHELF


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 3),
    )


def pictures(count: int = 9) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def image_itself(_classifier: sm.Classifier, batch: sm.Batch) -> Tensor:
    return batch.images


FEW = sm.Plan(severity=(0.1, 0.2), metric=("spearman",), controls=False, nulls=1, admission=False)


@pytest.fixture(scope="module")
def result() -> sm.Result:
    methods = ["gradient", "grad_cam", captum.attr.Saliency, image_itself]
    return sm.run(network(), pictures(), methods, "bias", plan=FEW, progress=False)


def test_names_functions_and_classes_of_captum_are_scored_side_by_side(result: sm.Result) -> None:
    scored = result.calibrated
    overall = scored[scored["family"] == "overall"].set_index("method")["calibrated"]
    assert set(overall.index) == {
        "gradient",
        "grad_cam:relu=true",
        "captum.attr.Saliency",
        f"{__name__}.image_itself",
    }
    assert overall["captum.attr.Saliency"] != overall["gradient"]  # magnitudes, and signed maps
    # It is the same from a network that knows nothing.
    assert np.isfinite(overall).tolist() == [True, True, True, False]


def test_maps_are_those_of_captum_and_of_the_function(result: sm.Result) -> None:
    own = network().eval()
    images = pictures()
    classes = own(images).argmax(dim=1)
    expected = captum.attr.Saliency(own).attribute(images.requires_grad_(), target=classes)
    ours = result.maps(captum.attr.Saliency)
    np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-6)
    moved = result.maps(image_itself, ("bias", 0.2)) - result.maps(image_itself)
    np.testing.assert_allclose(moved, 0.2, atol=1e-6)


def test_the_callers_network_stays_trainable() -> None:
    own = network().train()
    sm.run(own, pictures(8), "gradient", "bias", plan=FEW, progress=False)
    assert own.training
    assert all(parameter.requires_grad for parameter in own.parameters())


def test_a_result_makes_its_page_and_its_figures(result: sm.Result, tmp_path: Path) -> None:
    page = result.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "captum.attr.Saliency" in page
    assert "captum.attr.Saliency" in result._repr_html_()
    assert len(result.plot(family="bias").axes[0].lines) >= 4
    assert result.show(image=2).axes


def test_a_folder_goes_on_and_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = sm.run(network(), pictures(8), "gradient", "bias", plan=FEW, output=folder)
    again = sm.read(str(folder))
    assert first.manifest["run_id"] == again.manifest["run_id"]
    assert again.summary.equals(first.summary)
    with pytest.raises(sm.ConfigError, match="--save-maps"):
        again.maps("gradient")


def test_kept_maps_are_read_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support import call  # noqa: PLC0415 - beside the tests

    words = ["run", "--limit", "3", "--method", "gradient", "--family", "bias", "--severity", "0.1"]
    words += ["--no-controls", "--nulls", "0", "--no-report", "--save-maps", "--metric", "spearman"]
    assert call(monkeypatch, *words, "--output", str(tmp_path / "run")) == 0
    kept = sm.read(tmp_path / "run")
    clean, moved = kept.maps("gradient"), kept.maps("gradient", ("bias", 0.1))
    assert clean.shape == moved.shape == (3, 3, 64, 64)
    assert not np.array_equal(clean, moved)
    with pytest.raises(sm.ConfigError, match=r"view: no maps of \('bias', 0.3\)"):
        kept.maps("gradient", ("bias", 0.3))
    with pytest.raises(sm.ConfigError, match="no maps of lime"):
        kept.maps("lime")


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "the plural in a plan": (
        lambda: sm.Plan(methods=("gradient",)),  # type: ignore[call-arg]
        "unknown key 'methods'; did you mean method?",
    ),
    "another name of a method": (
        lambda: sm.Plan(method=("saliency",)),
        "unknown method 'saliency'; here it is called gradient",
    ),
    "a typing error": (
        lambda: sm.run(network(), pictures(), ["gradiant"]),
        "did you mean gradient?",
    ),
    "a number": (lambda: sm.Plan(draws=0), "draws: Input should be greater than or equal to 1"),
    "images of 255 levels": (
        lambda: sm.run(network(), pictures() * 255),
        "values must lie in",
    ),
    "no network": (lambda: sm.run(3, pictures()), "expected a torch.nn.Module"),  # type: ignore[arg-type]
    "a size that nobody knows": (
        lambda: sm.run(network(), "hands"),
        "make_classifier(network, (height, width))",
    ),
    "a class that wants more": (
        lambda: sm.run(network(), pictures(), captum.attr.Occlusion),
        "Occlusion needs sliding_window_shapes",
    ),
    "a layer": (
        lambda: sm.run(network(), pictures(), captum.attr.LayerGradCam),
        "LayerGradCam needs layer",
    ),
    "no run": (lambda: sm.read("nowhere"), "nowhere holds no finished run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(mistake: str) -> None:
    make, sentence = MISTAKES[mistake]
    with pytest.raises((sm.ConfigError, sm.DataError, sm.ModelError)) as caught:
        make()
    text = str(caught.value)
    assert sentence in text
    assert "\n" not in text
    assert "https:" not in text


def test_what_cannot_be_had_of_a_result_is_said(result: sm.Result) -> None:
    with pytest.raises(sm.ConfigError, match="did not run"):
        result.maps("lime")
    with pytest.raises(sm.ConfigError, match="none of the 9 images"):
        result.show(image=9)
    with pytest.raises(sm.ConfigError, match="unknown metric 'ssim'; known: spearman"):
        result.plot(metric="ssim")


def test_two_lambdas_are_two_methods() -> None:
    first = METHOD_SHELF.lend(lambda _classifier, batch: batch.images)
    second = METHOD_SHELF.lend(lambda _classifier, batch: 2 * batch.images)
    assert first != second
    sources = [METHOD_SHELF.where(name) for name in (first, second)]
    # What a process alone knows is never taken for what another computed.
    assert len({found.source for found in sources if found}) == 2


def test_an_importable_function_is_named_by_its_place() -> None:
    assert METHOD_SHELF.lend(captum.attr.Saliency) == "captum.attr:Saliency"
    assert METHOD_SHELF.lend(captum.attr.Saliency) == "captum.attr:Saliency"
    with pytest.raises(PluginError, match="expected a function"):
        METHOD_SHELF.lend(int)


def test_draws_of_captum_are_the_images_own() -> None:
    plan = sm.Plan(method=(captum.attr.ShapleyValueSampling,))
    (shapley, *_) = plan.bound_methods()
    classifier = sm.make_classifier(network(), (4, 4))
    images = pictures(3)[:, :, :4, :4]
    batch = sm.Batch(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    before = torch.random.get_rng_state()
    together = shapley.explain(classifier, batch)
    alone = shapley.explain(classifier, batch.part([1]))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.equal(together[1:2], shapley.explain(classifier, batch.redrawn(1).part([1])))


def test_importing_the_front_loads_nothing_large() -> None:
    code = (
        "import sys, steadymap as sm; sm.__version__; dir(sm);"
        "print([m for m in ('torch', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert run.stdout.strip() == "[]"


def test_every_name_of_the_front_is_there() -> None:
    for name in sm.__all__:
        assert getattr(sm, name) is not None
