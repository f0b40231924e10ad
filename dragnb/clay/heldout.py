"""Three kinds of the clay world that no training meets: an owl, a cactus, a rocket; what the model does not know.

They are drawn when they are asked for by name, and never by a seed alone. Built like those of `kinds`.
"""

from __future__ import annotations

from dragnb.clay.solids import DARK, STEEL, SUN, WHITE, ground_frame, lighter, rotation

FAMILIES = {"animals": ("owl",), "plants": ("cactus",), "things": ("rocket",)}
POSES = {
    "owl": {"x": (-0.15, 0.15), "yaw": (-0.6, 0.6), "roll": (-0.3, 0.3), "wing": (0.0, 1.0)},
    "cactus": {"x": (-0.2, 0.2), "lean": (-0.25, 0.25), "height": (0.8, 1.2), "arm": (0.0, 1.0)},
    "rocket": {"x": (-0.3, 0.3), "roll": (-0.3, 0.3), "length": (0.8, 1.2)},
}
# edit -> (pose parameter, part that is dragged, point of the part in its own coordinates)
EDITS = {
    "owl": {
        "turn": ("yaw", "beak", (0, 0, 1)),
        "tilt": ("roll", "head", (0, -0.75, 0.66)),
        "raise": ("wing", "right wing", (0, 0.75, 0.66)),
        "move": ("x", "belly", (0, 0, 1)),
    },
    "cactus": {
        "bend": ("lean", "bloom", (0, 0, 1)),
        "stretch": ("height", "bloom", (0, 0, 1)),
        "raise": ("arm", "right arm", (0, -0.75, 0.66)),
        "move": ("x", "trunk", (0, 0, 1)),
    },
    "rocket": {
        "tilt": ("roll", "nose", (0, -0.75, 0.66)),
        "stretch": ("length", "nose", (0, -0.75, 0.66)),
        "move": ("x", "window", (0, 0, 1)),
    },
}


def owl(kit, pose):
    """An owl; its head turns and tilts, its wings spread."""
    base = ground_frame(pose["x"])
    plumage, pale = kit.main, lighter(kit.main)
    kit.add("body", (0, -0.40, 0), (0.33, 0.42, 0.27), plumage, frame=base)
    kit.add("belly", (0, -0.36, 0.10), (0.22, 0.31, 0.20), pale, frame=base)
    head = kit.joint(base, (0, -0.70, 0.02), yaw=pose["yaw"], roll=pose["roll"])
    kit.add("head", (0, -0.22, 0), (0.35, 0.29, 0.29), plumage, frame=head)
    for side, sx in (("left", -1), ("right", 1)):
        kit.add(f"{side} foot", (sx * 0.13, -0.03, 0.18), (0.10, 0.05, 0.13), SUN, frame=base)
        shoulder = kit.joint(base, (sx * 0.26, -0.60, 0.08), roll=-sx * (0.25 + 1.6 * pose["wing"]))
        kit.add(f"{side} wing", (0, 0.22, 0), (0.12, 0.30, 0.09), plumage, frame=shoulder)
        tuft = rotation(roll=sx * 0.5)
        kit.add(f"{side} tuft", (sx * 0.23, -0.46, 0), (0.07, 0.15, 0.06), plumage, tuft, head)
        kit.add(f"{side} disc", (sx * 0.14, -0.24, 0.20), (0.15, 0.16, 0.10), pale, frame=head)
        kit.add(f"{side} eye", (sx * 0.14, -0.25, 0.27), (0.09, 0.095, 0.05), WHITE, frame=head, gloss=0.4)
        kit.add(f"{side} pupil", (sx * 0.135, -0.25, 0.305), (0.05, 0.055, 0.03), DARK, frame=head, gloss=0.7)
    kit.add("beak", (0, -0.16, 0.31), (0.05, 0.075, 0.08), SUN, frame=head)


def cactus(kit, pose):
    """A potted cactus in bloom; it leans and grows, its arms rise."""
    base = ground_frame(pose["x"])
    clay = (0.74, 0.42, 0.30)
    kit.add("pot", (0, -0.14, 0), (0.22, 0.16, 0.20), clay, frame=base, shape="frustum", taper=-0.2)
    foot, h = kit.joint(base, (0, -0.22, 0), roll=pose["lean"]), pose["height"]
    kit.add("trunk", (0, -0.36 * h, 0), (0.19, 0.46 * h, 0.18), kit.main, frame=foot)
    for side, sx in (("left", -1), ("right", 1)):
        elbow = kit.joint(foot, (sx * 0.33, -0.36 * h, 0.02), roll=sx * (1.1 - 1.0 * pose["arm"]))
        kit.add(f"{side} elbow", (sx * 0.22, -0.36 * h, 0.02), (0.17, 0.085, 0.085), kit.main, frame=foot)
        kit.add(f"{side} arm", (0, -0.14, 0), (0.085, 0.22, 0.085), kit.main, frame=elbow)
    kit.add("bloom", (0, -0.80 * h, 0.05), (0.12, 0.09, 0.09), kit.second, frame=foot)


def rocket(kit, pose):
    """A rocket on its fins; it tilts and grows."""
    base = kit.joint(ground_frame(pose["x"]), (0, 0, 0), roll=pose["roll"])
    h = 0.62 * pose["length"]
    kit.add("nozzle", (0, -0.10, 0), (0.14, 0.08, 0.14), STEEL, frame=base, shape="frustum", taper=0.3)
    kit.add("body", (0, -0.12 - h, 0), (0.24, h, 0.24), kit.main, frame=base)
    kit.add("nose", (0, -0.12 - h, 0), (0.245, 1.01 * h, 0.245), kit.second, frame=base, clip=(-1.0, -0.55))
    for side, sx in (("left", -1), ("right", 1)):
        fin = rotation(roll=-sx * 0.35)
        kit.add(f"{side} fin", (sx * 0.22, -0.20, 0), (0.10, 0.22, 0.05), kit.second, fin, base)
    kit.add("rim", (0, -0.20 - 1.2 * h, 0.17), (0.115, 0.115, 0.07), STEEL, frame=base)
    kit.add(
        "window", (0, -0.20 - 1.2 * h, 0.19), (0.085, 0.085, 0.07), (0.78, 0.90, 0.97), frame=base, gloss=0.5
    )
