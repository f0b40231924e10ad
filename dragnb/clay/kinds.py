"""The twelve kinds of the clay world: how each is put together from solids, and which pose parameters move it.

A builder takes a `Kit` (size, place, colours), a pose (name -> value within POSES) and adds solids. Joints are frames
(rotation, origin) whose children overlap their parents, so nothing floats, whatever the pose.
"""

from __future__ import annotations

import numpy as np

from dragnb.clay import heldout
from dragnb.clay.solids import (
    DARK,
    GREEN,
    I3,
    PINK,
    STEEL,
    SUN,
    WHITE,
    WOOD,
    ground_frame,
    lighter,
    rotation,
)

FAMILIES = {
    "animals": ("cat", "dog", "bear", "rabbit"),
    "plants": ("flower", "mushroom", "tree"),
    "things": ("car", "boat", "lamp", "balloon"),
    "landscapes": ("hills",),
}
_ANIMAL = {"x": (-0.25, 0.25), "yaw": (-0.6, 0.6), "pitch": (-0.25, 0.3), "roll": (-0.25, 0.25), "ear": (0.7, 1.3),
           "mouth": (0.0, 1.0), "arm": (0.0, 1.0)}  # fmt: skip
POSES = {
    **dict.fromkeys(FAMILIES["animals"], _ANIMAL),
    "flower": {"x": (-0.25, 0.25), "bend": (-0.8, 0.8), "height": (0.75, 1.1), "petal": (0.75, 1.2)},
    "mushroom": {"x": (-0.25, 0.25), "lean": (-0.3, 0.3), "cap": (0.75, 1.2), "height": (0.75, 1.15)},
    "tree": {"x": (-0.25, 0.25), "lean": (-0.25, 0.25), "crown": (0.8, 1.15), "height": (0.8, 1.15)},
    "car": {"x": (-0.3, 0.3), "yaw": (-0.6, 0.6), "roof": (0.7, 1.4)},
    "boat": {"x": (-0.3, 0.3), "roll": (-0.3, 0.3), "sail": (0.7, 1.15)},
    "lamp": {"x": (-0.2, 0.2), "low": (-0.7, 0.1), "high": (0.2, 1.2), "head": (-0.6, 0.6)},
    "balloon": {"x": (-0.35, 0.35), "y": (-0.25, 0.2), "sway": (-0.3, 0.3), "size": (0.8, 1.15)},
    **heldout.POSES,
    "hills": {"sun_x": (-0.7, 0.7), "sun_y": (-0.8, -0.3), "peak": (0.7, 1.3), "cloud": (-0.6, 0.6)},
}


def animal(kit, pose, kind):
    """A sitting animal; the head turns, nods and tilts on the neck, an arm is raised, the mouth opens."""
    base = ground_frame(pose["x"])
    fur, pale = kit.main, lighter(kit.main)
    kit.add("body", (0, -0.36, 0), (0.31, 0.37, 0.26), fur, frame=base)
    kit.add("belly", (0, -0.31, 0.10), (0.21, 0.25, 0.19), pale, frame=base)
    for side, sx in (("left", -1), ("right", 1)):
        kit.add(f"{side} foot", (sx * 0.20, -0.05, 0.16), (0.13, 0.085, 0.18), fur, frame=base)
        swing = 0.35 + (2.1 * pose["arm"] if sx > 0 else 0)
        shoulder = kit.joint(base, (sx * 0.25, -0.52, 0.08), roll=-sx * swing)
        kit.add(f"{side} arm", (0, 0.16, 0), (0.085, 0.20, 0.09), fur, frame=shoulder)
    if kind == "cat":
        kit.add("tail", (-0.36, -0.2, -0.1), (0.07, 0.27, 0.07), fur, rotation(roll=-0.5), base)
    head = kit.joint(base, (0, -0.62, 0.02), yaw=pose["yaw"], pitch=pose["pitch"], roll=pose["roll"])
    kit.add("head", (0, -0.27, 0.02), (0.38, 0.34, 0.33), fur, frame=head)
    _ears(kit, pose["ear"], kind, head, fur, pale)
    _face(kit, pose["mouth"], kind, head, pale)


def _ears(kit, e, kind, head, fur, pale):
    for side, sx in (("left", -1), ("right", 1)):
        if kind == "cat":
            turn, inner = rotation(roll=sx * 0.42), PINK
            at, r = (sx * (0.24 + 0.03 * e), -0.52 - 0.07 * e, 0.0), (0.11, 0.19 * e, 0.07)
        elif kind == "bear":
            turn, inner = I3, pale
            at, r = (sx * (0.26 + 0.03 * e), -0.52 - 0.03 * e, 0.0), (0.13 * e, 0.13 * e, 0.07)
        elif kind == "rabbit":
            turn, inner = rotation(roll=sx * 0.16), PINK
            at, r = (sx * 0.16, -0.52 - 0.17 * e, 0.0), (0.095, 0.27 * e, 0.065)
        else:
            turn, inner = rotation(roll=-sx * 0.2), None
            at, r = (sx * 0.39, -0.36 + 0.15 * e, 0.02), (0.10, 0.21 * e, 0.13)
        kit.add(f"{side} ear", at, r, fur if inner else tuple(0.62 * c for c in fur), turn, head)
        if inner:
            forward = (at[0], at[1], at[2] + 0.035)
            kit.add(f"{side} inner ear", forward, (r[0] * 0.6, r[1] * 0.7, r[2] * 0.75), inner, turn, head)


def _face(kit, mouth, kind, head, pale):
    for side, sx in (("left", -1), ("right", 1)):
        kit.add(f"{side} eye", (sx * 0.15, -0.34, 0.29), (0.075, 0.085, 0.06), WHITE, frame=head, gloss=0.4)
        kit.add(
            f"{side} pupil", (sx * 0.145, -0.335, 0.335), (0.042, 0.052, 0.03), DARK, frame=head, gloss=0.7
        )
    kit.add("muzzle", (0, -0.16, 0.29), (0.17, 0.125, 0.13), pale, frame=head)
    nose = PINK if kind in ("cat", "rabbit") else DARK
    kit.add("nose", (0, -0.215, 0.41), (0.058, 0.042, 0.04), nose, frame=head, gloss=0.6)
    kit.add("mouth", (0, -0.125 + 0.02 * mouth, 0.385), (0.055 + 0.02 * mouth, 0.014 + 0.056 * mouth, 0.05),
            (0.50, 0.13, 0.17), frame=head)  # fmt: skip


def flower(kit, pose):
    """A potted flower; the stem bends along its length, the petals grow."""
    base = ground_frame(pose["x"])
    kit.add(
        "pot", (0, -0.13, 0), (0.17, 0.15, 0.17), (0.74, 0.42, 0.30), frame=base, shape="frustum", taper=-0.2
    )
    frame, step, n = kit.joint(base, (0, -0.24, 0)), 0.155 * pose["height"], 6
    for i in range(n):
        frame = kit.joint(frame, (0, 0, 0), roll=pose["bend"] / n)
        kit.add(f"stem {i}", (0, -step / 2, 0), (0.042, step * 0.68, 0.042), GREEN, frame=frame)
        if i in (1, 2):
            sx = (-1, 1)[i - 1]
            kit.add(
                f"leaf {i}",
                (sx * 0.15, -0.05, 0.03),
                (0.15, 0.055, 0.04),
                GREEN,
                rotation(roll=-sx * 0.5),
                frame,
            )
        frame = kit.joint(frame, (0, -step, 0))
    for i in range(8):
        spoke = kit.joint(frame, (0, 0, 0.03), roll=i * np.pi / 4)
        long = 0.17 * pose["petal"]
        kit.add(f"petal {i}", (0, -0.07 - long * 0.75, 0), (0.085, long, 0.045), kit.main, frame=spoke)
    kit.add("heart", (0, 0, 0.06), (0.125, 0.125, 0.075), kit.second, frame=frame)


def mushroom(kit, pose):
    """A mushroom; the stalk leans and grows, the cap widens."""
    base = kit.joint(ground_frame(pose["x"]), (0, 0, 0), roll=pose["lean"])
    h, w = 0.52 * pose["height"], pose["cap"]
    kit.add(
        "stalk",
        (0, -h / 2, 0),
        (0.135, h / 2 + 0.04, 0.135),
        (0.95, 0.90, 0.80),
        frame=base,
        shape="frustum",
        taper=0.2,
    )
    kit.add("cap", (0, -h + 0.04, 0), (0.46 * w, 0.40, 0.40), kit.main, frame=base, clip=(-1.0, 0.08))
    for i, (a, b) in enumerate(((-0.75, 0.5), (-0.2, 0.85), (0.1, 0.35), (0.45, 0.7), (0.85, 0.4))):
        n = np.array([np.sin(a) * np.cos(b), -np.sin(b), np.cos(a) * np.cos(b)])
        at = n * (0.46 * w, 0.40, 0.40) + (0, -h + 0.04, 0)
        kit.add(f"spot {i}", at, (0.075, 0.075, 0.03), WHITE, _facing(n / (0.46 * w, 0.40, 0.40)), base)


def _facing(n):
    """A rotation whose third axis is n."""
    n = n / np.linalg.norm(n)
    right = np.cross((0, 1, 0), n)
    right = right / max(np.linalg.norm(right), 1e-6)
    return np.stack([right, np.cross(n, right), n], axis=1)


def tree(kit, pose):
    """A tree with fruit; the trunk leans and grows, the crown swells."""
    base = kit.joint(ground_frame(pose["x"]), (0, 0, 0), roll=pose["lean"])
    h, w = 0.55 * pose["height"], pose["crown"]
    kit.add("trunk", (0, -h / 2, 0), (0.10, h / 2 + 0.05, 0.10), WOOD, frame=base, shape="frustum", taper=0.3)
    top = kit.joint(base, (0, -h - 0.18, 0))
    leaf = kit.main
    for i, (x, y, z, r) in enumerate(((0, 0.02, 0, 0.36), (-0.27, 0.10, 0.02, 0.25), (0.27, 0.10, 0.02, 0.25),
                                      (0, -0.28, 0.02, 0.27))):  # fmt: skip
        kit.add(f"crown {i}", (x * w, y * w, z), (r * w, r * w * 0.92, r * w), leaf, frame=top)
    for i, (x, y, z) in enumerate(((-0.13, 0.03, 0.34), (0.17, -0.07, 0.32), (0.0, -0.29, 0.29), (-0.3, 0.12, 0.26),
                                   (0.3, 0.16, 0.25))):  # fmt: skip
        kit.add(f"fruit {i}", (x * w, y * w, z * w), (0.06, 0.06, 0.06), kit.second, frame=top, gloss=0.5)


def car(kit, pose):
    """A car; it drives sideways, turns, and its roof grows."""
    base = kit.joint(ground_frame(pose["x"]), (0, -0.20, 0), yaw=pose["yaw"])
    kit.add("body", (0, -0.02, 0), (0.52, 0.13, 0.24), kit.main, frame=base, shape="box")
    kit.add("bonnet", (-0.42, -0.12, 0), (0.16, 0.06, 0.22), kit.main, frame=base)
    h = 0.30 * pose["roof"]
    kit.add("cabin", (0.06, -0.14, 0), (0.34, h, 0.22), kit.main, frame=base, clip=(-1.0, 0.1))
    for side, x in (("front", -0.07), ("rear", 0.19)):
        kit.add(
            f"{side} window",
            (x, -0.14 - h * 0.36, 0.135),
            (0.105, h * 0.30, 0.09),
            (0.78, 0.90, 0.97),
            frame=base,
            gloss=0.5,
        )
    for z in (0.22, -0.22):
        for side, x in (("front", -0.31), ("rear", 0.31)):
            tag = side if z > 0 else f"far {side}"
            kit.add(f"{tag} wheel", (x, 0.09, z), (0.14, 0.14, 0.06), DARK, frame=base)
            kit.add(f"{tag} hub", (x, 0.09, z * 1.2), (0.065, 0.065, 0.035), STEEL, frame=base)
    kit.add("headlight", (-0.52, -0.04, 0.13), (0.04, 0.055, 0.06), SUN, frame=base, gloss=0.6)
    kit.add("far headlight", (-0.52, -0.04, -0.13), (0.04, 0.055, 0.06), SUN, frame=base, gloss=0.6)


def boat(kit, pose):
    """A sailing boat; it rocks, sails sideways, and its sail is hoisted."""
    base = kit.joint(ground_frame(pose["x"]), (0, -0.10, 0), roll=pose["roll"])
    kit.add("hull", (0, -0.12, 0), (0.52, 0.27, 0.22), kit.main, frame=base, clip=(0.0, 1.0))
    kit.add("stripe", (0, -0.12, 0), (0.53, 0.275, 0.225), WHITE, frame=base, clip=(0.0, 0.22))
    h = 0.36 * pose["sail"]
    kit.add("mast", (0, -0.10 - h, 0), (0.028, h + 0.04, 0.028), WOOD, frame=base, shape="frustum")
    kit.add(
        "sail",
        (0.02, -0.18 - h, 0.05),
        (0.30, h * 0.92, 0.05),
        WHITE,
        frame=base,
        shape="frustum",
        taper=0.98,
    )
    kit.add("flag", (0.09, -0.17 - 2 * h, 0), (0.10, 0.055, 0.03), kit.second, frame=base)


def lamp(kit, pose):
    """A desk lamp of two arms and a shade, each on a joint."""
    base = ground_frame(pose["x"] + 0.12)
    kit.add("foot", (0, 0, 0), (0.25, 0.12, 0.2), kit.main, frame=base, clip=(-1.0, 0.1))
    low = kit.joint(base, (0, -0.08, 0), roll=pose["low"])
    kit.add("lower arm", (0, -0.24, 0), (0.04, 0.25, 0.04), STEEL, frame=low, shape="frustum")
    elbow = kit.joint(low, (0, -0.48, 0), roll=pose["high"])
    kit.add("elbow", (0, 0, 0), (0.07, 0.07, 0.07), kit.main, frame=elbow)
    kit.add("upper arm", (0, -0.2, 0), (0.038, 0.21, 0.038), STEEL, frame=elbow, shape="frustum")
    neck = kit.joint(elbow, (0, -0.40, 0.03), roll=-0.4 - pose["low"] - pose["high"] + pose["head"])
    kit.add(
        "shade", (-0.02, 0.10, 0.02), (0.20, 0.19, 0.18), kit.main, frame=neck, shape="frustum", taper=0.5
    )
    kit.add("bulb", (-0.02, 0.28, 0.04), (0.12, 0.10, 0.12), SUN, frame=neck, glow=True)


def balloon(kit, pose):
    """A hot-air balloon; it drifts, rises, sways and fills."""
    top = kit.joint((I3, np.array([pose["x"], pose["y"], 0.0])), (0, -0.2, 0), roll=pose["sway"])
    s = pose["size"]
    shape = dict(frame=top, shadow=True)
    kit.add("envelope", (0, 0, 0), (0.40 * s, 0.44 * s, 0.40 * s), kit.main, **shape)
    kit.add("band", (0, 0, 0), (0.405 * s, 0.445 * s, 0.405 * s), kit.second, clip=(-0.28, 0.12), **shape)
    for side, sx in (("left", -1), ("right", 1)):
        kit.add(f"{side} rope", (sx * 0.115, 0.52 * s, 0.03), (0.016, 0.20 * s, 0.016), WOOD, rotation(roll=sx * 0.2),
                frame=top, shape="frustum")  # fmt: skip
    kit.add("basket", (0, 0.44 * s + 0.27, 0), (0.13, 0.10, 0.12), WOOD, frame=top, shape="box")


def hills(kit, pose):
    """Three hills, a cloud and a sun that rises and sets."""
    sky = (I3, np.zeros(3))
    kit.add("sun", (pose["sun_x"], pose["sun_y"], -0.9), (0.17, 0.17, 0.17), SUN, frame=sky, glow=True)
    for i, (x, y, r) in enumerate(((-0.13, 0, 0.11), (0.02, -0.05, 0.14), (0.16, 0, 0.11))):
        kit.add(
            f"cloud {i}",
            (pose["cloud"] + x, -0.12 + y, -0.75),
            (r, r * 0.75, r),
            WHITE,
            frame=sky,
            shadow=False,
        )
    kit.add(
        "far hill",
        (0.05, 0.5, -0.5),
        (0.42, 0.62 * pose["peak"], 0.25),
        lighter(kit.main, 0.25),
        frame=sky,
        gloss=0.05,
    )
    kit.add("left hill", (-0.58, 0.6, -0.2), (0.55, 0.42, 0.25), kit.main, frame=sky, gloss=0.05)
    kit.add(
        "right hill",
        (0.60, 0.62, 0.0),
        (0.55, 0.36, 0.25),
        tuple(0.85 * c for c in kit.main),
        frame=sky,
        gloss=0.05,
    )


def build(kind, kit, pose):
    """Fill `kit` with the solids of `kind` at `pose`; returns the list of solids."""
    if kind in FAMILIES["animals"]:
        animal(kit, pose, kind)
    else:
        (globals().get(kind) or getattr(heldout, kind))(kit, pose)
    return kit.solids
