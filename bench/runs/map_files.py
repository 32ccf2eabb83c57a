"""The maps of a run, where they are kept: shard by shard, then one file a method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from steadymap.bench.core import errors, files, names, safe_csv
from steadymap.bench.perturbations.cell import CLEAN_CELL
from steadymap.bench.runs import shard_files, table
from steadymap.bench.runs.ledger import Ledger

if TYPE_CHECKING:
    from torch import Tensor

    from steadymap.bench.measure.outcome import Outcome

Array = NDArray[Any]

IMAGES = "images"
MASKS = "masks"
MAP = "map "
DELTAS = "deltas "


def write_part_maps(home: Path, stem: str, outcome: Outcome) -> str:
    """Write the maps of a shard; return the hash of the file, which is in its name.

    Args:
        home: folder of the shards.
        stem: how the names of the shard's files begin.
        outcome: of the shard.

    Raises:
        ConfigError: it cannot be written.
    """
    tensors: dict[str, Tensor | None] = {IMAGES: outcome.images, MASKS: outcome.masks}
    tensors |= {MAP + spec: maps for spec, maps in outcome.attributions.items()}
    tensors |= {DELTAS + spec: deltas for spec, deltas in outcome.deltas.items()}
    arrays = {
        name: tensor.numpy(force=True) for name, tensor in tensors.items() if tensor is not None
    }
    content = _bytes(arrays, None)
    digest = hashlib.sha256(content).hexdigest()
    files.write_whole(shard_files.maps_path(home / f"{stem}-", digest), content)
    return digest


def write_maps(folder: Path, ledger: Ledger, kept: shard_files.Kept) -> None:
    """Write one file of images and one a method: rows (image, cell), as `index.csv` names them.

    Masks have one row an image; deltas, of complete methods, one a row of the attributions. What is
    missing is NaN. One method's maps are held at a time.

    Args:
        folder: where to.
        ledger: of the run.
        kept: the shards.

    Raises:
        ConfigError: something cannot be written.
    """
    files.make_folder(folder)
    cells = (CLEAN_CELL, *ledger.cells)
    rows = [(name, cell.family, cell.severity, cell.draw) for name in ledger.ids for cell in cells]
    index = pd.DataFrame(rows, columns=["image_id", "family", "severity", "draw"])
    files.write_whole(
        folder / "index.csv", safe_csv.csv_text(index.reset_index(names="row")).encode()
    )

    def gathered(name: str, spec: str) -> Array | None:
        return _gathered([*_pieces(ledger, kept, spec, name)])

    first = next(iter(ledger.methods))
    images, masks = gathered(IMAGES, first), gathered(MASKS, first)
    shown = {} if images is None else {IMAGES: _by_row(images)}
    _save(folder / "images.safetensors", shown | ({} if masks is None else {MASKS: masks}), {})
    for spec in ledger.methods:
        maps, deltas = gathered(MAP + spec, spec), gathered(DELTAS + spec, spec)
        if maps is not None:
            arrays = {"attributions": _by_row(maps)}
            arrays |= {} if deltas is None else {"deltas": _by_row(deltas)}
            _save(folder / f"{names.file_name(spec)}.safetensors", arrays, {"method": spec})


def read_maps(folder: Path, spec: str, family: str, severity: float) -> NDArray[np.float32]:
    """Return a method's kept maps of every image in one view: (N, C, h, w).

    Raises:
        ConfigError: none of that method, or of that view, are there.
    """
    path = folder / f"{names.file_name(spec)}.safetensors"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.safetensors") if file.stem != IMAGES)
        raise errors.ConfigError(f"method: no maps of {spec}; {names.nearest(path.stem, known)}")
    index = safe_csv.parse_csv((folder / "index.csv").read_bytes(), ["image_id", "family"])
    rows = (index["family"] == family) & (index["severity"] == severity) & (index["draw"] == 0)
    if not rows.any():
        views = index[["family", "severity"]].drop_duplicates().to_records(index=False).tolist()
        raise errors.ConfigError(f"view: no maps of ({family!r}, {severity:g}); known: {views}")
    with safe_open(path, framework="np") as file:
        maps: NDArray[np.float32] = file.get_tensor("attributions")[rows.to_numpy()]
    return maps


def _by_row(values: Array) -> Array:
    """Make values (images, cells, ...) one row an image and cell."""
    return values.reshape(-1, *values.shape[2:])


def _save(path: Path, arrays: Mapping[str, Array], metadata: dict[str, str] | None) -> None:
    files.write_whole(path, _bytes(arrays, metadata))


def _bytes(arrays: Mapping[str, Array], metadata: dict[str, str] | None) -> bytes:
    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    return save(contiguous, metadata=metadata)


def _pieces(
    ledger: Ledger, kept: shard_files.Kept, spec: str, name: str
) -> Iterator[tuple[int, Array | None]]:
    """Yield, block by block, how many images it has and their rows of what has a name."""
    for block in ledger.blocks:
        unit = ledger.grid(block, CLEAN_CELL)[spec]
        part = table.providers([unit], kept.of(block)).get(unit)
        if part is None or part.maps is None:
            yield len(block), None
            continue
        with safe_open(part.maps, framework="np") as file:
            has_it = name in file.keys()  # noqa: SIM118 - no dict
            yield len(block), file.get_tensor(name) if has_it else None


def _gathered(pieces: list[tuple[int, Array | None]]) -> Array | None:
    """Join the rows of all blocks, NaN where a block has none; None where none has any."""
    known = next((rows for _, rows in pieces if rows is not None), None)
    if known is None:
        return None
    return np.concatenate(
        [
            np.full((count, *known.shape[1:]), np.nan, np.float32) if rows is None else rows
            for count, rows in pieces
        ]
    )
