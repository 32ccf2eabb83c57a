"""What unpickles, evaluates, starts programs or trusts text is called in known places alone."""

from __future__ import annotations

import ast
from collections import Counter

from support import ROOT

# Modules that run what a file or a text holds; whoever needs one says why below.
MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve",
    "jsonpickle", "subprocess", "runpy", "code", "pty", "xmlrpc", "multiprocessing", "ctypes",
    "ftplib", "builtins",
}  # fmt: skip
# By the name that is called, whatever stands before it.
CALLS = {
    "import_module", "exec_module", "load_module",
    "system", "popen", "spawn", "Popen", "check_output", "check_call", "run_path",
    "read_pickle", "to_pickle", "unsafe_load", "full_load", "load_all", "load_state_dict_from_url",
    "get_state_dict", "from_pretrained", "load_dataset", "snapshot_download", "hf_hub_download",
    "urlopen", "urlretrieve", "Markup", "extractall", "unpack_archive", "jit_load", "loads", "load",
    "fromfile", "memmap", "genfromtxt", "HDFStore", "read_hdf", "read_sql", "dataset_download",
}  # fmt: skip
# A network has an `eval` of its own; these have nothing before them.
BUILTINS = {"eval", "exec", "compile", "__import__", "globals", "setattr", "breakpoint"}
# Functions that only share a name with what is dangerous.
PLAIN = {"json.loads": "JSON holds values", "platform.system": "the name of the system"}

# (file, what): how often, and why it may.
ALLOWED: dict[tuple[str, str], tuple[int, str]] = {
    ("bench/__init__.py", "importlib.import_module"): (1, "our own modules, by a literal table"),
    ("bench/front/__init__.py", "import_module"): (2, "our own modules, by a literal table"),
    ("bench/methods/gradient.py", "importlib.import_module"): (1, "captum.attr, a literal"),
    ("bench/methods/occlusion.py", "importlib.import_module"): (2, "captum.attr, a literal"),
    ("bench/doctor/devices.py", "subprocess"): (1, "nvidia-smi, with fixed arguments"),
    ("bench/commands/app.py", "importlib.import_module"): (1, "our own commands, literals"),
    ("bench/commands/export.py", "importlib.import_module"): (3, "mlflow and its store, literals"),
    ("bench/core/safe_yaml.py", "yaml.load"): (1, "with a subclass of the safe loader"),
    ("bench/runs/processes.py", "joblib"): (1, "our own processes, with our own arguments"),
    ("bench/core/machine.py", "ctypes"): (1, "mallopt of the C library"),
    ("bench/data/opening.py", "importlib.import_module"): (1, "kagglehub, a literal"),
    ("bench/data/opening.py", "kagglehub.dataset_download"): (1, "pictures that the user named"),
    ("bench/perturbations/imagenet_c.py", "importlib.import_module"): (1, "imagecorruptions"),
    ("bench/data/hub.py", "importlib.import_module"): (1, "datasets, a literal"),
    ("bench/data/torchvision_sets.py", "importlib.import_module"): (1, "torchvision, a literal"),
    ("bench/data/hub.py", "datasets.load_dataset"): (1, "pictures that the user named"),
    ("bench/core/on_demand.py", "importlib.import_module"): (1, "our own modules, literals"),
    ("bench/core/on_demand.py", "function.load"): (1, "one of these"),
    ("bench/core/machine.py", "subprocess"): (1, "git, with fixed arguments"),
    ("bench/core/plugins.py", "entry.load"): (1, "an installed plug-in that the user named"),
    ("bench/core/plugins.py", "importlib.import_module"): (1, "a module that the user named"),
    ("bench/report/page.py", "Markup"): (2, "our own script; sections, whose partials escape"),
    ("bench/report/grid.py", "Markup"): (1, "figures, with every text escaped"),
    ("bench/measure/runner.py", "joblib"): (1, "threads of our own process"),
    ("bench/methods/superpixels.py", "importlib.import_module"): (1, "skimage, a literal"),
    ("bench/measure/cold_start.py", "multiprocessing"): (1, "our own process, our own arguments"),
    ("bench/measure/agreement.py", "course.load"): (2, "a classifier by its name"),
    ("bench/measure/cold_start.py", "course.load"): (1, "a classifier by its name"),
    ("bench/measure/timing.py", "course.load"): (1, "a classifier by its name"),
    ("bench/commands/time.py", "course.load"): (1, "a classifier by its name"),
    ("bench/runs/interrupts.py", "multiprocessing"): (1, "to end our own processes"),
    ("metrics/__init__.py", "importlib.import_module"): (1, "our own modules, by a literal table"),
    ("metrics/registry.py", "importlib.import_module"): (1, "our own modules, by a literal table"),
    ("models/__init__.py", "importlib.import_module"): (1, "our own modules, by a literal table"),
    ("models/loading.py", "importlib.import_module"): (1, "a module that the user named"),
    ("models/registry.py", "importlib.import_module"): (1, "our own module, a literal"),
    ("models/pretrained.py", "importlib.import_module"): (3, "packages of extras, literals"),
    ("models/pretrained.py", "choice.get_state_dict"): (1, "with weights_only=True"),
    ("models/pretrained.py", "from_pretrained"): (2, "no remote code, safetensors alone"),
    ("models/pretrained.py", "hub.hf_hub_download"): (1, "a file of safetensors or JSON"),
    ("models/pretrained.py", "hub.snapshot_download"): (1, "JSON and safetensors alone"),
    ("models/pretrained.py", "urllib.request.urlopen"): (1, "whether the hub answers"),
    ("models/weights.py", "torch.load"): (1, "with weights_only=True"),
}  # fmt: skip


def spelled(function: ast.expr) -> str:
    """Return how a function is written: `torch.load`, `entry.load`, `eval`."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        return f"{spelled(function.value)}.{function.attr}"
    return "..."


def found(source: str) -> Counter[str]:
    """Return what a module calls and imports of all that."""
    names: Counter[str] = Counter()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(one.name for one in node.names if one.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in MODULES:
                names[str(node.module)] += 1
            names.update(one.name for one in node.names if one.name in CALLS - {"Markup", "load"})
        elif isinstance(node, ast.Call):
            name = spelled(node.func)
            called = name.rpartition(".")[2] in CALLS and name not in PLAIN
            if called or name in BUILTINS:
                names[_short(name)] += 1
            for word in node.keywords:
                trusts = word.arg in ("allow_pickle", "trust_remote_code", "shell", "weights_only")
                safe = word.arg == "weights_only"
                if trusts and getattr(word.value, "value", None) is not safe:
                    names[f"{word.arg}"] += 1
    return names


def _short(name: str) -> str:
    return "from_pretrained" if name.endswith(".from_pretrained") else name


def test_nothing_runs_what_a_file_holds() -> None:
    seen: dict[tuple[str, str], int] = {}
    for folder in ("bench", "metrics", "models"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            counts = found(path.read_text(encoding="utf-8"))
            seen |= {(name, what): count for what, count in counts.items()}
    assert seen == {key: count for key, (count, _) in ALLOWED.items()}


def test_the_look_out_sees_what_it_should() -> None:
    for line, what in {
        "import pickle": "pickle",
        "from pickle import loads as x": "pickle",
        "import torch\ntorch.load('x')": "torch.load",
        "np.load('x', allow_pickle=True)": "allow_pickle",
        "pd.read_pickle('x')": "pd.read_pickle",
        "yaml.load(text, yaml.Loader)": "yaml.load",
        "eval('1')": "eval",
        "exec('1')": "exec",
        "joblib.load('x')": "joblib.load",
        "f(weights_only=False)": "weights_only",
        "f(trust_remote_code=True)": "trust_remote_code",
        "f(shell=True)": "shell",
        "from importlib import import_module": "import_module",
        "torch.hub.load('a', 'b')": "torch.hub.load",
    }.items():
        assert what in found(line), line
    assert not found(
        "import json\njson.loads('1')\nre.compile('a')\nnetwork.cpu().eval()\nf(weights_only=True)"
    )
