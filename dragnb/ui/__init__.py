"""What people touch: the picker and the studio, in Jupyter's widgets; imported when they are named."""

import importlib

from dragnb.errors import InputError

WIDGETS = {"Picker": "picker", "Studio": "studio"}


def __getattr__(name: str):
    if name not in WIDGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{WIDGETS[name]}"), name)
    except ImportError as error:
        remedy = "pip install 'dragnb[widgets]'; or give points as numbers"
        raise InputError(f"{name} needs {error.name}: {remedy}") from error
