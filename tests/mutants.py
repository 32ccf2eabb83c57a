"""Small wrong versions of the code, and what catches each: `tox run -e mutants`.

A mutant is one piece of one file in another wording. It is put into a copy of the package, and what
should catch it is run on that: `steadymap check`, or tests. The true code must pass all of these.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

FOLDERS = ("bench", "metrics", "models")
AT_ONCE = 2
CONSOLE = "from steadymap.bench.start import main; main()"
# pytest's own way to say that tests failed; anything else is an accident, not a catch.
FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        name: what is wrong.
        file: where, below the repository.
        true: the piece as it is; it occurs once.
        wrong: the piece as it would be.
        caught_by: `check SPEC`, or arguments of pytest: a file of tests, and perhaps `-k`.
    """

    name: str
    file: str
    true: str
    wrong: str
    caught_by: str


GUARD_TESTS = "tests/network/test_guard.py"
COALITION_TESTS = "tests/methods/test_coalitions.py"
DRAWS_TESTS = "tests/measure/test_draws.py"
IG = "integrated_gradients:baseline=black"
WHITE = "integrated_gradients:baseline=white"
RANDOM = "integrated_gradients:baseline=random"
METHODS = "bench/methods/gradient.py"
BACKPROP = "bench/methods/backprop.py"
PATHS = "bench/methods/paths.py"
PASSES = "bench/network/passes.py"
SIMILARITY = "metrics/similarity.py"
METRIC_TESTS = "tests/metrics/test_registry.py"
DELETION_TESTS = "tests/measure/test_deletion.py"
ADMISSION_TESTS = "tests/analysis/test_admission.py"
DELETION = "bench/measure/deletion.py"
ADMITTING = "bench/plan/admitting.py"
ADMISSION = "bench/analysis/admission.py"
REACTIONS = "bench/analysis/reactions.py"
INTERVALS = "bench/analysis/intervals.py"
MATCHED_TESTS = "tests/metrics/test_matched.py"
CALIBRATION_TESTS = "tests/analysis/test_calibration.py"
ENDURANCE_TESTS = "tests/runs/test_resume.py"
REFERENCE_TESTS = "tests/measure/test_nulls.py"
COMPARISON_TESTS = "tests/gate/test_comparison.py"

MUTANTS = (
    # Methods, caught by their properties.
    Mutant(
        "integrated gradients without (x - x')",
        "bench/methods/integrated_gradients.py",
        "path_sum(classifier, path, nodes, shares) * (path.ends - path.starts)",
        "path_sum(classifier, path, nodes, shares)",
        f"check {IG}",
    ),
    Mutant(
        "a left sum in place of Gauss-Legendre",
        PATHS,
        "places, weights = np.polynomial.legendre.leggauss(steps)",
        "places, weights = 2 * np.arange(steps) / steps - 1, np.full(steps, 2 / steps)",
        f"check {IG}",
    ),
    Mutant(
        "trapezoid weights that add up to (n - 1) / n, as captum's do",
        PATHS,
        "torch.from_numpy(weights / 2).to(like)",
        "torch.from_numpy(weights / 2 * (steps - 1) / steps).to(like)",
        f"check {WHITE}",
    ),
    Mutant(
        "equal weights for Gauss-Legendre's nodes",
        PATHS,
        "torch.from_numpy(weights / 2).to(like)",
        "torch.full((steps,), 1 / steps).to(like)",
        f"check {WHITE}",
    ),
    Mutant(
        "nodes on [-1, 1]",
        PATHS,
        "torch.from_numpy((1 + places) / 2)",
        "torch.from_numpy(places)",
        f"check {IG}",
    ),
    Mutant(
        "a path's gradients added to another line",
        PATHS,
        "total[piece.line] += torch.tensordot(",
        "total[-1 - piece.line] += torch.tensordot(",
        f"check {IG}",
    ),
    Mutant(
        "every line explained for the first one's target",
        PATHS,
        "[path.targets[piece.line].expand(",
        "[path.targets[0].expand(",
        f"check {IG}",
    ),
    Mutant(
        "the pass explains what is predicted, not what is asked for",
        PASSES,
        "chosen = logits.detach().argmax(dim=1) if targets is None else targets",
        "chosen = logits.detach().argmax(dim=1)",
        "check gradient",
    ),
    Mutant(
        "draws held fixed between the maps of a pair",
        "bench/measure/shard.py",
        "ids, setup.plan.seed, cell, failed)",
        "ids, setup.plan.seed, CLEAN_CELL, failed)",
        f"{DRAWS_TESTS} -k every_view",
    ),
    Mutant(
        "rounding that draws anew",
        "bench/measure/numerics.py",
        "cell=Cell(ROUNDED, 0.0, 0), on_device",
        "cell=Cell(ROUNDED, 0.0, 0), drawn=Cell(ROUNDED, 0.0, 0), on_device",
        f"{DRAWS_TESTS} -k rounding",
    ),
    Mutant(
        "coupled maps with draws of their own",
        "bench/measure/shard.py",
        "self._explain(method, view.drawing(CLEAN_CELL))",
        "self._explain(method, view)",
        f"{DRAWS_TESTS} -k coupled",
    ),
    Mutant(
        "a share of the dice over different images",
        "bench/analysis/dice.py",
        "both = np.isfinite(redrawn) & np.isfinite(moved)",
        "both = np.isfinite(moved)",
        "tests/analysis/test_dice.py -k only_one",
    ),
    Mutant(
        "a share of what rounding moves",
        "bench/analysis/dice.py",
        "return distance > (0.0 if np.isnan(floor) else floor)",
        "return distance > 0.0",
        "tests/analysis/test_dice.py -k rounding",
    ),
    Mutant(
        "a second seed for nobody",
        "bench/measure/shard.py",
        "redrawn(worker, view, shards.AGAIN_BY_ALL, worker.methods, watch)",
        "redrawn(worker, view, shards.AGAIN_BY_ALL, (), watch)",
        f"{DRAWS_TESTS} -k not_say_so",
    ),
    Mutant(
        "coupled maps that the plan forgets",
        "bench/plan/setup.py",
        "+ images * len(self.plan.cells()) * self.couples(method)",
        "",
        "tests/measure/test_worker.py -k counts_the_passes_exactly",
    ),
    Mutant(
        "images in the run's order",
        "bench/measure/explain.py",
        "return sorted(range(len(keys)), key=keys.__getitem__)",
        "return list(range(len(keys)))",
        f"{DRAWS_TESTS} -k order",
    ),
    Mutant(
        "maps that stay where the shuffled images were",
        "bench/measure/explain.py",
        "back[places] = attributions",
        "back[:] = attributions",
        f"{DRAWS_TESTS} -k own_image",
    ),
    Mutant(
        "images of the data set for whoever wants them",
        "bench/measure/explain.py",
        "if not method.needs_references:",
        "if False:",
        f"{DRAWS_TESTS} -k asks",
    ),
    Mutant(
        "sums of weights by column alone",
        "bench/network/guard.py",
        "square.sum(dim=0), square.sum(dim=1), *rest",
        "square.sum(dim=0), *rest",
        f"{GUARD_TESTS} -k exchange",
    ),
    Mutant(
        "a plug-in's batch is everybody's",
        "bench/measure/explain.py",
        "x.clone() for name, x in vars(original)",
        "x for name, x in vars(original)",
        f"{GUARD_TESTS} -k nobody_else_sees",
    ),
    Mutant(
        "workers that share weights with a plug-in",
        "bench/plan/setup.py",
        "return classifier.copy() if apart else classifier.replica()",
        "return classifier.replica()",
        f"{GUARD_TESTS} -k workers",
    ),
    Mutant(
        "present and absent the other way round",
        "bench/methods/coalitions.py",
        "torch.where(mask, batch.images[places], parts.baselines[places])",
        "torch.where(mask, parts.baselines[places], batch.images[places])",
        "check feature_ablation",
    ),
    Mutant(
        "orders without themselves backwards",
        "bench/methods/coalitions.py",
        "np.stack([drawn, count - 1 - drawn], axis=1)",
        "np.stack([drawn, drawn], axis=1)",
        f"{COALITION_TESTS} -k pairs",
    ),
    Mutant(
        "coalitions without their complements",
        "bench/methods/surrogates.py",
        "np.stack([members, ~members], axis=1)",
        "np.stack([members, members], axis=1)",
        f"{COALITION_TESTS} -k pairs",
    ),
    Mutant(
        "the Shapley kernel without the number of coalitions of a size",
        "bench/methods/surrogates.py",
        "1 / (comb(count, size) * size * (count - size))",
        "1 / (size * (count - size))",
        f"{COALITION_TESTS} -k every_coalition",
    ),
    Mutant(
        "LIME without an intercept",
        "bench/methods/surrogates.py",
        "rows = members - np.average(members, axis=0, weights=weights)",
        "rows = 1.0 * members",
        f"{COALITION_TESTS} -k regression",
    ),
    Mutant(
        "LIME's kernel without the square root",
        "bench/methods/surrogates.py",
        "np.sqrt(np.exp(-((distance / KERNEL_WIDTH) ** 2)))",
        "np.exp(-((distance / KERNEL_WIDTH) ** 2))",
        f"{COALITION_TESTS} -k regression",
    ),
    Mutant(
        "occlusion's drops added up, not averaged",
        "bench/methods/occlusion.py",
        "return drops @ covered.double() / covered.sum(dim=0)",
        "return drops @ covered.double()",
        f"{COALITION_TESTS} -k captum",
    ),
    Mutant(
        "forward passes that the plan forgets",
        "bench/measure/estimate.py",
        "forward = views + apart + views * sum(method.forward_only(size) for method in alone)",
        "forward = views + apart",
        f"{COALITION_TESTS} -k beforehand",
    ),
    Mutant(
        "the absolute value too early: in the gradient",
        METHODS,
        "    return seen.need_gradient()\n",
        "    return seen.need_gradient().abs()\n",
        "check gradient",
    ),
    Mutant(
        "the absolute value too early: in gradient x input",
        METHODS,
        "return seen.need_gradient() * seen.images",
        "return (seen.need_gradient() * seen.images).abs()",
        "check gradient_x_input",
    ),
    Mutant(
        "a black baseline in normalised space",
        "bench/methods/baseline_images.py",
        "return torch.zeros_like(batch.images)",
        "return torch.full_like(batch.images, 0.45)",
        f"check {IG}",
    ),
    Mutant(
        "a white baseline in 8 bits",
        "bench/methods/baseline_images.py",
        "return torch.ones_like(batch.images)",
        "return torch.full_like(batch.images, 255.0)",
        f"check {WHITE}",
    ),
    Mutant(
        "the normalisation in the wrong order",
        "models/classifier.py",
        "images = (images - self.mean) / self.std",
        "images = images / self.std - self.mean",
        "check gradient",
    ),
    Mutant(
        "a random baseline that belongs to the size of the batch",
        "bench/methods/baseline_images.py",
        "for rng in batch.generators(purpose)]",
        "for rng in batch.redrawn(len(batch.images)).generators(purpose)]",
        f"check {RANDOM}",
    ),
    Mutant(
        "draws without the seed",
        "bench/methods/batch.py",
        'randomness.key_of("draws", seed, image_id, *view)',
        'randomness.key_of("draws", image_id, *view)',
        f"check {RANDOM}",
    ),
    Mutant(
        "one random baseline for all images",
        "bench/methods/baseline_images.py",
        "for rng in batch.generators(purpose)]",
        "for rng in batch.part([0] * len(batch.images)).generators(purpose)]",
        "tests/methods/test_registry.py -k baselines_are_what",
    ),
    Mutant(
        "Grad-CAM keeps negative evidence",
        "bench/methods/cam.py",
        "maps = (weights * activations).sum(dim=1, keepdim=True)\n"
        "    return maps.relu() if relu else maps",
        "return (weights * activations).sum(dim=1, keepdim=True)",
        "check grad_cam",
    ),
    Mutant(
        "Grad-CAM without its weights",
        "bench/methods/cam.py",
        "maps = (weights * activations).sum(dim=1, keepdim=True)",
        "maps = activations.sum(dim=1, keepdim=True)",
        "check grad_cam",
    ),
    Mutant(
        "Grad-CAM's weights summed, not averaged",
        "bench/methods/cam.py",
        "gradient_there.mean(dim=(2, 3), keepdim=True)",
        "gradient_there.sum(dim=(2, 3), keepdim=True)",
        "check grad_cam",
    ),
    Mutant(
        "the caller's images are made to ask for gradients",
        METHODS,
        "return images.detach().clone().requires_grad_()",
        "return images.requires_grad_()",
        "check gradient --engine captum",
    ),
    Mutant(
        "a hook is left behind",
        "models/layers.py",
        "            yield seen\n    finally:\n        hook.remove()",
        "            yield seen\n    finally:\n        pass",
        "check grad_cam",
    ),
    Mutant(
        "the edge filter smooths along the batch",
        "bench/methods/controls.py",
        '[ndimage.sobel(image, axis=axis, mode="nearest") for axis in (0, 1)] for image in grey',
        '[part for part in parts] for parts in zip(*(ndimage.sobel(grey, axis=axis, mode="nearest")'
        "\n        for axis in (1, 2)), strict=True)",
        "check edge",
    ),
    Mutant(
        "the compensation with the wrong sign",
        "models/classifier.py",
        "images = images - self.shift",
        "images = images + self.shift",
        "check gradient",
    ),
    # Perturbations.
    Mutant(
        "a clamped bias",
        "bench/perturbations/noise.py",
        "    return image + severity\n",
        "    return (image + severity).clamp(0, 1)\n",
        "tests/perturbations/test_registry.py",
    ),
    Mutant(
        "noise shared across images",
        "bench/perturbations/apply.py",
        "randomness.generator(seed, image_id, cell.family, cell.severity, cell.draw)",
        "randomness.generator(seed, cell.family, cell.severity, cell.draw)",
        "tests/perturbations/test_registry.py",
    ),
    Mutant(
        "noise of the variance asked for, not of the deviation",
        "bench/perturbations/noise.py",
        "return image + severity * torch.from_numpy(noise)\n\n\ndef uniform_noise",
        "return image + severity**2 * torch.from_numpy(noise)\n\n\ndef uniform_noise",
        "tests/perturbations/test_registry.py",
    ),
    Mutant(
        "uniform noise that only brightens",
        "bench/perturbations/noise.py",
        "noise = 2 * rng.random(tuple(image.shape), dtype=np.float32) - 1",
        "noise = rng.random(tuple(image.shape), dtype=np.float32)",
        "tests/perturbations/test_registry.py",
    ),
    Mutant(
        "salt and pepper on all pixels but the share",
        "bench/perturbations/noise.py",
        "rng.random(size) < severity",
        "rng.random(size) > severity",
        "tests/perturbations/test_registry.py",
    ),
    # Maps and metrics.
    Mutant(
        "the absolute value before the channel sum",
        "metrics/maps.py",
        "return cls(attributions.astype(np.float64).sum(axis=1))",
        "return cls(np.abs(attributions.astype(np.float64)).sum(axis=1))",
        METRIC_TESTS,
    ),
    Mutant(
        "maps upsampled before they are ranked",
        "bench/measure/view.py",
        "    attributions = attributions.detach().float()\n",
        "    attributions = torch.nn.functional.interpolate(\n"
        '        attributions.detach().float(), scale_factor=2, mode="bilinear"\n    )\n',
        "tests/measure/test_runner.py tests/measure/test_nulls.py",
    ),
    Mutant(
        "ranks without ties",
        "metrics/maps.py",
        "    if not first.all():",
        "    if first.size == 0:",
        METRIC_TESTS,
    ),
    Mutant(
        "magnitudes not clipped",
        "metrics/maps.py",
        "CLIP_PERCENTILE = 99.0",
        "CLIP_PERCENTILE = 100.0",
        METRIC_TESTS,
    ),
    Mutant(
        "SSIM for a data range of 255",
        SIMILARITY,
        "SSIM_C1 = 0.01**2\nSSIM_C2 = 0.03**2",
        "SSIM_C1 = (0.01 * 255) ** 2\nSSIM_C2 = (0.03 * 255) ** 2",
        METRIC_TESTS,
    ),
    Mutant(
        "SSIM with a narrower window",
        "metrics/maps.py",
        "SSIM_SIGMA = 1.5",
        "SSIM_SIGMA = 1.0",
        METRIC_TESTS,
    ),
    Mutant(
        "rank correlation of magnitudes where signs are asked for",
        SIMILARITY,
        "(clean.ranks * perturbed.ranks).sum(axis=-1)",
        "(clean.magnitude_ranks * perturbed.magnitude_ranks).sum(axis=-1)",
        METRIC_TESTS,
    ),
    Mutant(
        "the strongest pixels by value, not by magnitude",
        "metrics/maps.py",
        "return membership(self.magnitude, top_count(self.magnitude[0].size))",
        "return membership(self.signed, top_count(self.magnitude[0].size))",
        METRIC_TESTS,
    ),
    Mutant(
        "the distance over the perturbed map's norm",
        SIMILARITY,
        "difference / np.sqrt((clean.signed**2).sum(axis=(-2, -1)))",
        "difference / np.sqrt((perturbed.signed**2).sum(axis=(-2, -1)))",
        METRIC_TESTS,
    ),
    Mutant(
        "errors of completeness that cancel",
        "metrics/single.py",
        "error: Array = np.abs(maps.signed.sum(axis=(1, 2)) - deltas)",
        "error: Array = maps.signed.sum(axis=(1, 2)) - deltas",
        METRIC_TESTS,
    ),
    Mutant(
        "a constant map is perfectly steady",
        "metrics/maps.py",
        "constant[finite] = highest - lowest <= CONSTANT_SPREAD * np.maximum(highest, -lowest)",
        "constant[finite] = False",
        METRIC_TESTS,
    ),
    Mutant(
        "guided backpropagation that lets negative gradients through",
        BACKPROP,
        "torch.where(values > 0, back.relu(), 0.0)",
        "torch.where(values > 0, back, 0.0)",
        "check guided_backprop",
    ),
    Mutant(
        "a deconvolution that minds what came through",
        BACKPROP,
        "lambda _values, back: back.relu()",
        "lambda values, back: torch.where(values > 0, back.relu(), 0.0)",
        "check deconvolution",
    ),
    Mutant(
        "DeepLIFT that is the gradient times the difference",
        BACKPROP,
        "    return back * (call(values) - call(reference))\n",
        "    return _through(call, values, back) * (values - reference)\n",
        "check deep_lift",
    ),
    Mutant(
        "DeepLIFT that credits a pooling's largest with the reference's difference, too",
        BACKPROP,
        "gained + _through(call, reference, back * (out - larger))",
        "gained + _through(call, values, back * (out - larger))",
        "tests/methods/test_backprop.py",
    ),
    Mutant(
        "relevance that a reference has left behind",
        BACKPROP,
        "                changed(starts[few])\n",
        "                changed(starts[:1].expand_as(starts[few]))\n",
        "check deep_lift:baseline=random",
    ),
    Mutant(
        "one draw of the baseline for all",
        "bench/methods/baselines.py",
        ".make(batch.redrawn(draw))",
        ".make(batch)",
        "tests/methods/test_baselines.py",
    ),
    Mutant(
        "images that draw from one another's numbers",
        "bench/methods/expected_gradients.py",
        "_draw(draws[line],",
        "_draw(draws[0],",
        "check expected_gradients",
    ),
    Mutant(
        "the baseline of the clean image for all views",
        "bench/measure/scores.py",
        "view.cell if start.of_view else None",
        "None",
        "tests/methods/test_baselines.py",
    ),
    Mutant(
        "networks of other threads that are traced along",
        "bench/network/graph.py",
        "            return forward(*args, **kwargs)\n",
        "            pass\n",
        "tests/network/test_graph.py -k thread",
    ),
    Mutant(
        "a rewritten network that nobody compares",
        "bench/network/graph.py",
        "    if traced.compared[size]:\n",
        "    if not traced.compared:\n",
        "tests/network/test_graph.py",
    ),
    Mutant(
        "an edited network with its old graph",
        "bench/network/graph.py",
        "if known is None or not _equal(known.state, state):",
        "if known is None:",
        "tests/network/test_graph.py -k edited",
    ),
    # The run.
    Mutant(
        "each map explains its own prediction",
        "bench/measure/shard.py",
        "attacked(worker, perturbed, targets), targets, refused",
        "attacked(worker, perturbed, targets), None, refused",
        "tests/measure/test_runner.py",
    ),
    Mutant(
        "the network is not told of the compensated shift",
        "bench/measure/view.py",
        "if family is not None and family.network_shift:",
        "if family is not None and family.network_shift and not shown:",
        "tests/measure/test_runner.py",
    ),
    Mutant(
        "completeness held against the perturbed logit alone",
        "bench/measure/scores.py",
        "view.logits.double() - worker.baseline_logits[key].double()",
        "view.logits.double()",
        "tests/measure/test_runner.py",
    ),
    # References and recognition.
    Mutant(
        "a unit whose name does not say its seed",
        "bench/runs/draw_up.py",
        '        "seed": plan.seed,\n',
        '        "seed": 0,\n',
        ENDURANCE_TESTS,
    ),
    Mutant(
        "a unit whose name does not say its images",
        "bench/runs/ledger.py",
        "base = _digest([self.fixed, others, images,",
        "base = _digest([self.fixed, self.others, len(images),",
        ENDURANCE_TESTS,
    ),
    Mutant(
        "a flipped bit believed",
        "bench/runs/shard_files.py",
        "if hashlib.sha256(content).hexdigest()[:KEY_LENGTH] != path.stem",
        "if not content and path.stem",
        ENDURANCE_TESTS,
    ),
    Mutant(
        "what failed is never tried again",
        "bench/runs/resume.py",
        "complete = {name for name, part in where.items() if name not in part.about.failed}",
        "complete = set(where)",
        ENDURANCE_TESTS,
    ),
    Mutant(
        "a failed shard preferred",
        "bench/runs/table.py",
        "if name not in best or (name not in bad and name in best[name].about.failed):",
        "if name not in best:",
        ENDURANCE_TESTS,
    ),
    Mutant(
        "records in the order of the shards",
        "bench/runs/table.py",
        "    return table.take(pa.array(order))\n",
        "    return table\n",
        ENDURANCE_TESTS,
    ),
    Mutant(
        "two writers",
        "bench/runs/shard_files.py",
        "        lock.acquire()\n",
        "        pass\n",
        ENDURANCE_TESTS,
    ),
    Mutant(
        "half a file left behind",
        "bench/core/files.py",
        "            temporary.unlink(missing_ok=True)\n        raise errors.ConfigError(",
        "            pass\n        raise errors.ConfigError(",
        ENDURANCE_TESTS,
    ),
    Mutant(
        "an image held against itself",
        "bench/measure/nulls.py",
        "np.fill_diagonal(beside, val=False)",
        "np.fill_diagonal(beside, val=True)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "the image that could not be made is a partner",
        "bench/measure/shard.py",
        "others = panel.others(lost | set(view.failed))",
        "others = panel.others(lost)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "images of any class are of the same one",
        "bench/measure/nulls.py",
        "alike: Flags = others & (classes[:, None] == classes)",
        "alike: Flags = others & (classes == classes)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "a perturbed map's partners for a clean one's",
        "metrics/matched.py",
        "return _means(self.values, chosen, self.clean, none)",
        "return _means(self.values.T, chosen.T, self.clean, none)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "unrelated maps of networks left uncut where things move",
        "bench/measure/scores.py",
        "        tuple(twins),\n",
        "        compared.twins,\n",
        REFERENCE_TESTS,
    ),
    Mutant(
        "the class that comes second is the first",
        "bench/measure/nulls.py",
        "view.batch.targets[:, None], -torch.inf)",
        "view.batch.targets[:, None], torch.inf)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "another class's map explained for the same",
        "bench/measure/nulls.py",
        "Cell(OTHER_CLASS, 0.0, 0)), runner_up(view), watch)",
        "Cell(OTHER_CLASS, 0.0, 0)), view.batch.targets, watch)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "the fourth cell's network shifted the other way",
        "bench/perturbations/registry.py",
        "        network_shift=-1,\n",
        "        network_shift=1,\n",
        "tests/measure/test_runner.py",
    ),
    Mutant(
        "a randomised network that is the trained one",
        "models/classifier.py",
        "                initialise(module.network)\n",
        "                pass\n",
        REFERENCE_TESTS,
    ),
    Mutant(
        "one randomised network for all draws",
        "bench/measure/nulls.py",
        "generator(seed, RANDOM_NETWORK, draw)",
        "generator(seed, RANDOM_NETWORK)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "the randomised network explains what it predicts itself",
        "bench/measure/nulls.py",
        "yield all_methods(twin, reshown(view, cell), view.batch.targets, watch)",
        "yield all_methods(twin, reshown(view, cell), None, watch)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "the other seed is the run's own",
        "bench/measure/nulls.py",
        "other_seed(view.seed, cell.draw))",
        "view.seed)",
        REFERENCE_TESTS,
    ),
    Mutant(
        "float64 computed in float32",
        "bench/measure/numerics.py",
        "ways = [(FLOAT64, device, torch.float64)]",
        "ways = [(FLOAT64, device, torch.float32)]",
        REFERENCE_TESTS,
    ),
    Mutant(
        "a tie counts as recognised",
        "metrics/matched.py",
        "(sign * self.values >= sign * own)",
        "(sign * self.values > sign * own)",
        MATCHED_TESTS,
    ),
    Mutant(
        "recognition takes a distance for a similarity",
        "metrics/matched.py",
        'sign = 1.0 if metric.better == "higher" else -1.0',
        "sign = 1.0",
        MATCHED_TESTS,
    ),
    # Summary, calibration, faults, ranks.
    Mutant(
        "draws and severities counted as images",
        "bench/analysis/summary.py",
        "means = valid.groupby([*by, IMAGE_ID], observed=True, sort=False)[VALUE].mean()",
        "means = valid.set_index([*by, IMAGE_ID])[VALUE]",
        "tests/analysis/test_summary.py",
    ),
    Mutant(
        "values without a status of ok counted as covered",
        "bench/analysis/summary.py",
        "coverage = (known.reindex(sizes.index, fill_value=0) / sizes).tolist()",
        "coverage = [1.0] * len(sizes)",
        "tests/analysis/test_summary.py",
    ),
    Mutant(
        "the furthest of the nulls",
        "bench/analysis/estimates.py",
        "return float(known.min()) if len(known) else np.nan",
        "return float(known.max()) if len(known) else np.nan",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "the score held against the furthest of the nulls",
        "bench/analysis/estimates.py",
        "best = np.argmin(np.where(np.isfinite(means), means, np.inf), axis=0)[None]",
        "best = np.argmax(np.where(np.isfinite(means), means, -np.inf), axis=0)[None]",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "a null on any number of images",
        "bench/analysis/estimates.py",
        "LEAST_SHARE = 0.2",
        "LEAST_SHARE = 0.0",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "a null of pairs that have no score",
        "bench/analysis/estimates.py",
        "kind: cells.within(values - cells.cost, enter)",
        "kind: cells.within(values - cells.cost, everywhere)",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "a map that vanished left out",
        "bench/analysis/cells.py",
        "return np.isfinite(self.cost) & (np.isfinite(self.distance) | self.vanished)",
        "return np.isfinite(self.cost) & np.isfinite(self.distance)",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "a map that vanished taken for one that stayed",
        "bench/analysis/estimates.py",
        "distances = mean_of_known(moved + gone * np.nan_to_num(filled), axis=1)",
        "distances = mean_of_known(moved + 0 * gone * np.nan_to_num(filled), axis=1)",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "pairs whose prediction changed in the headline",
        "bench/analysis/calibration.py",
        "self.kept = estimates.Averages.of(self.cells, kept)",
        "self.kept = estimates.Averages.of(self.cells, np.ones(len(kept), dtype=bool))",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "families of a diagnosis in the headline",
        "bench/analysis/calibration.py",
        "return [place for place, name in enumerate(families) if name not in DIAGNOSIS]",
        "return list(range(len(families)))",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "a number where unrelated maps score as high",
        "bench/analysis/calibration.py",
        "if estimate.room < LEAST_ROOM:",
        "if estimate.room < 0:",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "effects below rounding taken for effects",
        "bench/analysis/calibration.py",
        "return UNRESOLVABLE if estimate.distance <= floor else OK",
        "return OK",
        CALIBRATION_TESTS,
    ),
    Mutant(
        "the chance of recognition without the map's own place",
        "bench/analysis/calibration.py",
        '"chance": table.within(1 / among, chosen),',
        '"chance": table.within(1 / (among - 1), chosen),',
        CALIBRATION_TESTS,
    ),
    Mutant(
        "a jackknife that forgets partners",
        "bench/analysis/jackknife.py",
        "means[..., 1:] -= np.divide(moved, count, out=np.zeros(moved.shape), where=count > 0)",
        "pass",
        "tests/analysis/test_jackknife.py -k partner",
    ),
    Mutant(
        "an interval of what rounding leaves",
        "bench/analysis/jackknife.py",
        "known = spread > ROUNDING * (influence**2).mean()",
        "known = spread > 0",
        "tests/analysis/test_jackknife.py -k matters_alone",
    ),
    Mutant(
        "images of a group that count as if each were one",
        "bench/records/grouping.py",
        "    if not groups:\n        return values\n",
        "    return values\n",
        "tests/records/test_grouping.py",
    ),
    Mutant(
        "a group left out as cases and not as partners",
        "bench/analysis/jackknife.py",
        "moved = sums(apart, places)",
        "moved = 0 * sums(apart, places)",
        "tests/analysis/test_jackknife.py -k partner",
    ),
    Mutant(
        "groups that are of one picture each kept",
        "bench/data/image_set.py",
        "return named if len(set(named.values())) < len(named) else {}",
        "return named",
        "tests/data/test_labelled.py -k one_picture",
    ),
    Mutant(
        "as many degrees of freedom as networks",
        "bench/analysis/jackknife.py",
        "total, weight = total + part, weight + part**2 / (count - 1)",
        "total, weight = total + part, weight + part**2 / count",
        "tests/analysis/test_jackknife.py -k networks",
    ),
    Mutant(
        "the network's half for the method's",
        "bench/analysis/whose_fault.py",
        "own = (compensated + total - shifted) / 2",
        "own = (shifted + total - compensated) / 2",
        "tests/analysis/test_whose_fault.py",
    ),
    Mutant(
        "severities that one family lacks",
        "bench/analysis/whose_fault.py",
        "chosen: pd.DataFrame = valid[count == len(families)]",
        "chosen: pd.DataFrame = valid[count > 0]",
        "tests/analysis/test_whose_fault.py",
    ),
    Mutant(
        "a share where a half is negative",
        "bench/analysis/whose_fault.py",
        "elif min(halves) < 0:",
        "elif False:",
        "tests/analysis/test_whose_fault.py",
    ),
    Mutant(
        "rank sets pair by pair",
        "bench/analysis/ranks.py",
        "level = norm.sf(np.quantile(largest, intervals.CONFIDENCE))",
        "level = 0.025",
        "tests/analysis/test_ranks.py -k very_scores",
    ),
    Mutant(
        "controls ranked with the methods",
        "bench/analysis/ranks.py",
        '        & ~calibrated["control"]\n',
        "",
        "tests/analysis/test_ranks.py -k controls",
    ),
    Mutant(
        "who is not admitted ranked",
        "bench/analysis/ranks.py",
        "return methods if admitted is None else [name for name in methods if name in admitted]",
        "return methods",
        "tests/analysis/test_ranks.py -k controls",
    ),
    Mutant(
        "concordance without its correction for ties",
        "bench/analysis/agreement.py",
        "- raters * ties)",
        ")",
        "tests/analysis/test_agreement.py",
    ),
    # What is said of two runs.
    Mutant(
        "a lower error taken for a loss",
        "bench/gate/comparison.py",
        'sign = -1.0 if better_is == "lower" else 1.0',
        "sign = 1.0",
        COMPARISON_TESTS,
    ),
    Mutant(
        "every comparison tested for itself",
        "bench/gate/comparison.py",
        'multipletests(adjusted[known], alpha=ALPHA, method="holm")[1]',
        "adjusted[known]",
        COMPARISON_TESTS,
    ),
    Mutant(
        "the gate asks for any loss",
        "bench/gate/comparison.py",
        '_tested(mean_test.p_below, gain, -row["margin"])',
        "_tested(mean_test.p_below, gain, 0.0)",
        COMPARISON_TESTS,
    ),
    Mutant(
        "a gate on both sides",
        "bench/gate/mean_test.py",
        "np.minimum(1.0, 2 * np.minimum(p_below(gains, 0.0), p_below(-gains, 0.0)))",
        "np.minimum(1.0, np.minimum(p_below(gains, 0.0), p_below(-gains, 0.0)))",
        COMPARISON_TESTS,
    ),
    Mutant(
        "gains that agree taken for a proof",
        "bench/gate/mean_test.py",
        "np.where(mean < place, alike ** gains.shape[-1], 1.0)",
        "np.where(mean < place, 0.0, 1.0)",
        COMPARISON_TESTS,
    ),
    Mutant(
        "few images let pass",
        "bench/gate/comparison.py",
        'few = row["images"] < mean_test.LEAST_TO_PASS',
        "few = False",
        COMPARISON_TESTS,
    ),
    Mutant(
        "the bound of Student's t alone",
        "bench/gate/mean_test.py",
        "steps = np.maximum(quantile, _hall_inverse(leaning(gains), quantile))",
        "steps = quantile + 0 * leaning(gains)",
        "tests/gate/test_mean_test.py",
    ),
    Mutant(
        "every look tested at the whole level",
        "bench/gate/sequential.py",
        "found.append(float(brentq(excess, -HIGHEST, HIGHEST, xtol=1e-10)))",
        "found.append(float(norm.isf(level)))",
        "tests/gate/test_sequential.py",
    ),
    Mutant(
        "coverage that falls is let pass",
        "bench/gate/comparison.py",
        "if fallen - coverage > ROUNDING:",
        "if fallen - coverage > 1:",
        COMPARISON_TESTS,
    ),
    Mutant(
        "what is gone is let pass",
        "bench/gate/comparison.py",
        'return FAIL, "had values, and has none"',
        'return PASS, ""',
        COMPARISON_TESTS,
    ),
    Mutant(
        "images without a value after",
        "bench/gate/comparison.py",
        "both = group.dropna(subset=[BEFORE, AFTER])",
        "both = group.dropna(subset=[BEFORE])",
        COMPARISON_TESTS,
    ),
    Mutant(
        "other severities compared",
        "bench/gate/differences.py",
        '"severities of", value_at(before, "severities"), after["severities"]',
        '"severities of", None, after["severities"]',
        COMPARISON_TESTS,
    ),
    Mutant(
        "an edited manifest believed",
        "bench/gate/side.py",
        "    if digest != given:",
        "    if not given:",
        COMPARISON_TESTS,
    ),
    Mutant(
        "cut scores believed",
        "bench/gate/side.py",
        'if hashlib.sha256(text).hexdigest() != manifest["baseline"]["scores_sha256"]:',
        "if not text:",
        COMPARISON_TESTS,
    ),
    Mutant(
        "seconds compared across machines",
        "bench/gate/comparison.py",
        'if machine.fingerprint(first["machine"]) != machine.fingerprint(second["machine"]):',
        "if not first:",
        COMPARISON_TESTS,
    ),
    # What a page shows.
    Mutant(
        "a page that believes names",
        "bench/report/page.py",
        "autoescape=True,",
        "autoescape=False,",
        "tests/report/test_page.py -k no_name_can_break_or_script",
    ),
    Mutant(
        "witnesses in the wrong order",
        "bench/gallery/keep.py",
        "np.lexsort((ids, moved))",
        "np.lexsort((ids, -moved))",
        "tests/gallery/test_keep.py -k witnesses",
    ),
    Mutant(
        "a method that breaks at its last crossing",
        "bench/analysis/curves.py",
        "at = int(below[0])",
        "at = int(below[-1])",
        "tests/analysis/test_curves.py -k breaks_where",
    ),
    Mutant(
        "curves that are not calibrated",
        "bench/analysis/curves.py",
        "ends = [1 - (abs(value - alone) - cost) / room for value in ends]",
        "ends = list(ends)",
        "tests/analysis/test_curves.py -k curves",
    ),
    Mutant(
        "a front that looks at the score alone",
        "bench/report/figures.py",
        "key=lambda point: (point[1], -point[2])",
        "key=lambda point: -point[2]",
        "tests/report/test_figures.py -k front",
    ),
    Mutant(
        "a scale of the perturbed map",
        "bench/report/pictures.py",
        "known = clean[np.isfinite(clean)]",
        "known = np.stack(maps)[np.isfinite(np.stack(maps))] / 2",
        "tests/report/test_pictures.py -k scale",
    ),
    Mutant(
        "predictions of the clean image under every picture",
        "bench/gallery/keep.py",
        "chances = seen(picture[None].to(device))",
        "chances = seen(pictures[:1].to(device))",
        "tests/gallery/test_keep.py -k gallery",
    ),
    Mutant(
        "the least marked cells go first",
        "metrics/cells.py",
        "places(means[:, None], ties)",
        "places(-means[:, None], ties)",
        DELETION_TESTS,
    ),
    Mutant(
        "evidence of either sign cancels in a cell",
        "metrics/cells.py",
        'self.means(np.abs(known) if order == "magnitude" else known)',
        'np.abs(self.means(known)) if order == "magnitude" else self.means(known)',
        DELETION_TESTS,
    ),
    Mutant(
        "margins have the other sign",
        DELETION,
        "scores[kind] = _paired(area - own,",
        "scores[kind] = _paired(own - area,",
        DELETION_TESTS,
    ),
    Mutant(
        "an image is its own other",
        DELETION,
        "after = [*ordered[own + 1 :], *ordered[:own]]",
        "after = [*ordered[own:], *ordered[:own]]",
        DELETION_TESTS,
    ),
    Mutant(
        "another class stands for the same",
        DELETION,
        "if predictions[other] == predictions[place]]",
        "if predictions[other] != predictions[place]]",
        DELETION_TESTS,
    ),
    Mutant(
        "the curve ends with black, not the mean colour",
        DELETION,
        "return self.view.batch.images.mean(dim=(2, 3), keepdim=True)",
        "return self.view.batch.images.mean(dim=(2, 3), keepdim=True) * 0",
        DELETION_TESTS,
    ),
    Mutant(
        "the ends of a curve count in full",
        DELETION,
        "(first + last) / 2) / admitting.STEPS",
        "(first + last)) / admitting.STEPS",
        DELETION_TESTS,
    ),
    Mutant(
        "evidence is asked for at severity 0",
        ADMITTING,
        "for level in plan.severities()[family] if level]",
        "for level in plan.severities()[family]]",
        DELETION_TESTS,
    ),
    Mutant(
        "one null beaten is enough",
        ADMISSION,
        "return max(mean.p for mean in means.values())",
        "return min(mean.p for mean in means.values())",
        ADMISSION_TESTS,
    ),
    Mutant(
        "two orders are tried at the whole level",
        ADMISSION,
        "self.margins(method, b, LEVEL / len(there))",
        "self.margins(method, b, LEVEL)",
        ADMISSION_TESTS,
    ),
    Mutant(
        "whoever is not admitted is refused",
        ADMISSION,
        "if means[least].high <= REFUSED_SHARE * gradient:",
        "if means[least].high <= 1e9:",
        ADMISSION_TESTS,
    ),
    Mutant(
        "a share of the gradient's margin is enough to be ranked",
        ADMISSION,
        "RANKED_SHARE = 1 / 2",
        "RANKED_SHARE = 1 / 3",
        ADMISSION_TESTS,
    ),
    Mutant(
        "controls are ranked",
        ADMISSION,
        "if vocabulary.is_control(method):",
        "if False:",
        ADMISSION_TESTS,
    ),
    Mutant(
        "a failed check keeps nobody out",
        ADMISSION,
        'if check.startswith("failed"):',
        "if False:",
        ADMISSION_TESTS,
    ),
    Mutant(
        "two classes are judged without a sign",
        ADMISSION,
        "self.classes == 2 and mute",
        "self.classes == 2 and False",
        ADMISSION_TESTS,
    ),
    Mutant(
        "a map need not move beyond its dice",
        REACTIONS,
        "(values - _own(dice, values, floor))",
        "values",
        ADMISSION_TESTS,
    ),
    Mutant(
        "tests are Student's alone",
        INTERVALS,
        "least: Floats = np.minimum(plain, corrected)",
        "least: Floats = plain",
        ADMISSION_TESTS,
    ),
)


def main(names: Sequence[str]) -> int:
    """Show that each mutant is caught; with names, those whose name has one of them in it."""
    chosen = [mutant for mutant in MUTANTS if not names or any(n in mutant.name for n in names)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        home = Path(folder)
        true = copied(home / "true")
        killers = list(dict.fromkeys(mutant.caught_by for mutant in chosen))
        alarms = list(pool.map(lambda killer: outcome(killer, true), killers))
        for killer, code in zip(killers, alarms, strict=True):
            if code:
                say(f"FALSE ALARM  {killer} (exit code {code})")
        places = [home / f"{place}" for place in range(len(chosen))]
        codes = []
        coming = pool.map(lambda given: caught(*given), zip(chosen, places, strict=True))
        for mutant, code in zip(chosen, coming, strict=True):
            codes.append(code)
            word = {FAILED: "caught  ", 0: "SURVIVED"}.get(code, f"CODE {code}  ")
            say(f"{word}  {mutant.name}  ({mutant.file}; {mutant.caught_by})")
    killed = codes.count(FAILED)
    say(f"{killed} of {len(chosen)} mutants caught, {sum(map(bool, alarms))} false alarms")
    return int(killed < len(chosen) or any(alarms))


def say(text: str) -> None:
    """Print a line at once, so that a log shows how far it is."""
    print(text, flush=True)  # noqa: T201 - the result


def copied(place: Path) -> Path:
    """Copy the package; the copy comes before an installed one on the path."""
    shutil.copytree(ROOT / "bench" / "front", place / "steadymap")
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, place / "steadymap" / folder, ignore=ignored)
    return place


def caught(mutant: Mutant, place: Path) -> int:
    """Return the exit code of what should catch a mutant."""
    file = copied(place) / "steadymap" / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.true) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.true!r} is {text.count(mutant.true)} times there")
    file.write_text(text.replace(mutant.true, mutant.wrong), encoding="utf-8")
    code = outcome(mutant.caught_by, place)
    shutil.rmtree(place)
    return code


def outcome(killer: str, package: Path) -> int:
    """Run what should catch a mutant on a copy of the package; return its exit code."""
    words = killer.split()
    command = (
        [sys.executable, "-c", CONSOLE, *words]
        if words[0] == "check"
        else [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
    )
    environment = os.environ | {
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(  # noqa: S603 - our own tests
        command, cwd=ROOT, env=environment, capture_output=True, check=False
    )
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
