"""Pictures made by a Stable Diffusion 2.1, predicting noise or v: as diffusers makes them, and dragged."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from narrow import PNDM, folder, parts

import dragnb
from dragnb import config, pipeline, sd

PROMPT, STEPS, GUIDANCE = "a cat on a chair", 5, 3.0


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def place(request, tmp_path_factory):
    plan = PNDM | {"prediction_type": request.param}
    return folder(tmp_path_factory.mktemp("sd2") / "model", parts(second=True), scheduler=plan)


@pytest.fixture(scope="module")
def cat(place):
    model = sd.load(str(place), device="cpu")
    return dragnb.generate(model, PROMPT, "a boat", 3, STEPS, GUIDANCE, size=(128, 64))


def test_a_picture_of_stable_diffusion_2_is_the_one_of_diffusers(cat, place):
    pipe = StableDiffusionPipeline.from_pretrained(place, safety_checker=None, feature_extractor=None)
    plan = {k: v for k, v in PNDM.items() if k not in ("_class_name", "skip_prk_steps")}
    kind = cat.model.prediction_type
    pipe.scheduler = DDIMScheduler.from_config(plan | {"clip_sample": False, "prediction_type": kind})
    theirs = pipe(
        PROMPT, negative_prompt="a boat", num_inference_steps=STEPS, guidance_scale=GUIDANCE,
        latents=cat.zs[:1], height=64, width=128, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(cat.zs[-1:], theirs, atol=1e-4, rtol=1e-4)


def test_a_picture_of_stable_diffusion_2_is_dragged_from_its_own_latent(cat, cache):
    settings = config.profile("reference", drag_steps=2)
    task = cat.task([[40, 32]], [[80, 32]])
    result = pipeline.edit(task, settings=settings, store=cache, generated=cat)
    assert torch.equal(result.states[0].z, cat.zs[-1 - len(result.prepared.ts)][None])
    assert torch.isfinite(result.z).all() and len(result.states) == 3
    assert torch.allclose(result.prepared.back, cat.zs[-1:], atol=1e-4), "the reference is its own road"
    still = pipeline.edit(task, settings=settings.replace(drag_steps=0), store=cache, generated=cat)
    assert np.abs(still.image.astype(int) - cat.image).max() <= 1
