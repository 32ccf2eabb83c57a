from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.safe_yaml import read_config
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.registry import CONTROLS, DEFAULT_METHODS, METHODS
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import DEFAULT_FAMILIES, PERTURBATIONS
from steadymap.bench.plan.experiment import Experiment, make_experiment
from steadymap.bench.plan.packaged_experiments import (
    about_experiment,
    experiment_names,
    read_experiment,
)
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records.vocabulary import SHIFTED
from steadymap.metrics import METRICS


def test_a_later_layer_wins() -> None:
    experiment = make_experiment([{"limit": 3, "seed": 1}, {"limit": 5}])
    assert (experiment.limit, experiment.seed) == (5, 1)


def test_severities_merge_family_by_family() -> None:
    base = {
        "family": ["bias", "uniform_noise"],
        "severity": {"bias": [0.1], "uniform_noise": [0.2]},
    }
    merged = make_experiment([base, {"severity": {"bias": [0.3]}}])
    assert merged.severities() == {"bias": (0.3,), "uniform_noise": (0.2,)}
    assert make_experiment([base, {"severity": [0.4]}]).severities() == {
        "bias": (0.4,),
        "uniform_noise": (0.4,),
    }
    assert make_experiment([base, {"family": ["bias"]}]).severities() == {"bias": (0.1,)}


def test_cells_are_families_x_severities_x_draws() -> None:
    plan = Plan(
        family=("bias", "gaussian_noise"),
        severity={"bias": (-0.1, 0.1), "gaussian_noise": (0.2,)},
        draws=2,
    )
    assert plan.cells() == (
        Cell("bias", -0.1, 0),
        Cell("bias", 0.1, 0),
        Cell("gaussian_noise", 0.2, 0),
        Cell("gaussian_noise", 0.2, 1),
    )


def test_severities_left_out_are_the_family_s_own() -> None:
    plan = Plan(family=("bias", "uniform_noise"), severity={"bias": (0.4,)})
    assert plan.severities() == {
        "bias": (0.4,),
        "uniform_noise": PERTURBATIONS["uniform_noise"].severities,
    }
    assert Plan(family=("bias",), severity=(0.1, 0.1, 0.2)).severities() == {"bias": (0.1, 0.2)}


def test_a_method_named_twice_runs_once() -> None:
    plan = Plan(method=("gradient", "grad_cam", "grad_cam:relu=true"), controls=False)
    assert [method.spec for method in plan.bound_methods()] == ["gradient", "grad_cam:relu=true"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"limti": 3}, "unknown key 'limti'; did you mean limit?"),
        ({"method": ["gradiant"]}, "unknown method 'gradiant'; did you mean gradient?"),
        ({"family": ["bais"]}, "unknown family 'bais'; did you mean bias?"),
        ({"metric": ["spearmann"]}, "unknown metric 'spearmann'; did you mean spearman?"),
        ({"metric": ["zzz"]}, "unknown metric 'zzz'; known: ssim, spearman,"),
        ({"metric": []}, "metric: the list is empty"),
        ({"method": []}, "method: the list is empty"),
        ({"family": []}, "family: the list is empty"),
        ({"severity": []}, "severity of bias: the list is empty"),
        ({"limit": 0}, "limit: Input should be greater than or equal to 1, got 0"),
        ({"limit": "many"}, "limit: Input should be a valid integer"),
        ({"draws": 10**9}, "draws: Input should be less than or equal to 1000"),
        ({"steps": 10**9}, "steps: Input should be less than or equal to 1000"),
        ({"draws": 0}, "draws: Input should be greater"),
        ({"steps": 0}, "steps: Input should be greater"),
        ({"batch_size": 0}, "batch_size: Input should be greater"),
        ({"severity": [1.5]}, "severity: bias takes -1 to 1 in image units, got 1.5"),
        ({"severity": {"gaussian_noise": [-0.1]}}, "gaussian_noise takes 0 to 1 in image units"),
        ({"severity": [float("nan")]}, "bias takes -1 to 1 in image units, got nan"),
        ({"severity": {"bais": [0.1]}}, "unknown family in severity 'bais'; did you mean bias?"),
    ],
)
def test_a_wrong_setting_gives_one_line(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        make_experiment([chosen])
    assert "\n" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first draw learns the strategy
@given(st.dictionaries(st.sampled_from(list(Experiment.model_fields)), st.one_of(
    st.none(), st.integers(), st.floats(), st.text(), st.lists(st.floats()), st.lists(st.text()),
    st.dictionaries(st.text(), st.lists(st.floats())),
)))  # fmt: skip
def test_whatever_the_settings_there_is_an_experiment_or_one_line(chosen: dict[str, Any]) -> None:
    try:
        experiment = make_experiment([chosen])
    except ConfigError:
        return
    assert experiment.cells()
    assert experiment.bound_methods()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"limit: [", "is not YAML"),
        (b"- a\n- b\n", "must hold keys with values"),
        (b"", "must hold keys with values"),
        (b"1: 2\n", "must hold keys with values"),
        (b"a: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "x.yaml")


def test_a_missing_file_and_an_unknown_experiment() -> None:
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.yaml"):
        read_config(Path("nowhere.yaml"))
    with pytest.raises(ConfigError, match="unknown experiment 'hand'; did you mean hands"):
        read_experiment("hand")


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_of_the_package_is_sound(name: str) -> None:
    if name == "corruptions":
        pytest.importorskip("imagecorruptions", reason="extra corruptions is not installed")
    assert make_experiment([read_experiment(name)]).cells()
    about = about_experiment(name)
    assert about.summary
    assert about.needs.startswith("Needs ")
    assert about.takes.startswith("Takes ")


def test_the_embedded_experiment_has_everything() -> None:
    experiment = make_experiment([read_experiment("hands")])
    assert experiment.limit is not None
    assert experiment.limit >= 60
    specs = [method.spec for method in experiment.bound_methods()]
    wanted = [bind_method(spec, experiment.steps).spec for spec in (*DEFAULT_METHODS, *CONTROLS)]
    assert specs == wanted
    assert experiment.nulls > 0
    assert experiment.family == DEFAULT_FAMILIES
    assert experiment.metric is None, f"all of {list(METRICS)}"
    for family, levels in experiment.severities().items():
        assert len({abs(level) for level in levels}) >= (1 if family == SHIFTED else 3)
    assert set(experiment.severities()[SHIFTED]) < set(experiment.severities()["compensated_bias"])
    assert {level < 0 for level in experiment.severities()["bias"]} == {True, False}


def test_everything_leaves_nothing_out() -> None:
    everything = make_experiment([read_experiment("everything")])
    named = {method.spec.partition(":")[0] for method in everything.bound_methods()}
    assert named == set(METHODS)
    # Nor does it need an extra.
    assert set(everything.family) == {
        name for name, family in PERTURBATIONS.items() if family.missing is None
    }
    assert everything.metric is not None
    assert set(everything.metric) == set(METRICS)


def test_corruptions_are_all_of_imagenet_c() -> None:
    corruptions = read_experiment("corruptions")["family"]
    assert set(corruptions) == {name for name in PERTURBATIONS if name.startswith("imagenet_c_")}


def test_baselines_are_all_there_are() -> None:
    bound = make_experiment([read_experiment("baselines")]).bound_methods()
    taken = {method.baseline_name for method in bound} - {None}
    assert taken == set(BASELINES)
