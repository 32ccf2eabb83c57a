"""Files of weights: tensors are read, nothing in them runs, and broken ones are one line."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from support import CLASSES, conv_network, seeded
from torch import Tensor, nn

from steadymap.models import MODELS, ModelError, load_classifier, read_weights, write_weights
from steadymap.models.weights import TORCH_SUFFIXES, Weights, fit_weights

MARKER = "ran"


class Trap:
    """Calls something when it is unpickled."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = call
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call, self.arguments


def traps(folder: Path) -> tuple[Trap, ...]:
    """Return what writes a file when it is unpickled: by a method, by a shell, by Python."""
    marker = folder / MARKER
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    return Trap(Path.touch, marker), Trap(os.system, f"touch {marker}"), Trap(eval, code)


FORMS: dict[str, Callable[[object, Path], object]] = {
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "zip": torch.save,
    "legacy": partial(torch.save, _use_new_zipfile_serialization=False),
}
HIDING: dict[str, Callable[[object], object]] = {
    "whole": lambda evil: evil,
    "beside tensors": lambda evil: {"a": torch.zeros(2), "b": evil},
    "as a name": lambda evil: {evil: torch.zeros(2)},
    "state_dict": lambda evil: {"state_dict": {"a": torch.zeros(2), "b": evil}},
    "nested twice": lambda evil: {"state_dict": {"state_dict": {"a": evil}}},
    "beside the state": lambda evil: {"state_dict": {"a": torch.zeros(2)}, "hook": evil},
    "ordered": lambda evil: OrderedDict([("a", torch.zeros(2)), ("b", [evil])]),
    "a parameter": lambda evil: {"a": nn.Parameter(torch.zeros(2)), "b": (evil,)},
}


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", TORCH_SUFFIXES)
def test_code_is_refused_and_not_run(tmp_path: Path, suffix: str, form: str, hiding: str) -> None:
    for trap in traps(tmp_path):
        path = tmp_path / f"evil{suffix}"
        FORMS[form](HIDING[hiding](trap), path)
        with pytest.raises(ModelError, match=r"is refused .* only tensors are read") as caught:
            read_weights(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(ModelError, match="is refused"):
            load_classifier("compact", path)
    assert not (tmp_path / MARKER).exists()


def test_the_trap_would_have_run(tmp_path: Path) -> None:
    """Or the tests above would show nothing."""
    for trap in traps(tmp_path):
        torch.save({"a": trap}, tmp_path / "evil.pt")
        torch.load(tmp_path / "evil.pt", weights_only=False)
        assert (tmp_path / MARKER).exists()
        (tmp_path / MARKER).unlink()


def test_code_under_the_name_of_safetensors_is_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    torch.save({"a": traps(tmp_path)[0]}, path)
    with pytest.raises(ModelError, match="is not a safetensors file"):
        read_weights(path)
    assert not (tmp_path / MARKER).exists()


def safetensors(header: object, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], ends: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": ends}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": entry([2], [0, 8])}, length=2**63),
        safetensors({"a": entry([2], [0, 8])}, length=2**31),
        safetensors({"a": entry([2], [0, 8])}, length=0),
        safetensors({"a": entry([2], [0, 8])}, length=3),
        b"\xff" * 8,
        b"\0" * 8,
        safetensors({"a": entry([2**62], [0, 64])}),
        safetensors({"a": entry([2**40, 2**40], [0, 64])}),
        safetensors({"a": entry([2**62, 0], [0, 64])}),
        safetensors({"a": entry([-4], [0, 64])}),
        safetensors({"a": entry([16], [0, 2**60])}),
        safetensors({"a": entry([8], [0, 32]), "b": entry([12], [16, 64])}),
        safetensors({"a": entry([16], [0, 64]), "b": entry([16], [0, 64])}),
        safetensors({"a": entry([8], [32, 64])}),
        safetensors({"a": entry([16], [64, 0])}),
        safetensors({"a": entry([16], [0, 64], "F999")}),
        safetensors({"a": {"shape": [16]}}),
        safetensors([1, 2]),
        safetensors(b"[" * 100_000),
        safetensors(b'{"a": ' * 100_000),
        safetensors(b'{"a":1,"a":2}'),
        safetensors({"__metadata__": {"a": 1}, "a": entry([16], [0, 64])}),
        safetensors({"a": entry([16], [0, 64])}, b"\0" * 63),
        safetensors({"a": entry([16], [0, 64])}, b"\0" * 65),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.safetensors is not a safetensors file") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", ["[" * 100_000, '["\\ud800"]', "{}", "[1]", "null", "x\ny"])
def test_class_names_are_a_list_of_texts(tmp_path: Path, names: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"class_names": names}))
    with pytest.raises(ModelError, match="class_names is no list of names") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    """torch would unpack it: 64 MB out of 64 kB, and as easily a terabyte."""
    torch.save({"a": torch.zeros(2**24)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for info in plain.infolist():
            bomb.writestr(info.filename, plain.read(info))
    assert read_weights(tmp_path / "plain.pt").tensors["a"].shape == (2**24,)
    with pytest.raises(ModelError, match="it unpacks to 67,1"):
        read_weights(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.zeros(2)},
        {"state_dict": [torch.zeros(2)]},
        {"state_dict": {"state_dict": {"a": torch.zeros(2)}}},
        [torch.zeros(2)],
        torch.zeros(2),
    ],
)
def test_only_names_with_tensors_are_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, dtype=torch.complex64),
        torch.eye(3)[0].to_sparse(),
        torch.empty(3, device="meta"),
    ],
)
def test_other_kinds_of_tensors_do_not_fit(tensor: Tensor) -> None:
    network = nn.BatchNorm1d(3, track_running_stats=False)
    with pytest.raises(ModelError, match="weight is not a dense tensor of real numbers"):
        fit_weights(network, Weights({"weight": tensor, "bias": torch.zeros(3)}), "w.pt")


def test_a_name_in_a_file_stays_on_the_line(tmp_path: Path) -> None:
    network = seeded(conv_network)
    odd = {"a\nb\x1b[31m" + "c" * 10_000: torch.zeros(1)}
    torch.save(network.state_dict() | odd, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="unexpected a b ") as caught:
        fit_weights(network, read_weights(tmp_path / "w.pt"), "w.pt")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_weights_in_torch_hubs_cache_are_tensors_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision itself would unpickle whatever lies there under the name of its file."""
    models = pytest.importorskip("torchvision").models
    choice = models.get_model_weights("squeezenet1_1").DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({"a": traps(tmp_path)[0]}, cache / Path(choice.url).name)
    with pytest.raises(ModelError, match=r"squeezenet1_1.* is refused"):
        load_classifier("torchvision:squeezenet1_1@DEFAULT")
    assert not (tmp_path / MARKER).exists()
    network = models.get_model("squeezenet1_1", weights=None)
    torch.save(network.state_dict(), cache / Path(choice.url).name)
    loaded = load_classifier("torchvision:squeezenet1_1@DEFAULT").module.network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
def test_a_folder_of_the_hub_is_read_from_safetensors_alone(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "resnet", "architectures": ["ResNetForImageClassification"]})
    )
    torch.save({"a": traps(tmp_path)[0]}, folder / "pytorch_model.bin")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ConvNextImageProcessor"})
    )
    with pytest.raises(ModelError, match="holds no image classifier") as caught:
        load_classifier(f"hf:{folder}")
    assert "safetensors" in str(caught.value)
    assert not (tmp_path / MARKER).exists()


def test_code_beside_a_models_configuration_does_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "saved"
    folder.mkdir()
    trap = f"from pathlib import Path\nPath({str(tmp_path / MARKER)!r}).touch()\n"
    (folder / "trap.py").write_text(trap)
    own = {"AutoConfig": "trap.A", "AutoModelForImageClassification": "trap.B"}
    (folder / "config.json").write_text(json.dumps({"model_type": "trap", "auto_map": own}))
    with pytest.raises(ModelError, match="holds no image classifier"):
        load_classifier(f"hf:{folder}")
    assert not (tmp_path / MARKER).exists()
    assert "trap" not in sys.modules


def test_weights_come_back(tmp_path: Path) -> None:
    network = seeded(conv_network)
    state = network.state_dict()
    write_weights(tmp_path / "w.safetensors", network, CLASSES)
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.safetensors").class_names == CLASSES
    for name in ("w.safetensors", "w.pt"):
        weights, fresh = read_weights(tmp_path / name), conv_network()
        fit_weights(fresh, weights, name)
        assert set(weights.tensors) == set(state)
        for tensors in (weights.tensors, fresh.state_dict()):
            assert all(torch.equal(tensors[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.safetensors", b"", "is not a safetensors file"),
        ("w.safetensors", b"x" * 100, "is not a safetensors file"),
        ("w.pt", b"", "is refused"),
        ("w.onnx", b"", "none of the known suffixes"),
        ("w.pt", b"just some text", "is refused"),
        ("w.safetensors", save({}, metadata={"class_names": "5"}), "is no list of names: '5'"),
        ("w.safetensors", save({}, metadata={"class_names": '"ab"'}), "is no list of names"),
    ],
)
def test_a_file_that_holds_no_weights(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_weights(tmp_path / name)


def test_weights_that_do_not_fit_name_the_tensors(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", conv_network(), CLASSES)
    with pytest.raises(ModelError) as caught:
        load_classifier("compact", tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "w.safetensors does not fit HandNetwork: missing network.0.weight" in text
    assert "\n" not in text
    wide = MODELS["compact"].build(3)
    first = wide.get_submodule("network.0")
    first.weight = nn.Parameter(torch.zeros(13, 3, 3, 3))
    write_weights(tmp_path / "wide.safetensors", wide, ("paper", "rock", "scissors"))
    with pytest.raises(ModelError, match=re.escape("network.0.weight is (13, 3, 3, 3), the ne")):
        load_classifier("compact", tmp_path / "wide.safetensors")
