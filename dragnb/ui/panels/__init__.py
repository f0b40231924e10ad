"""The studio's panels, each a widget on plain values: settings, result and the way there, progress, the drags."""

from dragnb.ui.panels.gallery import Examples, Gallery
from dragnb.ui.panels.generate import GeneratePanel
from dragnb.ui.panels.progress import REUSED, message, progress
from dragnb.ui.panels.result import NOTHING, ResultPanel, TravelPanel
from dragnb.ui.panels.settings import SettingsPanel

__all__ = [
    "NOTHING", "REUSED", "Examples", "Gallery", "GeneratePanel", "ResultPanel", "SettingsPanel", "TravelPanel",
    "message", "progress",
]  # fmt: skip
