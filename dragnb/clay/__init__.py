"""The clay world: scenes with exact ground truth, and the training of the bundled model.

The names most wanted, imported when first named: `sample(seed)` a scene, `task(seed, kind, edit)` a drag task with its
truth, `judge(task, picture)` whether an edit succeeded, `locate(task, picture)` where its content went, `known(drag)`
the task that a drag file was saved from, `bench()` the hundred tasks of ClayBench.
"""

import importlib

_HOME = {
    **{
        "sample": "scene",
        "Scene": "scene",
        "task": "tasks",
        "ClayTask": "tasks",
        "known": "tasks",
        "locate": "oracle",
    },
    **{"judge": "oracle", "bench": "claybench"},
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(_HOME)}")
