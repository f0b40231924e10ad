"""The schedule is diffusers' own, and the way into noise is the way back."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from dragnb import ddim
from dragnb.errors import InputError, NotFiniteError

SD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
DIVISORS = (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500)
ABAR = ddim.alphas_bar()


def latent(seed=0, dtype=torch.float32):
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made_up_eps(z, t):
    """Noise that depends on both the latent and the time, as a U-Net's does."""
    return torch.sin(3 * z + t / 100)


def diffusers_ddim(kind, steps, prediction_type="epsilon"):
    scheduler = kind.from_config(DDIMScheduler(**SD, prediction_type=prediction_type).config)
    scheduler.set_timesteps(steps)
    return scheduler


# the schedule


def test_the_signal_fraction_is_diffusers_own():
    assert torch.equal(ABAR, DDIMScheduler(**SD).alphas_cumprod)
    assert ABAR[681].item() == pytest.approx(0.0946, abs=5e-5)


@pytest.mark.parametrize("steps", DIVISORS)
def test_the_timesteps_are_diffusers_own_for_every_number_that_divides(steps):
    assert ddim.timesteps(steps) == diffusers_ddim(DDIMScheduler, steps).timesteps.tolist()
    assert ddim.timesteps(steps)[::-1] == diffusers_ddim(DDIMInverseScheduler, steps).timesteps.tolist()


def test_an_edit_of_strength_0_7_in_50_steps_starts_at_681():
    assert ddim.timesteps(50)[:2] + ddim.timesteps(50)[-2:] == [981, 961, 21, 1]
    assert ddim.start_index(50, 0.7) == 15
    assert ddim.start_timestep(50, 0.7) == 681


@pytest.mark.parametrize(
    ("steps", "strength", "runs"),
    [(50, 1.0, 50), (25, 0.7, 18), (20, 0.75, 15), (50, 0.02, 1), (10, 0.25, 2)],
)
def test_strength_is_the_part_of_the_schedule_that_runs(steps, strength, runs):
    assert steps - ddim.start_index(steps, strength) == runs


@pytest.mark.parametrize("steps", [0, -5, 501, 1000, 2.5, True, "50"])
def test_a_number_of_steps_out_of_range_is_named(steps):
    with pytest.raises(InputError, match=r"steps = .* is not a whole number from 1 to 500"):
        ddim.timesteps(steps)


@pytest.mark.parametrize(("steps", "near"), [(30, 25), (35, 40), (333, 250)])
def test_a_number_of_steps_that_does_not_divide_is_named_with_its_neighbour(steps, near):
    with pytest.raises(
        InputError, match=rf"steps = {steps} does not divide 1000; the nearest that does is {near}"
    ):
        ddim.timesteps(steps)


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, float("nan")])
def test_a_strength_out_of_range_is_named(strength):
    with pytest.raises(InputError, match=r"strength = .* lies outside \(0, 1\]"):
        ddim.start_index(50, strength)


def test_a_strength_of_less_than_a_step_is_named_rather_than_running_nothing():
    with pytest.raises(
        InputError, match=r"strength = 0\.005 of 50 steps rounds to no step at all; use 0\.02"
    ):
        ddim.start_index(50, 0.005)


def test_below_the_first_timestep_the_signal_is_that_of_the_first():
    assert ddim.abar_at(ABAR, -19) == ddim.abar_at(ABAR, 0) == ABAR[0]
    assert ddim.abar_at(ABAR, 681) == ABAR[681]


# the moves


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [10, 50])
def test_sampling_is_diffusers_own(steps, prediction_type):
    scheduler, z, out = diffusers_ddim(DDIMScheduler, steps, prediction_type), latent(), made_up_eps
    wanted = z
    for t in scheduler.timesteps:
        wanted = scheduler.step(out(wanted, t), t, wanted).prev_sample

    def eps_fn(z, t):
        return ddim.to_eps(out(z, t), z, ddim.abar_at(ABAR, t), prediction_type)

    *_, last = ddim.sample(eps_fn, z, ABAR, ddim.timesteps(steps))

    assert torch.allclose(last.z_next, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [10, 50])
def test_inversion_is_diffusers_own(steps):
    scheduler, z = diffusers_ddim(DDIMInverseScheduler, steps), latent()
    wanted, here = [], z
    for t in scheduler.timesteps:
        here = scheduler.step(made_up_eps(here, t), t, here).prev_sample
        wanted.append(here)

    found = [state.z for state in ddim.invert(made_up_eps, z, ABAR, ddim.timesteps(steps))]

    assert len(found) == len(wanted)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, wanted, strict=True))


def test_a_move_with_one_fixed_noise_is_undone_by_the_move_back():
    z, eps, abar = latent(0, torch.float64), latent(1, torch.float64), ABAR.double()

    there = ddim.ddim_move(z, eps, abar[1], abar[681])
    back = ddim.ddim_move(there, eps, abar[681], abar[1])

    assert torch.allclose(back, z, atol=1e-13)


@pytest.mark.parametrize("steps", [5, 50])
def test_with_one_fixed_noise_the_whole_way_there_is_the_whole_way_back(steps):
    z, noise, abar = latent(0, torch.float64), latent(1, torch.float64), ABAR.double()
    ts = ddim.timesteps(steps)[ddim.start_index(steps, 0.6) :]

    *_, top = ddim.invert(lambda z, t: noise, z, abar, ts)
    *_, bottom = ddim.sample(lambda z, t: noise, top.z, abar, ts)

    assert top.t == ts[0]
    assert torch.allclose(bottom.z_next, z, atol=1e-12)


def test_a_move_to_no_noise_gives_the_picture_and_to_full_noise_the_noise():
    z0, eps, abar = latent(0), latent(1), torch.tensor(0.3)
    z = abar.sqrt() * z0 + (1 - abar).sqrt() * eps

    assert torch.allclose(ddim.ddim_move(z, eps, abar, torch.tensor(1.0)), z0, atol=1e-5)
    assert torch.allclose(ddim.predicted_x0(z, eps, abar), z0, atol=1e-5)
    assert torch.allclose(ddim.ddim_move(z, eps, abar, torch.tensor(0.0)), eps, atol=1e-5)


def test_every_prediction_type_means_the_same_noise():
    z0, eps, abar = latent(0), latent(1), ABAR[400]
    z = abar.sqrt() * z0 + (1 - abar).sqrt() * eps
    v = abar.sqrt() * eps - (1 - abar).sqrt() * z0

    assert torch.equal(ddim.to_eps(eps, z, abar, "epsilon"), eps)
    assert torch.allclose(ddim.to_eps(v, z, abar, "v_prediction"), eps, atol=1e-5)
    assert torch.allclose(ddim.to_eps(z0, z, abar, "sample"), eps, atol=1e-5)
    with pytest.raises(InputError, match=r"prediction_type = 'epsilom' is unknown; did you mean 'epsilon'"):
        ddim.to_eps(eps, z, abar, "epsilom")


# the walks


def test_real_neighbours_are_used_and_the_order_given_does_not_matter():
    ts, seen = [701, 301, 11], []

    def eps_fn(z, t):
        seen.append(t)
        return torch.zeros_like(z)

    states = list(ddim.invert(eps_fn, latent(), ABAR, ts))
    *_, last = ddim.sample(eps_fn, states[-1].z, ABAR, ts[::-1])

    assert seen == [11, 301, 701, 701, 301, 11]
    assert [(s.i, s.t) for s in states] == [(0, 11), (1, 301), (2, 701)]
    assert torch.allclose(states[1].z, latent() * (ABAR[301] / ABAR[0]).sqrt(), atol=1e-6)
    assert torch.allclose(last.z_next, latent(), atol=1e-5)


def test_the_walks_are_lazy_detached_and_leave_their_input_alone():
    z = latent().requires_grad_()
    before = z.detach().clone()

    first = next(ddim.invert(made_up_eps, z, ABAR, ddim.timesteps(50)))
    move = next(ddim.sample(made_up_eps, z, ABAR, ddim.timesteps(50)))

    assert not any(x.requires_grad for x in (first.z, move.z, move.z_next, move.eps))
    assert torch.equal(z, before)
    assert torch.is_grad_enabled(), "the caller's gradient mode is its own"


@pytest.mark.parametrize("walk", [ddim.invert, ddim.sample])
def test_nan_in_a_latent_is_named_with_its_step_and_the_remedy(walk):
    def eps_fn(z, t):
        return z * float("nan") if t == 61 else z

    with pytest.raises(NotFiniteError, match=r"step .* \(t = 61\) holds NaN or infinity; .*dtype='float32'"):
        list(walk(eps_fn, latent(), ABAR, [101, 81, 61, 41]))
