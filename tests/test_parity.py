"""Profile "reference" computes what the public DragDiffusion code computes, on the bundled model.

Its commit ebe659a was run there with its own old libraries (tests/data/public/README.md: on what, with which settings);
the numbers are kept, none of its code. Held are the stages one by one and whole edits, from the picture, its points and
its mask to the picture. Latents after more than ten updates may part in single values: |x| has its kink at 0, and Adam
turns the sign of a rounding error into a step.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import dragnb
from dragnb import attention, config, ddim, drag, features, lora, metrics, pipeline, sd
from dragnb.features import FeatureMap
from dragnb.geometry import Frame
from dragnb.store import Store

PUBLIC = Path(__file__).parent / "data" / "public"
TASKS = {
    "rabbit": (810_001, "rabbit", "stretch", 1),
    "rabbit_lora": (810_001, "rabbit", "stretch", 1),
    "pairs": (810_004, "cat", "turn", 3),
    "boat": (810_010, "boat", "move", 1),
}
SETTINGS = config.profile("reference", lora_steps=0)
TRUNCATED = 50.5  # dB between a picture and itself, when one is rounded to bytes and the other cut down: 51.1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clay_model():
    return dragnb.load_model("clay", device="cpu")


@pytest.fixture(scope="module", params=TASKS)
def both(request, clay_model, tmp_path_factory):
    """(what the public code computed, our edit of the same task), once for all tests of it."""
    name = request.param
    with np.load(PUBLIC / f"{name}.npz") as file:
        public = dict(file)
    model = clay_model
    if name == "rabbit_lora":
        model = lora.merged(clay_model, lora.load(PUBLIC / "adapter_rabbit.safetensors"))
    task = dragnb.clay.task(*TASKS[name]).task
    store = Store(
        tmp_path_factory.mktemp(name)
    )  # of its own, since the merged model bears the plain one's hash
    return public, pipeline.edit(task, model, SETTINGS, store)


def parted(ours, public):
    """The largest and the mean difference of two arrays."""
    difference = np.abs(np.asarray(ours, dtype=np.float64) - public)
    return difference.max(), difference.mean()


def test_picture_prompt_and_inversion(both):
    public, ours = both
    prepared = ours.prepared

    assert ours.task.prompt == str(public["prompt"])
    assert prepared.ts[0] == public["t"]
    assert parted(prepared.cond, public["cond"])[0] < 5e-6
    assert parted(prepared.zs[public["level_index"]], public["inverted"])[0] < 5e-4  # 2e-4 on some processors


def test_points_and_mask_become_the_same_cells(both):
    public, ours = both
    problem = ours.prepared.problem(ours.task)

    assert ours.prepared.map_hw == tuple(public["map_hw"])
    np.testing.assert_array_equal(problem.handles, public["handles_yx"])
    np.testing.assert_array_equal(problem.targets, public["targets_yx"])
    np.testing.assert_array_equal(problem.mask, public["mask_cells"])


def test_block_3_and_the_first_step_down(both):
    public, ours = both
    problem, z = ours.prepared.problem(ours.task), torch.from_numpy(public["z"][0][None])
    with torch.no_grad():
        feat, eps = problem.look(z, problem.ts[0])

    # every 8th cell of the enlarged map
    cells = features.upsample(feat.cells, feat.hw)[..., ::8, ::8]
    assert parted(cells, public["features_0"])[0] < 1e-4 * np.abs(public["features_0"]).max()
    assert parted(eps, public["eps_0"])[0] < 5e-5
    assert parted(problem.one_step_down(z, eps, problem.ts[0]), public["x_prev_0"])[0] < 1e-5


def test_every_iteration_of_the_drag(both):
    public, ours = both
    updates = int(public["updates"])

    assert len(ours.states) - 1 == updates
    tracked = np.stack([state.handles.numpy() for state in ours.states[: len(public["tracked_yx"])]])
    np.testing.assert_array_equal(tracked, public["tracked_yx"])
    motion, held = ([getattr(s, name) for s in ours.states[:updates]] for name in ("motion", "mask_loss"))
    np.testing.assert_allclose(motion, public["motion"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(held, public["mask_loss"], rtol=1e-2, atol=1e-2)
    for k, z in zip(public["z_index"], public["z"], strict=True):
        most, mean = parted(ours.states[k].z[0], z)
        assert most < (2e-2 if k >= 10 else 5e-4), f"after {k} updates a value parts by {most:.1e}"
        assert mean < 1e-4, f"after {k} updates values part by {mean:.1e} in the mean"


def test_reference_control_from_the_public_latent(both):
    public, ours = both
    *_, end = pipeline.denoise(ours.prepared, torch.from_numpy(public["z_final"]))

    assert parted(ours.prepared.back, public["denoised_reference"])[0] < 2e-4
    assert parted(end.z_next, public["denoised_edit"])[0] < 2e-4


def test_the_picture_of_a_whole_edit(both, record_property):
    public, ours = both
    db = metrics.psnr(ours.image, public["picture"])
    print(f"{db:.2f} dB from the public code's picture")
    record_property("dB", db)

    assert db > TRUNCATED
    # rounded here, cut down there: nothing else is left
    assert parted(ours.image, public["picture"])[0] <= 1
    assert 0.4 < (ours.image.astype(int) - public["picture"]).mean() < 0.6


def test_batched_reference_control_is_the_same(clay_model):
    """Both rows in one batch, as the public code has it; ours records the reference once."""
    with np.load(PUBLIC / "rabbit.npz") as public:
        z = torch.from_numpy(np.concatenate([public["inverted"][-1:], public["z_final"]]))
        cond, want = torch.from_numpy(public["cond"]), public["denoised_edit"]
    ts = ddim.timesteps(50)[15:]
    with attention.batched(clay_model, SETTINGS.ref_blocks):
        *_, end = ddim.sample(sd.eps_fn(clay_model, cond), z, clay_model.abar, ts)

    assert parted(end.z_next[1:], want)[0] < 1e-4


def test_tracking_and_motion_of_400_points():
    with np.load(PUBLIC / "tracking_and_motion.npz") as file:
        public = {name: torch.from_numpy(file[name]) for name in file}
    before, leaf = public["F0"], public["F1"].clone().requires_grad_(True)
    after = FeatureMap(leaf, tuple(leaf.shape[-2:]), "fine")
    handles, targets, known = public["handles_yx"], public["targets_yx"], public["motion"].isfinite()
    tracked = drag.track_points(before, after.detach(), handles, handles, radius=3)

    assert torch.equal(tracked, public["tracked_yx"])
    assert known[:200].all()
    for k in range(
        200
    ):  # at a border the public code clips the patch or crashes; here it is read at the border
        loss = drag.supervise(after, handles[k : k + 1], targets[k : k + 1], 1, "mean")
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert loss.item() == pytest.approx(public["motion"][k].item(), rel=1e-5, abs=1e-6)
        assert gradient.sum().item() == pytest.approx(public["grad_sum"][k].item(), abs=1e-4)
        assert gradient.abs().sum().item() == pytest.approx(public["grad_abs_sum"][k].item(), rel=1e-4)


def finetuned(model, steps):
    """Losses of the first steps of the fine-tune as profile "reference" has it, and the adapter after each."""
    settings = config.profile("reference")
    task = dragnb.clay.task(*TASKS["rabbit"]).task
    z0 = sd.encode(model, Frame.fit(*task.size, model.side).to_canvas(task.image))
    own, dist = sd.private(model), (z0, torch.zeros_like(z0))
    with lora.attached(own, settings):
        yield None, lora.weights_of(own)
        for state in lora.finetune(own, dist, sd.embed(model, task.prompt), settings):
            yield state.loss, lora.weights_of(own)
            if state.step == steps:
                return


def hold_the_finetune(model, steps):
    with np.load(PUBLIC / "finetune_rabbit.npz") as file:
        public = dict(file)
    for k, (loss, weights) in enumerate(finetuned(model, steps)):
        if k:
            assert loss == pytest.approx(public["loss"][k - 1], abs=1e-6), f"the loss before step {k}"
        for name in [name for name in public if name.startswith(f"{k}/")]:
            layer, half = name.removeprefix(f"{k}/").rsplit(".", 1)
            assert parted(weights[f"{layer}.lora.{half}.weight"], public[name])[0] < 1e-4, f"after {k} steps"
        if f"product_norm_{k}" in public:
            products = [
                (weights[f"{n}.lora.up.weight"] @ weights[f"{n}.lora.down.weight"]).norm().item()
                for n in public["names"]
            ]
            np.testing.assert_allclose(products, public[f"product_norm_{k}"], rtol=1e-3, atol=1e-5)
    assert k == steps


def test_the_first_ten_steps_of_the_fine_tune(clay_model):
    hold_the_finetune(clay_model, 10)


@pytest.mark.slow
def test_all_eighty_steps_of_the_fine_tune(clay_model):
    hold_the_finetune(clay_model, 80)
