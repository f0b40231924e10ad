"""What is judged beside the edits: `baselines` in the shape that `run` takes, a callable (sample, model, store)."""

from dragnb.errors import InputError
from dragnb.sweep import baselines


def no_edit(sample, model, store):
    """The floor: the picture as it was."""
    return baselines.no_edit(sample.task())


def warp(sample, model, store):
    """The picture's own pixels pulled along, without a model."""
    return baselines.warp(sample.task())


def truth_encoded(sample, model, store):
    """The ceiling: the true picture through the autoencoder; InputError for a sample whose truth is not known."""
    if getattr(sample, "clay", None) is None:
        raise InputError("truth_encoded: only samples of the clay world have a known truth")
    return baselines.truth_encoded(sample.clay, model)


BESIDE = {"no_edit": no_edit, "warp": warp, "truth_encoded": truth_encoded}
