"""Probes of versions, builds, extras and plug-ins."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from steadymap.bench.doctor.facts import Fact, Probe, look

if TYPE_CHECKING:
    from steadymap.bench.core.plugins import Shelf


TOGETHER = (
    "install torch and torchvision together, from one index: pip install --force-reinstall torch "
    "torchvision (for CPU alone with --index-url https://download.pytorch.org/whl/cpu)"
)


# --- versions -------------------------------------------------------------------------------------


def probe_system() -> Iterator[Fact]:
    """Yield which Python this is, and the system."""
    kind = "in a virtual environment" if sys.prefix != sys.base_prefix else "of the system"
    if (Path(sys.prefix) / "conda-meta").is_dir():
        kind = "of conda"
    yield Fact("Python", f"{platform.python_implementation()} {platform.python_version()}, {kind}")
    yield Fact("system", platform.platform())


def probe_processor() -> Iterator[Fact]:
    """Yield the processor's name."""
    import torch

    from steadymap.bench.core.machine import machine

    yield Fact("processor", str(machine(torch.device("cpu"))["processor"]))


def requirements(extra: str = "") -> list[Requirement]:
    """Return what the package needs by its own metadata; or what an extra adds."""

    def holds(needed: Requirement, extra_name: str) -> bool:
        return needed.marker is None or needed.marker.evaluate({"extra": extra_name})

    needs = map(Requirement, importlib.metadata.requires("steadymap") or ())
    return [need for need in needs if holds(need, extra) and not (extra and holds(need, ""))]


def probe_packages() -> Iterator[Fact]:
    """Yield the package's own version and those of all that it needs."""
    yield Fact("steadymap", importlib.metadata.version("steadymap"))
    for needed in requirements():
        yield from look(Probe(needed.name, partial(_package, needed), True, _get(needed)))


def _package(needed: Requirement) -> Iterator[Fact]:
    lacking = what_lacks(needed)
    if lacking is None:
        yield Fact(needed.name, importlib.metadata.version(needed.name))
    else:
        yield Fact(needed.name, lacking, "failed", _get(needed))


def what_lacks(needed: Requirement) -> str | None:
    """Return why a requirement is not met; None where it is. Nothing is imported."""
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(version, prereleases=True):
        return None
    return f"{needed.name} {version} is installed, needed is {needed.specifier}"


def _get(needed: Requirement) -> str:
    return f"pip install '{needed.name}{needed.specifier}'"


def probe_builds() -> Iterator[Fact]:
    """Yield what torch and torchvision were built for, and whether they run together."""
    import torch

    build = torch_build(torch.version.cuda, getattr(torch.version, "hip", None))
    yield Fact("torch's build", f"{torch.__version__}, for {build}")
    import torchvision

    vision_build = torchvision_build(torchvision.__version__)
    if vision_build is not None and not same_build(build, vision_build):
        value = f"{torchvision.__version__}, for {vision_build}: torch is for {build}"
        yield Fact("torchvision's build", value, "failed", TOGETHER)
    else:
        value = f"{torchvision.__version__}, for {vision_build or 'no known device'}"
        yield Fact("torchvision's build", value)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    if kept == [0, 2]:
        yield Fact("torchvision::nms", "can be called, keeps boxes 0 and 2 of three")
    else:
        value = f"keeps boxes {kept} of three, not 0 and 2"
        yield Fact("torchvision::nms", value, "failed", TOGETHER)


def torch_build(cuda: str | None, rocm: str | None) -> str:
    """Return what torch was built for: CPU, CUDA 13.2, ROCm 6.4."""
    return f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU"


def torchvision_build(version: str) -> str | None:
    """Return what torchvision was built for, by its version's label or what it says itself.

    None where it says nothing.
    """
    label = version.partition("+")[2]
    if label == "cpu":
        return "CPU"
    if cuda := re.fullmatch(r"cu(\d+)(\d)", label):
        return f"CUDA {cuda[1]}.{cuda[2]}"
    if label.startswith("rocm"):
        return f"ROCm {label.removeprefix('rocm')}"
    import torch

    number = int(torch.ops.torchvision._cuda_version())  # noqa: SLF001 - it is what torchvision's own check asks
    # 13020 is 13.2; without CUDA it is -1, with ROCm, too.
    return f"CUDA {number // 1000}.{number % 1000 // 10}" if number > 0 else None


def same_build(build: str, other: str) -> bool:
    """Return whether both are for the same kind of device, and the same first number of it.

    torch and torchvision run together across CUDA 13.0 and 13.2, not across 12 and 13.
    """
    return build.partition(".")[0] == other.partition(".")[0]


# --- extras and plug-ins --------------------------------------------------------------------------


def probe_extras() -> Iterator[Fact]:
    """Yield of each extra whether it is installed."""
    names = importlib.metadata.metadata("steadymap").get_all("Provides-Extra") or []
    for extra in names:
        advice = f"pip install 'steadymap[{extra}]'"
        yield from look(Probe(extra, partial(_extra, extra, advice), False, advice))


def _extra(extra: str, advice: str) -> Iterator[Fact]:
    names = [needed.name for needed in requirements(extra)]
    lacking = [reason for needed in requirements(extra) if (reason := what_lacks(needed))]
    if lacking:
        yield Fact(extra, "; ".join(lacking), "missing", advice)
    else:
        versions = (f"{name} {importlib.metadata.version(name)}" for name in names)
        yield Fact(extra, ", ".join(versions))


def probe_plugins() -> Iterator[Fact]:
    """Yield of each plug-in where it comes from, or why it cannot be had."""
    from steadymap.bench.core.metric_registry import METRIC_SHELF
    from steadymap.bench.core.plugins import GROUPS, offers
    from steadymap.bench.methods.binding import METHOD_SHELF
    from steadymap.bench.network.model_shelf import MODEL_SHELF
    from steadymap.bench.perturbations.registry import FAMILY_SHELF

    for group in GROUPS.values():
        importlib.metadata.entry_points(group=group)  # `offers` would take damage for no plug-ins
    shelves: tuple[Shelf[Any], ...] = (METHOD_SHELF, FAMILY_SHELF, METRIC_SHELF, MODEL_SHELF)
    plugged = [(shelf, name) for shelf in shelves for name in offers(shelf.kind)]
    for shelf, name in plugged:
        label = f"{shelf.kind} {name}"
        advice = "it is left out: upgrade or uninstall its distribution, or tell its authors"
        yield from look(Probe(label, partial(_plugin, shelf, name, label), False, advice))
    if not plugged:
        yield Fact("plug-ins", "none installed")


def _plugin(shelf: Shelf[Any], name: str, label: str) -> Iterator[Fact]:
    if name in shelf.ours:
        from steadymap.bench.core.errors import PluginError
        from steadymap.bench.core.plugins import offers

        places = " and ".join(entry.value for entry in offers(shelf.kind)[name])
        raise PluginError(f"{places}: the name is steadymap's own")
    shelf.find(name)
    where = shelf.where(name)
    yield Fact(label, f"{where.source} ({where.place})" if where else "loaded")
