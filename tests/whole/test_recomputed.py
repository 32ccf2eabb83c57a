"""The records of runs against what plain torch, captum, SciPy and scikit-image say of the same."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import nets
import numpy as np
import pandas as pd
import pytest
import recomputed
from PIL import Image
from scipy import ndimage
from support import console

from steadymap.bench.records.vocabulary import MARGIN_NAMES

FACTORY = """
from nets import CLASSES, SIDE, build
from steadymap.models import Normalization, make_classifier


def made(name):
    network = build(name)
    normalization = Normalization(network.mean, network.std)
    return make_classifier(network, (SIDE, SIDE), CLASSES, normalization)
"""
FACTORY += "".join(f"\n\ndef {name}():\n    return made({name!r})\n" for name in nets.NETWORKS)

Cells = list[tuple[str, float]]
CELLS: Cells = [
    ("bias", 0.1), ("bias", -0.3), ("compensated_bias", 0.2), ("shifted_network", 0.2),
    ("red_bias", 0.1),
    ("green_bias", -0.2), ("blue_bias", 0.3), ("brightness", 0.3), ("contrast", -0.3),
    ("saturation", 0.5), ("hue", 0.1), ("gaussian_blur", 0.03), ("pixelate", 0.5), ("jpeg", 0.75),
    ("translation", 0.1), ("rotation", 10.0), ("rotation", -20.0), ("zoom", 0.2), ("zoom", -0.1),
]  # fmt: skip
FEW: Cells = [
    ("bias", 0.1), ("compensated_bias", 0.2), ("shifted_network", 0.2), ("rotation", 10.0),
]  # fmt: skip
FEW_METHODS = (
    "gradient_x_input",
    "integrated_gradients:baseline=white,steps=6",
    "grad_cam:relu=true",
    "grad_cam_plus_plus",
    "constant",
)

# By metric, of a map: float32 against double precision, on maps whose values come near each other.
# Ranks are the worst: two pixels that change places cost 6 / n^2 of Spearman, 4 / n^2 of Kendall;
# where a picture has blocks of one colour, many pixels do.
CLOSE = {
    "ssim": 1e-4,
    "spearman": 3e-4,
    "spearman_magnitude": 3e-4,
    "kendall": 3e-4,
    "top_k_intersection": 1e-9,
    "relative_l2": 3e-4,
    "cosine": 5e-5,
    "pearson": 5e-5,
    "centre_shift": 1e-5,
    "completeness_error": 5e-6,
    "completeness_error_relative": 1e-4,
    "input_change": 1e-6,
    "saturated_share": 1e-9,
    "clean_probability": 1e-5,
    "rank": 0.0,
}
# An image so near to where a ReLU turns that rounding says on which side it is: a pixel or two of
# its map may be another's.
KINK, NEAR_KINK = 1e-6, 0.02
KEY = ["image_id", "method", "family", "severity", "metric"]


def draw(folder: Path, count: int) -> list[Path]:
    """Draw smooth pictures of noise at the networks' own size, which need no resizing."""
    rng = np.random.default_rng(5)
    paths = []
    for index in range(count):
        noise = ndimage.gaussian_filter(rng.random((nets.SIDE, nets.SIDE, 3)), (1.5, 1.5, 0))
        path = folder / nets.CLASSES[index] / f"{index}.png"
        path.parent.mkdir(parents=True)
        shades = 255 * (noise - noise.min()) / np.ptp(noise)
        Image.fromarray(shades.round().astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def recorded(
    folder: Path, name: str, cells: Cells, methods: Iterable[str], nulls: int = 0
) -> pd.DataFrame:
    """Run the command line as a user does; return what its file of records holds.

    Of what takes the project's own randomised networks or seeds, nothing.
    """
    words = [f"--method={method}" for method in methods]
    for family in dict(cells):
        levels = ",".join(str(level) for other, level in cells if other == family)
        words += [f"--family={family}", f"--severity={family}={levels}"]
    fixed = ["--data=folder:pictures", "--split=all", "--no-controls", "--no-report"]
    fixed += [f"--nulls={nulls}"]
    done = console("run", f"--model=factory:{name}", *fixed, *words, f"--output={name}", cwd=folder)
    assert done.returncode == 0, done.stderr
    records = pd.read_parquet(folder / name / "records.parquet")
    words_of = ["image_id", "method", "family", "metric", "status"]
    records = records.astype(dict.fromkeys(words_of, str))
    ours = records["metric"].str.contains(".random_network.", regex=False)
    # Margins have a word-for-word test of their own, beside the code that deletes.
    ours |= records["metric"].str.startswith(MARGIN_NAMES)
    return records[~ours & records["family"].isin(["clean", *dict(cells)])]


def expected(
    name: str, paths: list[Path], cells: Cells, methods: Iterable[str], *, beside: bool = False
) -> pd.DataFrame:
    """Compute the same records once more."""
    pixels = [np.asarray(Image.open(path)) for path in paths]
    pictures = [values.astype(np.float32) / np.float32(255) for values in pixels]
    rows = recomputed.records(nets.build(name), pictures, cells, list(methods), beside=beside)
    table = pd.DataFrame(rows)
    ids = [
        hashlib.sha256(f"{values.shape} {values.dtype}\n".encode() + values.tobytes()).hexdigest()
        for values in pixels
    ]
    return table.assign(
        image_id=[ids[image][:16] for image in table["image"]],
        label=table["image"],  # one picture of each class, in their order
        pred_clean=table["target"],
        kept=table["pred_perturbed"] == table["target"],
        draw=0,
    )


def compared(found: pd.DataFrame, wanted: pd.DataFrame) -> pd.DataFrame:
    """Hold records against what they should be; return those with a value, how far it is off."""
    both = found.merge(wanted, on=KEY, how="outer", suffixes=("", "_wanted"), indicator=True)
    assert set(both["_merge"]) == {"both"}
    assert len(both) == len(found) == len(wanted)
    for column in ("status", "label", "target", "pred_clean", "pred_perturbed", "kept", "draw"):
        other = both[both[column] != both[f"{column}_wanted"]]
        assert other.empty, f"{column}:\n{other.head()}"
    valued = both["status"] == "ok"
    assert both[~valued]["value"].isna().all()
    numbers = both[valued]
    off = (numbers["value"] - numbers["value_wanted"]).abs()
    names = (
        numbers["metric"].str.partition(".")[0].mask(numbers["metric"].str.endswith("rank"), "rank")
    )
    limit = names.map(CLOSE)
    limit = limit.mask(numbers["kink"] < KINK, NEAR_KINK)
    numbers = numbers.assign(off=off, limit=limit)
    far = numbers[~(numbers["off"] <= numbers["limit"])]
    columns = [*KEY[1:], "value", "value_wanted", "off"]
    assert far.empty, f"{len(far)} of {len(numbers)}:\n{far.sort_values('off')[columns].tail(9)}"
    return numbers


# DeepLIFT is left out where rounding has a say in it. Of a constant picture the values in a window
# of a pooling are equal but for rounding, which then says who takes the credit; and where a picture
# is near its baseline, the slope of a smooth activation is one rounding over another.
BY_CHANCE = [("plain", "deep_lift:baseline=black"), ("smooth", "deep_lift:baseline=blur")]


def fitting(name: str) -> list[str]:
    return [method for method in recomputed.METHODS if (name, method) not in BY_CHANCE]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "factory.py").write_text(FACTORY)
    shutil.copy(nets.__file__, tmp_path)
    return tmp_path


def test_the_oracle_knows_nothing_of_the_project() -> None:
    for module in (nets, recomputed):
        assert "steadymap" not in Path(str(module.__file__)).read_text()


def test_a_few_records_are_what_plain_code_says(folder: Path) -> None:
    """Those of other images' maps among them, and the places of a map's own."""
    paths = draw(folder / "pictures", 3)
    numbers = compared(
        recorded(folder, "plain", FEW, FEW_METHODS, nulls=1),
        expected("plain", paths, FEW, FEW_METHODS, beside=True),
    )
    assert len(numbers) > 1500
    assert numbers["metric"].str.contains(".same_class.partner", regex=False).sum() > 100
    assert {1.0, 3.0} <= set(numbers.loc[numbers["metric"].str.endswith(".rank"), "value"])


@pytest.mark.slow
def test_five_thousand_records_of_each_network_are_what_plain_code_says(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    paths = draw(folder / "pictures", 3)
    numbers = pd.concat(
        [
            compared(
                recorded(folder, name, CELLS, fitting(name)),
                expected(name, paths, CELLS, fitting(name)),
            ).assign(network=name)
            for name in nets.NETWORKS
        ]
    )
    off = numbers[numbers["kink"] >= KINK].groupby("metric")["off"].max()
    kinks = (numbers["kink"] < KINK).mean()
    record_property(
        "measured",
        f"{len(numbers)} values, {kinks:.1%} near a kink; furthest off:\n{off.to_string()}",
    )
    assert numbers["network"].nunique() == 3
    assert numbers["family"].nunique() >= 12 + 1  # beside the clean images
    assert numbers["network"].value_counts().min() >= 5000
    assert kinks < 0.1
