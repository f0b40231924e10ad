"""Speed and memory of an edit, stage by stage: `python -m tools.speed`."""
