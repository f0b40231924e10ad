"""dragnb: drag points of a picture with a diffusion model, one readable room per stage of the paper.

DragDiffusion (Shi et al., CVPR 2024, arXiv 2306.14435) written anew for notebooks. `import dragnb` is light:
rooms such as `dragnb.edit` or `dragnb.ddim` are imported when first named.
"""

import importlib

__version__ = "0.1.0"

ROOMS = (
    *("errors", "config", "geometry", "ddim", "task", "store", "dragbench"),
    *("sd", "lora", "features", "attention", "drag", "dift", "metrics", "edit"),
    *("glimpse", "session", "baselines", "score", "bench", "viz"),
    *("picks", "preflight", "picker", "export", "studio", "clay"),
)


def __getattr__(name: str):
    if name in ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its rooms are {', '.join(ROOMS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *ROOMS])
