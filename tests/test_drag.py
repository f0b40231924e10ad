"""Latent optimisation: tracking, motion supervision, the mask term, stopping; each by its law."""

import pytest
import torch

from dragnb import ddim, drag, features, lora, sd
from dragnb.config import Settings
from dragnb.errors import InputError

SIDE = 32


def blob(at, side=SIDE, channels=6, width=2.0):
    """A bump whose channels have different heights: (1, channels, side, side)."""
    yx = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).float()
    bump = torch.exp(-(yx - torch.tensor(at).float()).square().sum(-1) / (2 * width**2))
    return (bump * torch.arange(1, channels + 1).view(-1, 1, 1))[None]


def test_tracker_follows_a_blob_it_has_seen_move():
    before, after = blob(at=(12, 9)), blob(at=(14, 8))
    start = torch.tensor([[12.0, 9.0]])

    found = drag.track_points(before, after, anchors=start, handles=start, radius=3)

    assert found.tolist() == [[14.0, 8.0]]
    assert start.tolist() == [[12.0, 9.0]], "tracking must not mutate its arguments"


def test_tracking_many_points_at_once_is_tracking_each():
    before, after = torch.randn(1, 8, 20, 20), torch.randn(1, 8, 20, 20)
    anchors, handles = torch.rand(5, 2) * 19, torch.rand(5, 2) * 19
    together = drag.track_points(before, after, anchors, handles, 2)
    alone = [
        drag.track_points(before, after, a[None], h[None], 2) for a, h in zip(anchors, handles, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_on_ties_the_first_place_in_row_major_order_wins():
    flat = torch.ones(1, 3, 9, 9)
    point = torch.tensor([[4.0, 4.0]])
    assert drag.track_points(flat, flat, point, point, 2).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("corner", [(0.0, 0.0), (31.0, 31.0), (0.0, 31.0), (31.0, 0.0)])
def test_points_on_the_border_are_tracked_and_pulled_without_leaving_the_map(corner):
    point = torch.tensor([corner])
    feat = torch.randn(1, 4, SIDE, SIDE, requires_grad=True)
    found = drag.track_points(feat.detach(), feat.detach(), point, point, 3)
    assert torch.equal(found, point)
    drag.supervise(feat, point, 31 - point).backward()
    assert torch.isfinite(feat.grad).all()


@pytest.mark.parametrize(
    "pair", [((1, 128), (0, 140)), ((254, 128), (254, 160)), ((255, 0), (255, 1)), ((256, 3), (300, 9))]
)
def test_places_that_crash_the_public_code_are_served(pair):
    handle, target = (torch.tensor([p]).float() for p in pair)
    feat = torch.randn(1, 4, 64, 64, requires_grad=True)
    fine = features.FeatureMap(feat, (256, 256))
    drag.supervise(fine, handle, target).backward()
    found = drag.track_points(fine.detach(), fine.detach(), handle, handle, 3)
    assert (found >= 0).all() and (found <= 255).all()


def test_motion_supervision_is_equation_three_by_hand():
    feat, handle, target = (
        torch.randn(1, 7, SIDE, SIDE),
        torch.tensor([[10.0, 20.0]]),
        torch.tensor([[13.0, 24.0]]),
    )
    step, total = torch.tensor([0.6, 0.8]), 0.0
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            q = handle[0] + torch.tensor([dy, dx])
            total += (
                (features.as_map(feat).read((q + step)[None]) - feat[0, :, int(q[0]), int(q[1])]).abs().sum()
            )
    torch.testing.assert_close(drag.supervise(feat, handle, target), total)
    torch.testing.assert_close(drag.supervise(feat, handle, target, norm="mean"), total / 7)


def test_the_patch_at_the_handle_gets_no_gradient():
    feat = torch.randn(1, 3, SIDE, SIDE, requires_grad=True)
    drag.supervise(feat, torch.tensor([[8.0, 8.0]]), torch.tensor([[8.0, 20.0]]), radius=0).backward()
    assert feat.grad[0, :, 8, 8].abs().sum() == 0 and feat.grad[0, :, 8, 9].abs().sum() > 0


def test_points_that_arrived_take_no_part_and_all_arrived_is_exactly_zero():
    feat = torch.randn(1, 3, SIDE, SIDE)
    handles, targets = torch.tensor([[8.0, 8.0], [20.0, 20.0]]), torch.tensor([[8.5, 8.0], [20.0, 25.0]])
    both = drag.supervise(feat, handles, targets, stop=1.0)
    torch.testing.assert_close(both, drag.supervise(feat, handles[1:], targets[1:], stop=1.0))
    assert drag.supervise(feat, handles, handles).item() == 0
    assert drag.supervise(feat, handles[:1], targets[:1], stop=1.0).item() == 0


def test_an_unknown_norm_is_named():
    with pytest.raises(InputError, match="motion_norm = 'max'"):
        drag.supervise(blob((3, 3)), torch.zeros(1, 2), torch.ones(1, 2), norm="max")


# the optimiser, on the smoke model

T = 681


@pytest.fixture(scope="module")
def cond(smoke):
    return sd.embed(smoke, "a cat")


@pytest.fixture(scope="module")
def z_t():
    return torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def held():
    mask = torch.ones(1, 1, 32, 32)
    mask[..., :16] = 0
    return mask


def problem(model, z_t, cond, handles, targets, mask, settings):
    """What `Prepared.problem` gives a method, at one timestep, of a picture that is 8 times the latent's size."""
    hw = tuple(round(n * 8 * settings.supersample) for n in z_t.shape[-2:])

    def look(z, t, eps=True, cond=cond):
        feats, noise = features.capture(model, z, t, cond, (settings.block,), stop_early=not eps)
        ddim.require_finite(feats[settings.block], f"the features of block {settings.block} at t = {t}")
        return features.FeatureMap(feats[settings.block], hw), noise

    points = torch.as_tensor(handles), torch.as_tensor(targets)
    return drag.Problem(look, z_t, (T,), *points, mask, settings, model.abar)


def go(model, z_t, cond, mask=None, handle=(60.0, 60.0), target=(60.0, 90.0), **settings):
    settings = Settings(**{"drag_steps": 3, **settings})
    return list(drag.optimise(problem(model, z_t, cond, [handle], [target], mask, settings)))


def test_states_run_from_the_given_latent_to_the_last_update(smoke, z_t, cond, held):
    kept = z_t.clone()
    states = go(smoke, z_t, cond, held)
    assert [s.step for s in states] == [0, 1, 2, 3]
    assert torch.equal(states[0].z, z_t) and torch.equal(z_t, kept), "the latent given must not be mutated"
    assert not any(torch.equal(a.z, b.z) for a, b in zip(states, states[1:], strict=False))
    assert all(not s.z.requires_grad and s.loss == s.motion + s.mask_loss for s in states)


def test_the_first_step_of_adam_moves_by_the_learning_rate(smoke, z_t, cond):
    states = go(smoke, z_t, cond, drag_lr=0.02, drag_steps=1)
    assert (states[1].z - z_t).abs().max().item() == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("mask_on", ["prev", "now"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_at_zero_displacement_the_mask_loss_is_exactly_zero(smoke_folder, z_t, held, mask_on, dtype):
    model = sd.load(str(smoke_folder), device="cpu", dtype=dtype)
    states = go(model, z_t, sd.embed(model, ""), held, mask_on=mask_on, drag_steps=1)
    assert states[0].mask_loss == 0 and states[1].mask_loss > 0


def test_no_mask_a_full_mask_and_lam_zero_are_one_thing(smoke, z_t, cond, held):
    runs = [
        go(smoke, z_t, cond),
        go(smoke, z_t, cond, torch.ones_like(held)),
        go(smoke, z_t, cond, held, lam=0),
    ]
    for states in zip(*runs, strict=True):
        assert all(torch.equal(s.z, states[0].z) and s.mask_loss == 0 for s in states)


def test_a_large_lam_holds_the_rest_still(smoke, z_t, cond, held):
    def moved(lam):
        z = go(smoke, z_t, cond, held, lam=lam, drag_steps=12, mask_on="now")[-1].z
        return ((z - z_t) * (1 - held)).abs().mean()

    assert moved(10.0) < 0.7 * moved(0.0)


def test_a_handle_on_its_target_ends_the_drag_before_it_begins(smoke, z_t, cond):
    states = go(smoke, z_t, cond, target=(60.5, 60.0))
    assert len(states) == 1 and states[0].reached and torch.equal(states[0].z, z_t)
    assert go(smoke, z_t, cond, target=(60.0, 60.0), stop=0)[-1].reached, (
        "zero distance is reached at stop = 0 too"
    )


def test_handles_in_float_are_served_and_stay_as_given_at_step_zero(smoke, z_t, cond):
    assert go(smoke, z_t, cond, handle=(60.25, 59.75))[0].handles.tolist() == [[60.25, 59.75]]


def test_nothing_leaks_when_the_loop_is_left(smoke, z_t, cond, held):
    states = drag.optimise(problem(smoke, z_t, cond, [[9.0, 9.0]], [[30.0, 9.0]], held, Settings()))
    next(states)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        next(states)
        assert not torch.is_grad_enabled()
    states.close()
    assert not any(m._forward_hooks for m in smoke.unet.modules())
    assert not any(p.requires_grad or p.grad is not None for p in smoke.unet.parameters())


def test_nan_is_named_where_it_shows(smoke, z_t, cond):
    with pytest.raises(InputError, match="latent to drag holds NaN"):
        go(smoke, z_t * float("nan"), cond)
    weights = {k: v * float("nan") for k, v in fresh(smoke).items()}
    with pytest.raises(InputError, match="features of block 3 at t = 681 holds NaN|features of block 3"):
        go(lora.merged(smoke, weights), z_t, cond)


def fresh(model):
    with lora.attached(model, Settings(lora_rank=1)):
        return lora.weights_of(model)


@pytest.mark.parametrize("shape", [(0, 2), (1, 3), (2,)])
def test_points_that_are_no_pairs_are_refused(smoke, z_t, cond, shape):
    with pytest.raises(InputError, match="are not n pairs"):
        problem(smoke, z_t, cond, torch.zeros(shape), torch.zeros(shape), None, Settings())


def test_content_moves_where_features_are_the_latent_itself(smoke, cond, monkeypatch):
    """With the identity for a U-Net, eq. 3 to 5 must carry a bump to the target, texture and all."""
    monkeypatch.setattr(
        features, "capture", lambda model, z, t, cond, blocks, stop_early: ({blocks[0]: z}, None)
    )
    handle, target = torch.tensor([[16.0, 10.0]]), torch.tensor([[16.0, 17.0]])
    start = 3 * blob(at=(16, 10), channels=4, width=3)
    settings = Settings(drag_steps=300, drag_lr=0.05, supersample=0.125, motion_norm="sum", stop=1.5)
    last = list(drag.optimise(problem(smoke, start, cond, handle, target, None, settings)))[-1]
    assert last.reached
    assert features.as_map(last.z).read(last.handles).sum() > 0.8 * features.as_map(start).read(handle).sum()
