"""A tiny random model with Stable Diffusion 1's layout, made once per test session."""

import numpy as np
import pytest

from dragnb import config, sd, store, task
from dragnb.clay.training import parts as clay_model


def pytest_collection_modifyitems(config, items):
    """Slow tests run when they are asked for (`-m slow`), and are skipped by name otherwise."""
    if "slow" in config.getoption("-m"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run it with `make slow`"))


@pytest.fixture(scope="session")
def smoke_folder(tmp_path_factory):
    """The smoke model as a diffusers folder."""
    folder = tmp_path_factory.mktemp("models") / "smoke"
    return clay_model.save_folder(clay_model.build("smoke"), folder)


@pytest.fixture(autouse=True)
def nothing_large_in_memory():
    """Each test begins as a new process would: what another one left in the store's memory is let go."""
    yield
    store.forget()


@pytest.fixture(scope="session")
def smoke(smoke_folder):
    """The smoke model, loaded on the CPU."""
    return sd.load(str(smoke_folder), device="cpu")


@pytest.fixture(scope="session")
def quick():
    """Settings for an edit of about a second."""
    return config.profile("fast", steps=5, lora_steps=3, lora_rank=2, lora_batch=1, drag_steps=3)


@pytest.fixture
def cache(tmp_path):
    """An empty cache."""
    return store.Store(tmp_path / "cache")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache that the tests of one file share."""
    return store.Store(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def drag_task():
    """A noisy picture of an odd size, one pair of points, a mask with a border."""
    rng = np.random.default_rng(0)
    mask = np.zeros((90, 150), dtype=bool)
    mask[15:75, 15:135] = True
    image = rng.integers(0, 255, (90, 150, 3), dtype=np.uint8)
    return task.DragTask(image, [[40.0, 45.0]], [[90.0, 45.0]], mask, "a cat")
