"""Helper processes end with the process that began them, however that ends."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Have this helper process end when its parent does: one that waits for work would wait for ever after a kill."""
    threading.Thread(target=_end, daemon=True).start()


def _end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
