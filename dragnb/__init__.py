"""dragnb: drag points of a picture with a diffusion model, one readable room per stage of the paper.

DragDiffusion (Shi et al., CVPR 2024, arXiv 2306.14435) written anew for notebooks. `import dragnb` is light:
rooms such as `dragnb.pipeline` or `dragnb.ddim` are imported when first named.
"""

import importlib

__version__ = "0.1.0"

ROOMS = (
    *("errors", "config", "geometry", "ddim", "task", "store", "checkpoints", "sd"),
    *("lora", "features", "attention", "drag", "pipeline", "glimpse", "viz"),
    *("metrics", "sweep", "ui", "clay"),
)


def __getattr__(name: str):
    if name in ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its rooms are {', '.join(ROOMS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *ROOMS])
