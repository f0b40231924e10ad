"""dragnb: drag points of a picture with a diffusion model; DragDiffusion (Shi et al., CVPR 2024) for notebooks.

    import dragnb
    result = dragnb.edit(dragnb.clay.task(seed=847_002, kind="cat", edit="tilt").task)

Whatever is named here is imported when it is first used, so that `import dragnb` is light.

The whole edit
    edit          edit a picture by a drag; returns the Result
    run           the same as a generator of events, one a step
    prepare       what comes before the drag and no point decides, from the cache where it is there
    denoise       walk a dragged latent down to the picture
    generate      a picture that the model makes itself, with its latents: a drag of it needs no inversion
    Settings      every number of an edit;  profile: settings by name, with some changed
    DragTask      a picture, pairs of points, a mask, a prompt: the drag file;  read_image: a picture from a file
    load_model    a Stable Diffusion 1 or 2, or the bundled model, by name, folder, file or hub id
    Wanted        such a model with how to load it (dtype, LoRA, VAE ...), wherever a model may be given
In Jupyter
    Picker        pick points and paint a mask on a picture
    Studio        the whole app: pick, drag, watch, go back, export
Judging
    Judge         every figure of one edited picture
Modules
    config        settings, profiles, the table of stages, what suits which model
    ddim          noise schedule, inversion, sampling
    sd            the model: encode, predict, decode
    features      the U-Net's feature maps and their principal components (paper §3.1)
    lora          the identity fine-tune (§3.2)
    drag          latent optimisation (§3.3);  methods: rival drag methods, a file each
    attention     reference-latent-control (§3.4)
    geometry      picture pixels, canvas, feature cells
    carry         an object's own pixels moved as rigidly as the mask lets them
    viz           figures
    metrics       how good is one edit
    sweep         many edits, measured
    clay          a toy world whose truth is exact, and the training of the bundled model
    ui            picker, studio, and what they are made of
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(("edit", "run", "prepare", "denoise"), "pipeline"),
    **dict.fromkeys(("Settings", "profile"), "config"),
    **dict.fromkeys(("DragTask", "read_image"), "task"),
    **dict.fromkeys(("Picker", "Studio"), "ui"),
    "generate": "pipeline.generated",
    **dict.fromkeys(("load_model", "Wanted"), "sd"),
    "Judge": "metrics.judge",
}
_NAMES = {"load_model": "load"}  # by another name where they live
_MODULES = (
    *("config", "ddim", "sd", "features", "lora", "drag", "methods", "attention", "geometry", "carry", "viz"),
    *("metrics", "sweep", "clay", "ui", "task", "store", "checkpoints", "pipeline", "errors"),
)


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), _NAMES.get(name, name))
        globals()[name] = value  # also over a submodule of that name, should one ever be imported
        return value
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    known = ", ".join([*_HOME, *_MODULES])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {known}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
