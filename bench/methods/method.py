"""What a method is: its function, what it promises and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from steadymap.bench.core.origin import is_ours
from steadymap.bench.methods.baselines import BASELINES, BaselineName, Start

if TYPE_CHECKING:
    from torch import Tensor

    from steadymap.bench.methods.batch import Batch
    from steadymap.bench.methods.paths import NestedPath
    from steadymap.bench.network.passes import Pass, Read
    from steadymap.models import Classifier

Engine = Literal["own", "captum"]
# In which order pixels matter by a map: the highest values first, or the largest magnitudes.
Order = Literal["signed", "magnitude"]

# What a method promises, and `steadymap check` holds it to:
#   complete         attributions add up to the logit at the image minus the logit at the baseline
#   shift_invariant  an image moved by a constant, to a network that takes it off, has the same map
#   signed           maps have values of either sign; without it none is negative
#   stochastic       it draws: another seed gives another map, and so does another view
#   needs_baseline   there is a parameter `baseline`; where image and baseline agree the map is 0
Capability = Literal["complete", "shift_invariant", "signed", "stochastic", "needs_baseline"]
Parameters = Mapping[str, object]


def one_baseline(parameters: Parameters) -> Start:
    """Return where a method starts that has a parameter `baseline`, and takes it as it is."""
    return Start(cast("BaselineName", parameters["baseline"]))


def _baseline_of_data(parameters: Parameters) -> bool:
    """Return whether the baseline, where there is one, is made of images of the data set."""
    baseline = BASELINES.get(str(parameters.get("baseline")))
    return baseline is not None and baseline.of_data


@dataclass(frozen=True)
class Share:
    """How a method takes part in the one pass that a run makes of each view.

    Attributes:
        reads: what of the pass it needs.
        read: takes the pass, and the method's keyword-only parameters; returns what `explain`
            would.
    """

    reads: Read
    read: Callable[..., Tensor]


@dataclass(frozen=True)
class Method:
    """A saliency method, or a control.

    Attributes:
        explain: takes the classifier and a batch, and keyword-only parameters; returns signed
            attributions (B, C, h, w) at the method's own resolution, detached.
        summary: one line for `steadymap list`.
        source: the paper.
        capabilities: from the parameters, what the method promises; None promises nothing, and
            `steadymap check` then leaves out the checks of promises.
        control: whether it is there to be beaten: it ignores the network or the image.
        on_linear: on a network that is linear, with weights (B, 3, H, W) of each target, the map
            that must come out, or None where the parameters leave it open; gets those of the
            method's parameters that it has as keyword-only ones; not needed where the method is
            complete.
        degree: the power of the logits' scale that maps have: 1, 2 for squares, None for none.
        inapplicable: says why a classifier cannot be explained with it, or None.
        captum: the same through captum, with the same parameters, where `explain` is our own.
        captum_inapplicable: says what captum cannot do that `explain` can, or None.
        share: where one forward and one backward pass of the image itself, which other methods
            may use too, is all it takes.
        passes: from the parameters, how many times one image goes forward and backward for one
            map; once, where `share` is given.
        forward_only: from the parameters and the image's height and width, how many times beside
            that one image goes forward, and not back.
        start: from the parameters of a complete method, where its maps start.
        needs_references: from the parameters, whether it takes images of the data set.
        exempt: checks that cannot hold, by the nature of the method, each with the reason.
        layered: whether its parameter `layer`, where it is not None, names the module that it reads
            in place of the classifier's own layer for Grad-CAM.
        nested: where `steps` may be `auto`, the path that can be doubled further; called as
            `explain` is, without `steps`.
        order: in which order pixels matter by its maps: signed where a value says how much the
            pixel speaks for the class, magnitude where it says how much the logit hangs on it;
            None where nobody says.
    """

    explain: Callable[..., Tensor]
    summary: str
    source: str
    capabilities: Callable[[Parameters], frozenset[Capability]] | None = None
    control: bool = False
    on_linear: Callable[..., Tensor | None] | None = None
    degree: int | None = 1
    inapplicable: Callable[[Classifier], str | None] = lambda _classifier: None
    captum: Callable[..., Tensor] | None = None
    captum_inapplicable: Callable[[Classifier], str | None] = lambda _classifier: None
    share: Share | None = None
    passes: Callable[[Parameters], int] = lambda _parameters: 1
    forward_only: Callable[[Parameters, tuple[int, int]], int] = lambda _parameters, _size: 0
    start: Callable[[Parameters], Start] = one_baseline
    needs_references: Callable[[Parameters], bool] = _baseline_of_data
    exempt: Mapping[str, str] = field(default_factory=dict, hash=False)
    layered: bool = False
    nested: Callable[..., NestedPath] | None = None
    order: Order | None = None


@dataclass(frozen=True)
class BoundMethod:
    """A method with its parameters set.

    Attributes:
        spec: its name with every parameter, e.g. `integrated_gradients:baseline=white,steps=32`.
        method: the entry of `METHODS`.
        parameters: values by name.
    """

    spec: str
    method: Method
    parameters: tuple[tuple[str, object], ...]

    def explain(self, classifier: Classifier, batch: Batch, engine: Engine = "own") -> Tensor:
        """Return signed attributions (B, C, h, w)."""
        function = self.method.captum if engine == "captum" else None
        return (function or self.method.explain)(classifier, batch, **dict(self.parameters))

    def unfit(self, classifier: Classifier, engine: Engine = "own") -> str | None:
        """Say why a classifier cannot be explained with it, or return None.

        Raises:
            ModelError: the classifier has no such layer as the method shall read.
        """
        if self._goes_backward and not classifier.differentiable:
            return "the network's logits have no gradient, as those of a quantised one have none"
        if self._layer is not None:
            classifier = classifier.reading(self._layer)
        reason = self.method.inapplicable(classifier)
        if reason is None and engine == "captum" and self.method.captum is not None:
            reason = self.method.captum_inapplicable(classifier)
        return reason

    @property
    def _goes_backward(self) -> bool:
        """Whether the method is known to take gradients; of others' that is not."""
        return self.passes > 0 and not foreign(self.method)

    @property
    def _layer(self) -> str | None:
        """The layer that it shall read in place of the classifier's own."""
        named = dict(self.parameters).get("layer") if self.method.layered else None
        return cast("str | None", named)

    @property
    def share(self) -> Share | None:
        """How it takes part in the one pass of each view; None where it needs passes of its own."""
        return None if self._layer is not None else self.method.share

    def read(self, seen: Pass) -> Tensor:
        """Return signed attributions (B, C, h, w) read off a pass.

        Raises:
            TypeError: the method takes more than that.
        """
        if self.share is None:
            raise TypeError(f"{self.spec} cannot be read off one pass")
        layered = self.method.layered
        values = {k: v for k, v in self.parameters if not (layered and k == "layer")}
        return self.share.read(seen, **values)

    @property
    def control(self) -> bool:
        """Whether it is there to be beaten."""
        return self.method.control

    def can(self, capability: Capability) -> bool:
        """Whether the method promises that."""
        promised = self.method.capabilities
        return promised is not None and capability in promised(dict(self.parameters))

    @property
    def passes(self) -> int:
        """How many times one image goes forward and backward for one map."""
        return self.method.passes(dict(self.parameters))

    def forward_only(self, size: tuple[int, int]) -> int:
        """Return how many times beside that one image of (H, W) pixels goes forward alone."""
        return self.method.forward_only(dict(self.parameters), size)

    @property
    def needs_references(self) -> bool:
        """Whether the method takes images of the data set."""
        return self.method.needs_references(dict(self.parameters))

    @property
    def adaptive(self) -> bool:
        """Whether the method takes as many steps as each image needs."""
        return self.method.nested is not None and dict(self.parameters).get("steps") == "auto"

    def nested(self, classifier: Classifier, batch: Batch) -> NestedPath:
        """Return paths that are settled and can be doubled further.

        Raises:
            TypeError: the method has none.
        """
        if self.method.nested is None:
            raise TypeError(f"{self.spec} has no nested path")
        parameters = {name: value for name, value in self.parameters if name != "steps"}
        return self.method.nested(classifier, batch, **parameters)

    @property
    def start(self) -> Start | None:
        """Where the maps of a complete method start; None of any other."""
        return self.method.start(dict(self.parameters)) if self.can("complete") else None

    @property
    def baseline_name(self) -> BaselineName | None:
        """The key of `BASELINES` of a complete method that has a single one; None of any other."""
        start = self.start
        return start.baseline if start is not None and start.draws == 1 else None


def foreign(method: Method) -> bool:
    """Return whether anything of a method that is given the network is not the package's own.

    Captum's functions are called by ours, which put back what captum changes.
    """
    read = method.share.read if method.share else None
    functions = (method.explain, method.captum, method.nested, read)
    return not all(is_ours(function) for function in functions if function is not None)


# --- what a method is capable of, from its parameters ---------------------------------------------


def always(*capabilities: Capability) -> Callable[[Parameters], frozenset[Capability]]:
    """Return what a method is capable of that promises the same whatever its parameters."""
    return lambda _parameters: frozenset(capabilities)


def complete_from(*extra: Capability) -> Callable[[Parameters], frozenset[Capability]]:
    """Return what a method is capable of that is complete from its baseline, whichever that is."""

    def can(parameters: Parameters) -> frozenset[Capability]:
        baseline = BASELINES[str(parameters["baseline"])]
        promised: set[Capability] = {"complete", "signed", *extra}
        if baseline.drawn:
            promised.add("stochastic")
        if baseline.moves_along:
            promised.add("shift_invariant")
        return frozenset(promised)

    return can


def signed_from(parameters: Parameters) -> frozenset[Capability]:
    """Return what a method is capable of that draws nothing but its baseline."""
    drawn = BASELINES[str(parameters["baseline"])].drawn
    return frozenset(("signed", "stochastic") if drawn else ("signed",))


def signed_without_relu(parameters: Parameters) -> frozenset[Capability]:
    """Return what a relative of Grad-CAM is capable of that can keep negative evidence."""
    both: tuple[Capability, ...] = () if parameters["relu"] else ("signed",)
    return frozenset(("shift_invariant", *both))
