"""The embedded data: rock, paper and scissors hands, drawn by index, with the hand's mask.

The arithmetic is additions, multiplications, divisions and square roots in double precision, which
every machine rounds alike (sines and cosines may differ in the last of 53 bits), and ends in 8
bits: the same index gives the same pixels anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steadymap.bench.core.randomness import generator

Array = NDArray[np.float64]

HAND_CLASSES = ("paper", "rock", "scissors")
SIDE = 150

# Skin from light to dark, as RGB in [0, 1].
SKINS = np.array(
    [
        (0.96, 0.80, 0.69),
        (0.91, 0.72, 0.58),
        (0.82, 0.62, 0.46),
        (0.71, 0.51, 0.36),
        (0.55, 0.38, 0.26),
        (0.38, 0.26, 0.18),
    ]
)
CLOTH = np.array((0.13, 0.50, 0.22))
SHADOW_STRENGTH = 0.45
LIGHT = np.array((-0.4, -0.6, 0.7))


@dataclass(frozen=True)
class Bone:
    """A capsule of the hand: from one point to another, thick at the start, thinner at the end.

    Points are in hand units: the palm is one wide, fingers point along +x, `lift` is towards the
    camera.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    radii: tuple[float, float]
    lift: float = 0.0


def hand(index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], int]:
    """Draw hand number `index`.

    Returns:
        pixels (150, 150, 3), the mask of the hand (150, 150), and the index of its class in
        `HAND_CLASSES`; classes take turns.
    """
    rng = generator("hand", index)
    label = index % len(HAND_CLASSES)
    x, y = _hand_frame(rng)
    height = _relief(_bones(HAND_CLASSES[label], rng), x, y)
    mask = height > 0
    picture = _background(rng)
    shadow = _box_blur(mask.astype(np.float64), 6)
    down, right = (int(step) for step in rng.integers(2, 9, size=2))
    shadow = np.pad(shadow, ((down, 0), (right, 0)), mode="edge")[:SIDE, :SIDE]
    picture *= 1 - SHADOW_STRENGTH * shadow[..., None]
    edge = _box_blur(mask.astype(np.float64), 1)[..., None]
    picture = picture * (1 - edge) + _skin(height, rng) * edge
    for _ in range(int(rng.integers(0, 3))):
        picture = np.stack([_box_blur(picture[..., c], 1) for c in range(3)], axis=-1)
    picture = picture * rng.uniform(0.85, 1.1) + rng.normal(0.0, 0.015, picture.shape)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), mask, label


def _hand_frame(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return each pixel's coordinates in hand units: x along the fingers, y across the palm.

    The wrist enters from one of the four sides.
    """
    side = int(rng.integers(4))
    angle = math.pi / 2 * side + math.radians(rng.uniform(-22, 22))
    forward = (math.cos(angle), math.sin(angle))
    scale = SIDE * rng.uniform(0.27, 0.34)
    flip = 1.0 if rng.integers(2) else -1.0
    centre = [SIDE * (0.5 + rng.uniform(-0.06, 0.06)) - 0.22 * scale * part for part in forward]
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    right, down = (columns - centre[0]) / scale, (rows - centre[1]) / scale
    return right * forward[0] + down * forward[1], flip * (down * forward[0] - right * forward[1])


def _bones(gesture: str, rng: np.random.Generator) -> list[Bone]:
    """Build forearm, palm, four fingers (index first) and thumb of a gesture."""
    bones = [
        Bone((-7.0, rng.uniform(-0.6, 0.6)), (-0.55, 0.0), (0.42, 0.33)),
        Bone((-0.30, 0.0), (0.10, 0.0), (0.44, 0.50)),
    ]
    extended = {"paper": 4, "scissors": 2, "rock": 0}[gesture]
    spread = rng.uniform(4, 13) if gesture == "paper" else rng.uniform(11, 19)
    middle = 1.5 if gesture == "paper" else 0.5
    lengths = np.array((0.86, 0.98, 0.90, 0.70)) * rng.uniform(0.9, 1.08)
    for finger, across in enumerate((-0.37, -0.125, 0.125, 0.36)):
        base = (0.42 - 0.25 * across * across, across)
        if finger < extended:
            turn = math.radians((finger - middle) * spread + rng.uniform(-3, 3))
            length = float(lengths[finger])
            tip = (base[0] + length * math.cos(turn), base[1] + length * math.sin(turn))
            bones.append(Bone(base, tip, (0.135, 0.10)))
        else:
            # A curled finger shows its first joint, and its tip folded back on the palm.
            knuckle = (base[0] + rng.uniform(0.10, 0.18), across)
            bones.append(Bone(base, knuckle, (0.145, 0.14), 0.06))
            bones.append(Bone(knuckle, (0.12, across * 0.9), (0.13, 0.11), 0.14))
    if gesture == "paper":
        turn = math.radians(rng.uniform(35, 58))
        joint = (0.02, -0.62)
        tip = (joint[0] + 0.52 * math.cos(turn), joint[1] - 0.52 * math.sin(turn))
        bones += [Bone((-0.25, -0.32), joint, (0.20, 0.15)), Bone(joint, tip, (0.14, 0.10))]
    else:
        reach = rng.uniform(-0.02, 0.16)
        joint = (0.10, -0.52)
        bones += [
            Bone((-0.25, -0.32), joint, (0.20, 0.15), 0.08),
            Bone(joint, (0.30, reach), (0.14, 0.115), 0.24),
        ]
    return bones


def _relief(bones: list[Bone], x: Array, y: Array) -> Array:
    """(150, 150): height of the hand's surface above the cloth; 0 where there is no hand."""
    surface = np.zeros_like(x)
    for bone in bones:
        along = (bone.end[0] - bone.start[0], bone.end[1] - bone.start[1])
        length = along[0] * along[0] + along[1] * along[1]
        place = ((x - bone.start[0]) * along[0] + (y - bone.start[1]) * along[1]) / length
        place = np.clip(place, 0, 1)
        radius = bone.radii[0] + (bone.radii[1] - bone.radii[0]) * place
        gap_x = x - bone.start[0] - place * along[0]
        gap_y = y - bone.start[1] - place * along[1]
        room = radius * radius - gap_x * gap_x - gap_y * gap_y
        top = np.sqrt(np.maximum(room, 0)) + bone.lift + 0.3
        surface = np.where(room > 0, np.maximum(surface, top), surface)
    return surface


def _skin(height: Array, rng: np.random.Generator) -> Array:
    """(150, 150, 3): skin lit from the upper left; the relief's creases stay dark."""
    tone = SKINS[int(rng.integers(len(SKINS)))] + rng.uniform(-0.03, 0.03, 3)
    smooth = _box_blur(height, 1) * 40
    slope_y, slope_x = np.gradient(smooth)
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 9.0)
    light = (-slope_x * LIGHT[0] - slope_y * LIGHT[1] + 3.0 * LIGHT[2]) / length
    shade = np.clip(0.55 + 0.55 * light, 0.25, 1.1)
    skin: Array = tone * shade[..., None]
    return skin


def _background(rng: np.random.Generator) -> Array:
    """(150, 150, 3): green cloth, unevenly lit, with a weave."""
    light = _bilinear(rng.uniform(0.75, 1.2, (4, 4)))
    weave = rng.normal(0.0, 0.03, (SIDE, SIDE))
    cloth = CLOTH * rng.uniform(0.8, 1.2, 3)
    picture: Array = cloth * (light + weave)[..., None]
    return picture


def _bilinear(grid: Array) -> Array:
    """Stretch a small square grid over the picture."""
    last = len(grid) - 1
    place = np.arange(SIDE) * (last / SIDE)
    low = place.astype(np.int64)
    part = place - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    stretched: Array = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return stretched


def _box_blur(picture: Array, radius: int) -> Array:
    """Mean over a square of 2 radius + 1 pixels, edges repeated."""
    width = 2 * radius + 1
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(picture, pad, mode="edge"), axis=axis)
        upper = np.take(sums, np.arange(width, width + SIDE), axis=axis)
        picture = (upper - np.take(sums, np.arange(SIDE), axis=axis)) / width
    return picture
