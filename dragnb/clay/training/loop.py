"""The training loop: what it trains on, one seed a step, checkpoints from which it goes on exactly.

Resume is exact because nothing random outlives a step: the draws of step k come from a generator seeded with
(seed, part, k), and weights, averages and optimiser state are saved together, beside and then renamed.
The U-Net and the text encoder are trained jointly on the latents of the autoencoder's averaged weights.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dragnb import ddim, metrics, sd
from dragnb.clay.scene import sample
from dragnb.clay.training import parts
from dragnb.clay.training.data import HELDOUT_SEED, Pictures, to_unit
from dragnb.errors import InputError
from dragnb.geometry import Frame

SHOW_EVERY = 50  # steps between points of the loss curve


def step_generator(recipe, part, step):
    """The one source of randomness of a step."""
    return torch.Generator().manual_seed(((recipe.seed * 2 + (part == "unet")) << 32) + step)


def draw_timesteps(count, focus, generator):
    """Half of the timesteps uniform over the schedule, half within `focus`, (count,) whole numbers in 0..999."""
    anywhere = torch.randint(0, 1000, (count,), generator=generator)
    within = torch.randint(*focus, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, anywhere, within)


def learning_rate(peak, step, total, recipe):
    """Warm-up, plateau, cosine down to nearly nothing."""
    done = step / total
    fall = (
        1.0
        if done < recipe.decay_from
        else 0.5 * (1 + math.cos(math.pi * (done - recipe.decay_from) / (1 - recipe.decay_from)))
    )
    return peak * min(1.0, (step + 1) / recipe.warmup) * (fall + 0.01)


@torch.no_grad()
def update_average(average, current, decay, step):
    """Exponential moving average of weights; young averages follow faster."""
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - d)


def checkpoint(path, step, curve, seconds, modules, averages, optimizer):
    """Write all that training goes on from, whole or not at all."""
    state = dict(
        step=step,
        curve=curve,
        seconds=seconds,
        weights={k: m.state_dict() for k, m in modules.items()},
        averages={k: m.state_dict() for k, m in averages.items()},
        optimizer=optimizer,
    )
    torch.save(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def fit(name, modules, loss_fn, steps, peak_lr, recipe, out, weight_decay, ema):
    """Train `modules` (name -> module) by `loss_fn(step) -> loss`: a generator of (step, loss, lr), step by step.

    Every `save_every` steps, and at the end, `out/name.pt` holds weights, averages, optimiser and the loss curve.
    """
    path = out / f"{name}.pt"
    averages = {k: copy.deepcopy(m).requires_grad_(False) for k, m in modules.items()}
    weights = [p for m in modules.values() for p in m.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=peak_lr, betas=(0.9, 0.99), weight_decay=weight_decay)
    first, curve, spent = 0, [], 0.0
    if path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for k, m in modules.items():
            m.load_state_dict(saved["weights"][k]), averages[k].load_state_dict(saved["averages"][k])
        if saved["optimizer"]:  # an adopted model brings none
            optimizer.load_state_dict(saved["optimizer"])
        first, curve, spent = saved["step"], saved["curve"], saved["seconds"]
    started, mean = time.monotonic(), curve[-1][1] if curve else None
    for step in range(first, steps):
        lr = learning_rate(peak_lr, step, steps, recipe)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss, shown = loss_fn(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        for k, m in modules.items():
            update_average(averages[k], m, ema, step)
        mean = float(shown) if mean is None else 0.98 * mean + 0.02 * float(shown)
        last = step + 1 == steps
        if (step + 1) % SHOW_EVERY == 0 or last:
            curve.append((step + 1, mean))
        if (step + 1) % recipe.save_every == 0 or last:
            seconds = spent + time.monotonic() - started
            checkpoint(path, step + 1, curve, seconds, modules, averages, optimizer.state_dict())
        yield step + 1, mean, lr


def batches(data, recipe, part, batch, first, steps):
    """The pictures of every step in order, (step, uint8 batch); fresh ones are drawn ahead by worker processes."""
    plan = [data.seeds(k, batch, step_generator(recipe, part, k)) for k in range(first, steps)]
    workers = 0 if recipe.pictures else recipe.workers
    loader = torch.utils.data.DataLoader(data, batch_sampler=plan, num_workers=workers, collate_fn=np.stack)
    return zip(range(first, steps), plan, loader, strict=True)


def saved_step(out, name):
    """How many steps of a part a checkpoint holds (0 without one)."""
    path = out / f"{name}.pt"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"] if path.exists() else 0


def trained(out, name, module, key):
    """A module with a checkpoint's averaged weights, frozen."""
    saved = torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)
    module.load_state_dict(saved["averages"][key])
    return module.eval().requires_grad_(False)


def train_autoencoder(recipe, out, device):
    """Reconstruction of crops: absolute error, squared error and edges; latents kept near unit variance."""
    vae = parts.build(recipe.size, recipe.seed).vae.train().to(device, memory_format=torch.channels_last)
    data = Pictures(recipe, out).prepare()
    stream = batches(
        data, recipe, "autoencoder", recipe.vae_batch, saved_step(out, "autoencoder"), recipe.vae_steps
    )
    c, half = recipe.vae_crop, device != "cpu"

    def loss_fn(step):
        at, _, pictures = next(stream)
        assert at == step
        g = step_generator(recipe, "autoencoder", step)
        oy, ox = torch.randint(0, pictures.shape[1] - c + 1, (2,), generator=g).tolist()
        x = to_unit(pictures[:, oy : oy + c, ox : ox + c], device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            z = vae.encoder(x)
            noise = torch.randn(z.shape, generator=g).to(device)
            y = vae.decoder(z + recipe.latent_noise * noise)
        y, z = y.float(), z.float()
        edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        loss = (y - x).abs().mean() + (y - x).square().mean() + 0.5 * edges
        coarse = (
            torch.nn.functional.avg_pool2d(y - x, 8).abs().mean()
        )  # flat colours: the eye sees them first
        spread = (z.var((0, 2, 3)) - 1).abs().mean()  # every latent channel at one scale, as the noise is
        loss = loss + 2 * coarse + recipe.latent_spread * spread
        return loss, (y - x).detach().square().mean()

    yield from fit(
        "autoencoder",
        {"vae": vae},
        loss_fn,
        recipe.vae_steps,
        recipe.vae_lr,
        recipe,
        out,
        0.0,
        recipe.vae_ema,
    )


@torch.no_grad()
def encode_all(recipe, out, device, batch=8, progress=lambda done, total: None):
    """Latents of the drawn set, unscaled, kept on disk, and the factor that makes their variance one.

    The file bears the autoencoder's step in its name, so that a longer trained one never meets older latents.
    """
    vae = trained(out, "autoencoder", parts.build_vae(recipe.size), "vae").to(
        device, memory_format=torch.channels_last
    )
    data = Pictures(recipe, out).prepare()
    count = recipe.pictures or 512
    path = out / f"latents-{count}-{saved_step(out, 'autoencoder')}.npy"
    if not path.exists():
        chunks = []
        for a in range(0, count, batch):
            pictures = np.stack([data[i] for i in range(a, min(a + batch, count))])
            chunks.append(vae.encoder(to_unit(pictures, device)).float().cpu().numpy())
            progress(a + len(pictures), count)
        np.save(path.with_suffix(".partial.npy"), np.concatenate(chunks))
        os.replace(path.with_suffix(".partial.npy"), path)
    latents = torch.from_numpy(np.load(path))
    return latents, 1.0 / latents.std().item(), vae, data


def train_unet(recipe, out, device):
    """Noise prediction (ε) with min-SNR weights, U-Net and text encoder together."""
    made = parts.build(recipe.size, recipe.seed)
    unet = made.unet.train().to(device, memory_format=torch.channels_last)
    text = made.text_encoder.train().to(device)
    latents, factor, vae, data = encode_all(recipe, out, device)
    abar = ddim.alphas_bar().to(device)
    stream = (
        batches(data, recipe, "unet", recipe.unet_batch, saved_step(out, "unet"), recipe.unet_steps)
        if not recipe.pictures
        else None
    )
    half, b = device != "cpu", recipe.unet_batch

    def batch_of(step, g):
        if stream is None:
            seeds = data.seeds(step, b, g)
            return seeds, latents[seeds]
        _, seeds, pictures = next(stream)
        with torch.no_grad():
            return seeds, vae.encoder(to_unit(pictures, device)).float()

    def loss_fn(step):
        g = step_generator(recipe, "unet", step)
        seeds, z0 = batch_of(step, g)
        captions = [sample(s).caption for s in seeds]
        drop = torch.rand(b, generator=g) < recipe.caption_dropout
        ids = made.tokenizer([("" if d else c) for d, c in zip(drop, captions, strict=True)], padding="max_length",
                             max_length=parts.MAX_TOKENS, truncation=True, return_tensors="pt").input_ids  # fmt: skip
        t = draw_timesteps(b, recipe.focus, g).to(device)
        noise = torch.randn(z0.shape, generator=g).to(device)
        a = abar[t].view(-1, 1, 1, 1)
        z = (a.sqrt() * z0.to(device) * factor + (1 - a).sqrt() * noise).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            out_ = unet(z, t, text(ids.to(device)).last_hidden_state).sample
        error = (out_.float() - noise).square().mean((1, 2, 3))
        snr = (a / (1 - a)).view(-1)
        return (error * snr.clamp(max=recipe.min_snr) / snr).mean(), error.detach().mean()

    yield from fit(
        "unet",
        {"unet": unet, "text_encoder": text},
        loss_fn,
        recipe.unet_steps,
        recipe.unet_lr,
        recipe,
        out,
        1e-3,
        recipe.ema,
    )


def adopt(recipe, out, folder):
    """Begin from a finished model: its autoencoder is kept, its U-Net and text encoder are trained on from step 0.

    What was done to the model before goes along (`adopted.json`), and into the training.json of what is exported.
    """
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel

    if saved_step(out, "unet"):
        raise InputError(f"out: {out} holds a training of its own; adopt a model into an empty folder")
    kinds = {"vae": AutoencoderTiny, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    made = {k: kind.from_pretrained(Path(folder) / k, torch_dtype=torch.float32) for k, kind in kinds.items()}
    vae, record = {"vae": made.pop("vae")}, Path(folder) / "training.json"
    before = json.loads(record.read_text()) if record.exists() else {}
    known = before.get("autoencoder", {"curve": [], "seconds": 0.0})
    checkpoint(out / "autoencoder.pt", recipe.vae_steps, known["curve"], known["seconds"], vae, vae, {})
    checkpoint(out / "unet.pt", 0, [], 0.0, made, made, {})
    (out / "adopted.json").write_text(json.dumps(before))


def export(recipe, out, folder):
    """Write the averaged weights as a diffusers folder in fp16, and how they were trained as `training.json`."""
    made = parts.build(recipe.size, recipe.seed)
    _, factor, _, _ = encode_all(recipe, out, "cpu")
    trained(out, "autoencoder", made.vae, "vae").register_to_config(scaling_factor=factor)
    trained(out, "unet", made.unet, "unet"), trained(out, "unet", made.text_encoder, "text_encoder")
    folder = parts.save_folder(made, folder)
    history = {
        "recipe": dataclasses.asdict(recipe),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    for name in ("autoencoder", "unet"):
        saved = torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)
        history[name] = {"steps": saved["step"], "seconds": round(saved["seconds"]), "curve": saved["curve"]}
    if (out / "adopted.json").exists():
        history["before"] = json.loads((out / "adopted.json").read_text())
    (folder / "training.json").write_text(json.dumps(history))
    return folder


def reconstruct(model: sd.Model, picture: np.ndarray) -> np.ndarray:
    """A 256 px picture through a model's autoencoder, uint8 as it was."""
    frame = Frame.fit(256, 256, 256)
    return frame.from_canvas(sd.decode(model, sd.encode(model, frame.to_canvas(picture))))


def autoencoder_psnr(model: sd.Model, count: int = 200) -> Iterator[dict[str, float]]:
    """PSNR in dB of encoding and decoding `count` held-out pictures, one by one: of the whole, figure and backdrop.

    The backdrop is most of a picture and nearly flat, so the figure's own pixels are told apart from it.
    """
    for seed in range(HELDOUT_SEED, HELDOUT_SEED + count):
        scene = sample(seed)
        picture, figure = scene.picture(), scene.trace()[1] >= 0
        back = reconstruct(model, picture)
        regions = {"whole": None, "figure": figure, "backdrop": ~figure}
        yield {name: metrics.psnr(back, picture, mask) for name, mask in regions.items()}
