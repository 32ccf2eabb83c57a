"""From the runs of the study to the scores that are committed: collect.py RUNS DATA.

RUNS is the folder with the runs, as `measure.sh` makes them; DATA the photographs' data spec.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file

from steadymap.bench.core.names import file_name
from steadymap.bench.data.masks import with_masks
from steadymap.bench.data.opening import open_images
from steadymap.bench.records.read import read_run
from steadymap.bench.records.schema import SCHEMA, to_frame
from steadymap.bench.records.vocabulary import CLEAN, RECOGNISED
from steadymap.metrics import Status
from steadymap.models import MODELS, Framing

HERE = Path(__file__).resolve().parent
# Digits that are kept of a value: intervals are wider by far.
DIGITS = 4
MASK = "green_screen"


def slim(records: pd.DataFrame) -> pd.DataFrame:
    """Return records without what no table of the study reads, values to four digits."""
    kept = ~records["metric"].astype(str).str.endswith(RECOGNISED)
    chosen = records[kept].copy()
    values = chosen["value"].to_numpy(dtype=np.float64, copy=True)
    known = np.isfinite(values) & (values != 0)
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(values[known]))))
    values[known] = np.round(values[known] * scale) / scale
    chosen["value"] = values
    chosen["detail"] = chosen["detail"].where(chosen["status"] != Status.OK.value, "")
    return chosen


def write_scores(records: pd.DataFrame, path: Path) -> None:
    """Write records as a run has them."""
    plain = records.astype(
        {field.name: object for field in SCHEMA if pa.types.is_dictionary(field.type)}
    )
    table = pa.Table.from_pandas(plain, schema=SCHEMA, preserve_index=False)
    pq.write_table(table, path, compression="zstd", compression_level=19)


def hands(folder: Path, data: str) -> pd.DataFrame:
    """Return, by image of a run, its name and the hand's share of the picture."""
    _, manifest = read_run(folder)
    side = MODELS[manifest["model"]["name"]].side
    images = with_masks(open_images(data, Framing((side, side)), "test"), MASK)
    names = manifest["data"]["pictures"]
    rows = []
    for place, picture in enumerate(images.pictures):
        mask = images.read(place).mask
        if picture.image_id in names and mask is not None:
            rows.append((picture.image_id, names[picture.image_id], round(float(mask.mean()), 4)))
    return pd.DataFrame(rows, columns=["image_id", "picture", "hand"])


def signs(folder: Path) -> pd.DataFrame:
    """Return, by image and method, the negative share of the clean image's raw attributions."""
    _, manifest = read_run(folder)
    index = pd.read_csv(folder / "maps" / "index.csv")
    clean = index[index["family"] == CLEAN]
    rows = []
    for spec in manifest["methods"]:
        maps = load_file(folder / "maps" / f"{file_name(spec)}.safetensors")["attributions"]
        for row, image_id in zip(clean["row"], clean["image_id"], strict=True):
            values = maps[int(row)].double()
            total = float(values.abs().sum())
            if total > 0:
                negative = float(-values.clamp(max=0).sum()) / total
                rows.append((image_id, spec, round(negative, DIGITS)))
    return pd.DataFrame(rows, columns=["image_id", "method", "negative"])


def steps(folder: Path) -> pd.DataFrame:
    """Return, by image, method and steps, the relative completeness error of the clean image."""
    records, _ = read_run(folder)
    rows = records[
        (records["family"] == CLEAN)
        & (records["metric"] == "completeness_error_relative")
        & (records["status"] == Status.OK.value)
    ]
    specs = rows["method"].astype(str)
    return pd.DataFrame(
        {
            "image_id": rows["image_id"].astype(str),
            "method": specs.str.replace(r",?steps=\d+", "", regex=True),
            "steps": specs.str.extract(r"steps=(\d+)", expand=False).astype(int),
            "relative": rows["value"].map(lambda value: float(f"%.{DIGITS}g" % value)),
        }
    ).reset_index(drop=True)


def collect(runs: Path, data: str) -> None:
    """Collect every network that has runs."""
    for card in sorted(runs.glob("*.json")):
        name = card.stem
        home = HERE / "scores" / name
        home.mkdir(parents=True, exist_ok=True)
        records, manifest = read_run(runs / f"run-{name}")
        write_scores(slim(records), home / "records.parquet")
        hands(runs / f"run-{name}", data).to_csv(home / "images.csv", index=False)
        signs(runs / f"signs-{name}").to_csv(home / "signs.csv", index=False)
        steps(runs / f"steps-{name}").to_csv(home / "steps.csv", index=False)
        (home / "card.json").write_bytes(card.read_bytes())
        few = {
            key: manifest[key] for key in ("run_id", "versions", "machine", "git", "wall_seconds")
        }
        text = json.dumps(few | {"weights": manifest["model"]["weights_sha256"]}, indent=2)
        (home / "run.json").write_text(text + "\n", encoding="utf-8")
        print(name, len(to_frame(pq.read_table(home / "records.parquet"))))


if __name__ == "__main__":
    collect(Path(sys.argv[1]), sys.argv[2])
