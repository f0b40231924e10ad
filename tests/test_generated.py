"""Pictures that the model makes: as diffusers makes them, and dragged from their own latents."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import dragnb
from dragnb import config, features, pipeline, sd
from dragnb.errors import InputError

PROMPT = "a green rabbit on sandy ground under a yellow sky"
STEPS, GUIDANCE = 10, 3.0


@pytest.fixture(scope="module")
def model():
    return dragnb.load_model("clay", device="cpu")


@pytest.fixture(scope="module")
def rabbit(model):
    return dragnb.generate(model, PROMPT, "a boat", seed=5, steps=STEPS, guidance=GUIDANCE)


@pytest.fixture(scope="module")
def settings():
    return config.profile("reference", drag_steps=3)


@pytest.fixture(scope="module")
def dragged(rabbit, settings, kept):
    mask = np.zeros(rabbit.image.shape[:2], bool)
    mask[40:200, 60:200] = True
    events = [
        *pipeline.run(rabbit.task([[128, 80]], [[128, 60]], mask), "clay", settings, kept, generated=rabbit)
    ]
    return events, events[-1].data


def by_diffusers(model, noise, negative, guidance):
    """The latent and the picture that diffusers' own pipeline makes of the same noise."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        model.vae, model.text_encoder, model.tokenizer, model.unet, scheduler, None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    how = dict(negative_prompt=negative, num_inference_steps=STEPS, guidance_scale=guidance, latents=noise)
    latent = pipe(PROMPT, output_type="latent", **how).images
    return latent, pipe(PROMPT, output_type="np", **how).images[0]


@pytest.mark.parametrize("guidance", [GUIDANCE, 1])
def test_the_picture_is_the_one_that_diffusers_makes_of_the_same_noise(model, rabbit, guidance):
    ours = rabbit if guidance == GUIDANCE else dragnb.generate(model, PROMPT, seed=5, steps=STEPS, guidance=1)
    latent, picture = by_diffusers(model, ours.zs[:1], ours.negative, guidance)

    assert torch.allclose(ours.zs[-1:], latent, atol=1e-4)
    assert np.abs(ours.image - picture * 255).max() < 0.6
    assert (ours.uncond is None) == (guidance == 1)


def test_the_road_is_kept_from_the_seeds_noise_to_the_clean_latent(model, rabbit):
    again = dragnb.generate(model, **rabbit.recipe)

    assert rabbit.zs.shape == (STEPS + 1, 4, 32, 32) and len(rabbit.ts) == STEPS and rabbit.ts[0] == 901
    assert torch.equal(rabbit.zs[:1], torch.randn((1, 4, 32, 32), generator=torch.Generator().manual_seed(5)))
    assert torch.equal(again.zs, rabbit.zs)


def test_its_drag_starts_from_its_own_latent_without_fine_tune_and_inversion(rabbit, dragged):
    events, result = dragged
    work = {event.stage for event in events if event.n}

    assert not work & {"encode", "finetune", "invert"}
    assert not result.prepared.weights
    assert result.prepared.ts == rabbit.ts[3:] == tuple(range(601, 0, -100))
    assert torch.equal(result.states[0].z, rabbit.zs[3:4])
    assert not np.array_equal(result.image, rabbit.image)
    assert result.record["generated"] == rabbit.recipe


def test_the_reference_is_its_own_road(rabbit, dragged, settings, kept):
    prepared = dragged[1].prepared
    still = pipeline.edit(
        dragged[1].task, settings=settings.replace(drag_steps=0), store=kept, generated=rabbit
    )

    assert torch.allclose(prepared.back, rabbit.zs[-1:], atol=1e-5)
    assert "reference" in still.from_cache
    assert np.abs(still.image.astype(int) - rabbit.image).max() <= 1, "nothing dragged, nothing changed"


def test_under_guidance_the_drag_sees_both_prompts_as_the_public_code_weighs_them(model, rabbit, dragged):
    prepared, z, t = dragged[1].prepared, rabbit.zs[3:4], rabbit.ts[3]
    with torch.no_grad():
        feat, eps = prepared.look(z, t)
        free, told = (features.capture(model, z, t, cond)[0][3] for cond in (rabbit.uncond, rabbit.cond))

    weight = GUIDANCE / (2 * GUIDANCE - 1)  # .536 at 7.5
    want = torch.cat([(1 - weight) * free, weight * told], dim=1)
    assert torch.allclose(feat.cells, want, atol=1e-4)
    assert torch.allclose(eps, sd.eps_fn(model, rabbit.cond, GUIDANCE, rabbit.uncond)(z, t), atol=1e-5)


def test_without_guidance_the_drag_sees_the_prompt_alone(model, settings, kept):
    plain = dragnb.generate(model, PROMPT, seed=5, steps=STEPS, guidance=1)
    prepared = pipeline.prepare(
        plain.task([[128, 80]], [[128, 60]]), settings=settings, store=kept, generated=plain
    )
    feat, _ = prepared.look(plain.zs[3:4], plain.ts[3])

    assert feat.cells.shape[1] == model.unet.config.block_out_channels[1]
    assert torch.allclose(prepared.back, plain.zs[-1:], atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"guidance": 0.5}, "guidance"),
        ({"size": (250, 256)}, "size"),
        ({"steps": 7}, "steps"),
    ],
)
def test_what_is_out_of_range_is_named(model, wrong, named):
    with pytest.raises(InputError, match=named):
        dragnb.generate(model, PROMPT, **wrong)


def test_another_picture_is_refused(rabbit, kept):
    other = dragnb.DragTask(255 - rabbit.image, [[128, 80]], [[128, 60]])

    with pytest.raises(InputError, match="generated"):
        pipeline.prepare(other, store=kept, generated=rabbit)
