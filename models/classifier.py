"""The classifier contract: images in [0, 1] in, logits out, nothing random, nothing trainable."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self
from weakref import WeakKeyDictionary

import torch

from steadymap.models.errors import ModelError
from steadymap.models.held import digest_into, freeze, has_gradient, of_fixed_mode, plain_tensors
from steadymap.models.layers import CamLayer, last_plane, outputs_of
from steadymap.models.randomising import initialise, see_difference, settle_norms, strangers

PROBE_SEED = 20
PROBE_IMAGES = 2
LEAST_CLASSES = 2

# Logits of an image alone and in a batch may differ by rounding, relative to the largest.
BATCH_TOLERANCE = 1e-3

# Layers that have been asked for beside a network's own, as they have been looked at.
_READ: WeakKeyDictionary[torch.nn.Module, dict[str, CamLayer]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Framing:
    """How a picture of any size becomes the network's input size.

    Attributes:
        size: height and width of the network's input, in pixels.
        short_side: None squashes the picture to `size`, whatever its aspect; a number resizes the
            shorter side to it and cuts `size` out of the centre, as torchvision's presets do.
        interpolation: the resampling filter; both are antialiased when shrinking.
    """

    size: tuple[int, int]
    short_side: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation, in image units, applied inside the classifier."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class PixelNetwork(torch.nn.Module):
    """A network that takes images in [0, 1]: `network((images - shift - mean) / std)`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, network: torch.nn.Module, normalization: Normalization, shift: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.normalization = normalization
        self.shift = shift
        self.channels_last = True
        like = next(network.parameters(), torch.zeros(()))
        self.register_buffer("mean", like.new_tensor(normalization.mean).view(1, 3, 1, 1))
        self.register_buffer("std", like.new_tensor(normalization.std).view(1, 3, 1, 1))
        # Of itself alone: not every network can be told.
        self.training = network.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, K)."""
        if not self.channels_last:
            images = images.contiguous()
        if self.shift:
            images = images - self.shift
        if self.normalization != Normalization():
            images = (images - self.mean) / self.std
        logits: torch.Tensor = self.network(images)
        return logits

    def around(self, network: torch.nn.Module, further: float = 0.0) -> PixelNetwork:
        """Return the same around a network that takes the place of this one, shifted further."""
        other = PixelNetwork(network, self.normalization, self.shift + further)
        other.mean, other.std, other.channels_last = self.mean, self.std, self.channels_last
        return other

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Take along tensors that modules hold as plain attributes, which torch leaves behind."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch's own
        for part, path, tensor in list(plain_tensors(self.network)):
            vars(part)[path.rpartition(".")[2]] = fn(tensor)
        return self


@dataclass(frozen=True)
class Classifier:
    """A frozen network in eval mode with all that the benchmark needs to know about it.

    Make one with `make_classifier`, which checks what is promised here.

    Attributes:
        name: what records and tables call it.
        module: takes images (B, 3, H, W) in [0, 1], normalises inside, returns logits (B, K).
        framing: input size and how pictures are brought to it.
        class_names: K names; the index is the class.
        cam: the layer that Grad-CAM reads, its path below the user's network; None where nobody
            knows one.
        bounds: the smallest and largest value a pixel of a real picture has.
        differentiable: whether logits have a gradient; those of a quantised network have none.
    """

    name: str
    module: PixelNetwork
    framing: Framing
    class_names: tuple[str, ...]
    cam: CamLayer | None
    bounds: tuple[float, float] = (0.0, 1.0)
    differentiable: bool = True

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K) of images (B, 3, H, W)."""
        logits: torch.Tensor = self.module(images)
        return logits

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return self.framing.size

    @property
    def cam_layer(self) -> str | None:
        """What records call the layer that Grad-CAM reads; None where there is none."""
        return None if self.cam is None else str(self.cam)

    def need_cam(self) -> CamLayer:
        """Return the layer that Grad-CAM reads.

        Raises:
            ModelError: nobody knows one.
        """
        if self.cam is None:
            raise ModelError(
                f"{self.name} has no convolution with a spatial output before tokens are made"
            )
        return self.cam

    @property
    def cam_module(self) -> torch.nn.Module:
        """The module that puts out what Grad-CAM reads.

        Raises:
            ModelError: nobody knows one.
        """
        return self.module.network.get_submodule(self.need_cam().path)

    def cam_planes(self, output: torch.Tensor) -> torch.Tensor:
        """Return the output of that layer, or a gradient of its shape, as planes (B, C, h, w)."""
        height, width = self.input_size
        return self.need_cam().planes(output, height / width)

    def reading(self, path: str | None) -> Classifier:
        """Return this classifier with another layer for Grad-CAM.

        Args:
            path: dotted name of a module below the user's network, whose output is read as it is;
                None leaves the layer as it is.

        Raises:
            ModelError: there is no such module, or it puts out no planes.
        """
        if path is None:
            return self
        known = _READ.setdefault(self.module.network, {})
        if path not in known:
            known[path] = _looked_at(self.module, CamLayer(path), self.input_size)
        return replace(self, cam=known[path])

    def shifted(self, shift: float) -> Classifier:
        """Return the classifier g(x) = f(x - shift), sharing this one's weights.

        On images moved by `shift` it computes what this one computes on the images themselves.
        """
        return replace(self, module=self.module.around(self.module.network, shift))

    def replica(self) -> Classifier:
        """Return a copy with the same weights in memory, for another thread.

        Hooks hang on modules: threads that explain at the same time need modules of their own.

        Raises:
            ModelError: the network cannot be copied.
        """
        plain = (tensor for _, _, tensor in plain_tensors(self.module))
        tensors = [*self.module.parameters(), *self.module.buffers(), *plain]
        return self._copied({id(tensor): tensor for tensor in tensors})

    def copy(self) -> Classifier:
        """Return a copy with weights of its own, for another thread where any may be written to.

        Raises:
            ModelError: the network cannot be copied.
        """
        return self._copied({})

    def _copied(self, shared: dict[int, torch.Tensor]) -> Classifier:
        """Return a copy that has these tensors, by their ids, in common with this one."""
        try:
            module = copy.deepcopy(self.module, shared)
        except Exception as error:  # a module may hold anything; the line below says what failed
            raise ModelError(
                f"{self.name} cannot be copied for a second worker ({error}); use --jobs 1"
            ) from error
        return replace(self, module=module)

    def randomised(self, seed: int) -> Classifier:
        """Return a classifier of the same architecture with weights that know nothing.

        Layers that can (`reset_parameters`) initialise themselves anew; parameters of layers that
        cannot are shuffled, each within itself. This classifier is left alone. Source: Adebayo et
        al. 2018, section 3.1 (all layers at once).

        Raises:
            ModelError: the network cannot be copied, or not initialised, or its logits do not
                depend on its parameters.
        """
        device = self.module.mean.device
        try:
            module = copy.deepcopy(self.module).cpu()
            trained = _logits(module, self.input_size)
            # On the CPU, so that a seed means the same weights on every device. Layers draw from
            # the global generator, which is put back.
            with torch.random.fork_rng(devices=[]):
                # Not torch.manual_seed, which would seed the GPUs' generators, too.
                torch.default_generator.manual_seed(seed)
                initialise(module.network)
                settle_norms(module.network, self.input_size)
            see_difference(trained, _logits(module, self.input_size))
        except Exception as error:  # a module may hold anything; the line below says what failed
            raise ModelError(
                f"{self.name}: no copy with randomised weights can be made ({error}); "
                "use --nulls 0, and scores stay uncalibrated"
            ) from error
        return replace(self, module=module.to(device))

    def to(self, device: torch.device, dtype: torch.dtype) -> Classifier:
        """Return a copy on another device, or of another type.

        Raises:
            ModelError: the network cannot be copied.
        """
        try:
            module = copy.deepcopy(self.module).to(device, dtype)
        except Exception as error:  # as above
            raise ModelError(f"{self.name} cannot be copied to {device} ({error})") from error
        return replace(self, module=module)

    def weights_hash(self) -> str:
        """SHA-256 over names, shapes, types and bytes of all tensors that the network holds.

        Those that a module makes of its others when it runs are left out.
        """
        network = self.module.network
        digest = hashlib.sha256()
        for name, value in sorted(network.state_dict().items()):
            digest_into(digest, name, value)
        for part, name, tensor in plain_tensors(network):
            if not part._forward_pre_hooks:  # noqa: SLF001 - what an old `weight_norm` works with
                digest_into(digest, name, tensor)
        return digest.hexdigest()


def make_classifier(
    network: torch.nn.Module,
    input_size: tuple[int, int] | Framing,
    class_names: tuple[str, ...] | None = None,
    normalization: Normalization | None = None,
    cam_layer: str | CamLayer | None = None,
) -> Classifier:
    """Freeze a network and check that it can be explained.

    The network is put in eval mode and its parameters stop requiring gradients; its values are
    left as they are. It is then probed with two random images.

    Args:
        network: maps images (B, 3, H, W), normalised as `normalization` says, to logits (B, K).
        input_size: (height, width) of the input in pixels, or a full `Framing`.
        class_names: K names; "0", "1", ... where left out.
        normalization: mean and standard deviation; left out, the network takes images in [0, 1].
        cam_layer: dotted name of the layer for Grad-CAM, or a `CamLayer` where its output is no
            plane yet; left out, the last feature map behind its activation (`last_plane`).

    Raises:
        ModelError: the network cannot be put in eval mode, fails on its input size, returns
            something other than finite logits (B, K), or is not deterministic.
    """
    name = type(network).__name__
    size = input_size.size if isinstance(input_size, Framing) else input_size
    # Looked at as an object: a caller without type hints may give anything.
    sides: object = size
    if not (
        isinstance(sides, tuple)
        and len(sides) == 2  # noqa: PLR2004 - height and width
        and all(isinstance(side, int) and side > 0 for side in sides)
    ):
        raise ModelError(f"{name}: input_size must be (height, width) in pixels, got {size!r}")
    framing = input_size if isinstance(input_size, Framing) else Framing(input_size)
    freeze(network)
    training = [path or name for path, part in network.named_modules() if part.training]
    if training and not of_fixed_mode(network):
        raise ModelError(
            f"{name}: {training[0]} stays in train mode after .eval(); "
            "saliency maps need eval mode, where dropout is off and batch statistics are fixed"
        )
    module = PixelNetwork(network, normalization or Normalization())
    module.training = False
    try:
        # On a CPU convolutions run up to twice as fast with channels last; values stay the same.
        logits = _probe(module.to(memory_format=torch.channels_last), framing.size)
    except ModelError:
        # A `view` may know one order of memory alone.
        module.channels_last = False
        logits = _probe(module.to(memory_format=torch.contiguous_format), framing.size)
    classes = logits.shape[1]
    if classes < LEAST_CLASSES:
        raise ModelError(
            f"{name} returns one logit; the class predicted needs two or more: "
            "for a binary network return torch.cat([-logit, logit], dim=1)"
        )
    if class_names is None:
        class_names = tuple(str(index) for index in range(classes))
    if len(class_names) != classes:
        raise ModelError(f"{name}: {classes} logits but {len(class_names)} class names")
    cam = CamLayer(cam_layer) if isinstance(cam_layer, str) else cam_layer
    if cam is None:
        cam = last_plane(network, framing.size)
    if cam is not None:
        cam = _looked_at(module, cam, framing.size)
    differentiable = has_gradient(module, _probe_images(module, framing.size)[:1])
    return Classifier(name, module, framing, class_names, cam, differentiable=differentiable)


def _probe_images(module: PixelNetwork, size: tuple[int, int]) -> torch.Tensor:
    """Return random images (B, 3, H, W) in [0, 1], the same each time."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    images = torch.rand(PROBE_IMAGES, 3, *size, generator=generator)
    return images.to(module.mean.device, module.mean.dtype)


def _logits(module: PixelNetwork, size: tuple[int, int]) -> torch.Tensor | None:
    """Return the logits of the images that a network is tried on; None where it refuses them."""
    try:
        with torch.no_grad():
            logits: torch.Tensor = module(_probe_images(module, size))
    except Exception:  # noqa: BLE001 - a network may raise anything; what a run shows it says what
        return None
    return logits


def _probe(module: PixelNetwork, size: tuple[int, int]) -> torch.Tensor:
    """Run the network on two images, twice together and once alone; return its checked logits."""
    name = type(module.network).__name__
    images = _probe_images(module, size)
    first: torch.Tensor
    written = images._version  # noqa: SLF001 - torch counts what is written into a tensor
    # A forward that draws random numbers must not move the caller's global state.
    with torch.random.fork_rng(), torch.no_grad(), strangers(module) as outside:
        try:
            first, second, alone = module(images), module(images), module(images[:1])
        except Exception as error:  # a network may raise anything; the line below says where
            hint = "; export it with dynamic_shapes" if of_fixed_mode(module.network) else ""
            raise ModelError(
                f"{name} fails on images of {size[0]} x {size[1]} pixels: {error}{hint}"
            ) from error
    _see_logits(name, first)
    if images._version != written:  # noqa: SLF001 - as above
        raise ModelError(
            f"{name} changes its input in place: whatever sees the image after it would see "
            "another; let its forward begin with what makes a new tensor, x = x - m for x.sub_(m), "
            "ReLU() for ReLU(inplace=True)"
        )
    if outside:
        raise ModelError(
            f"{name}: {type(outside[0]).__name__} runs in its forward and is none of its modules, "
            "so that its weights are not in parameters() and can be neither hashed nor randomised: "
            "hold it in torch.nn.ModuleList or ModuleDict, not in a plain list or dict, or name it "
            "with register_module"
        )
    if not torch.equal(first, second):
        raise ModelError(
            f"{name} is not deterministic: the same images gave different logits in eval mode; "
            "look for functional dropout without training=self.training, or added noise"
        )
    if (alone - first[:1]).abs().max() > BATCH_TOLERANCE * first.abs().max():
        raise ModelError(
            f"{name} depends on the rest of the batch: an image alone gave other logits; "
            "look for batch statistics, such as BatchNorm2d(track_running_stats=False), or "
            "activations quantised by the range that a batch has"
        )
    return first


def _looked_at(module: PixelNetwork, layer: CamLayer, size: tuple[int, int]) -> CamLayer:
    """Return a layer with the smallest value that it puts out on random images.

    Raises:
        ModelError: there is no such layer, or it puts out no planes.
    """
    name, network = type(module.network).__name__, module.network
    if layer.path not in dict(network.named_modules()):
        raise ModelError(f"{name}: no layer is called {layer.path!r}; see network.named_modules()")
    with outputs_of(network, layer) as seen, torch.random.fork_rng(), torch.no_grad():
        module(_probe_images(module, size))
    if not seen or not _is_plane(layer, seen[-1], size):
        shape = {
            "channels_first": "(batch, channels, height, width) above 1 x 1",
            "channels_last": "(batch, height, width, channels) above 1 x 1",
            "tokens": "(batch, tokens, channels) with a grid of patches above 1 x 1",
        }
        raise ModelError(
            f"{name}: layer {layer.path!r} has no output of shape {shape[layer.layout]}, "
            "which Grad-CAM needs"
        )
    return replace(layer, lowest=float(seen[-1].min()))


def _see_logits(name: str, logits: object) -> None:
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != PROBE_IMAGES:  # noqa: PLR2004 - (B, K)
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"{name} must return logits of shape (batch, classes); it returns {got}")
    if not torch.isfinite(logits).all():
        raise ModelError(f"{name} returns logits that are not finite on images in [0, 1]")


def _is_plane(layer: CamLayer, output: object, size: tuple[int, int]) -> bool:
    if not isinstance(output, torch.Tensor):
        return False
    try:
        shape = layer.planes(output, size[0] / size[1]).shape
    except ValueError:
        return False
    return min(shape[2:]) > 1
