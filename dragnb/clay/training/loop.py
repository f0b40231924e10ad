"""The training loop: one seed a step, checkpoints from which it goes on exactly.

Resume is exact because nothing random outlives a step: the draws of step k come from a generator seeded with
(seed, part, k), and weights, averages and optimiser state are saved together. The U-Net and the text
encoder are trained jointly on the latents of the autoencoder's averaged weights.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import math
import time
from pathlib import Path

import filelock
import numpy as np
import torch

from dragnb import ddim
from dragnb.clay.training import parts
from dragnb.clay.training.data import Pictures, scene, to_unit, world_mark, worlds_of
from dragnb.errors import InputError
from dragnb.store import replacing

SHOW_EVERY = 50  # steps between points of the loss curve
ADOPTED = "adopted.json"  # what was done to a model before it was adopted


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
    past = max(0.0, (step / total - recipe.decay_from) / max(1 - recipe.decay_from, 1e-9))
    fall = 0.5 * (1 + math.cos(math.pi * past))
    return peak * min(1.0, (step + 1) / recipe.warmup) * (fall + 0.01)


@torch.no_grad()
def update_average(average, current, decay, step):
    """Exponential moving average of weights; young averages follow faster."""
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - d)


def checkpoint(path, step, curve, seconds, modules, averages, optimizer):
    """Write all that training goes on from, whole or not at all."""
    weights, means = ({k: m.state_dict() for k, m in of.items()} for of in (modules, averages))
    state = dict(step=step, curve=curve, seconds=seconds, weights=weights, averages=means)
    with replacing(path, ours=is_checkpoint) as temp:
        torch.save(state | {"optimizer": optimizer}, temp)


def is_checkpoint(path):
    """Did `checkpoint` write this file?"""
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {"step", "curve", "weights", "averages"} <= {*saved}


def course(name, recipe):
    """A part's number of steps, peak learning rate, weight decay and decay of the average."""
    if name == "autoencoder":
        return recipe.vae_steps, recipe.vae_lr, 0.0, recipe.vae_ema
    return recipe.unet_steps, recipe.unet_lr, 1e-3, recipe.ema


def fit(name, modules, loss_fn, recipe, out):
    """Train `modules` (name -> module) by `loss_fn(step) -> loss`: a generator of (step, loss, lr), step by step.

    Every `save_every` steps, and at the end, `out/name.pt` holds weights, averages, optimiser and the loss curve.
    """
    steps, peak_lr, weight_decay, ema = course(name, recipe)
    averages = {k: copy.deepcopy(m).requires_grad_(False) for k, m in modules.items()}
    weights = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=peak_lr, betas=(0.9, 0.99), weight_decay=weight_decay)
    first, curve, spent = restore(out / f"{name}.pt", modules, averages, optimizer)
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
            checkpoint(
                out / f"{name}.pt", step + 1, curve, seconds, modules, averages, optimizer.state_dict()
            )
        yield step + 1, mean, lr


def restore(path, modules, averages, optimizer):
    """Take up a checkpoint, if there is one: (its step, the loss curve, seconds spent)."""
    if not path.exists():
        return 0, [], 0.0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for k, m in modules.items():
        m.load_state_dict(saved["weights"][k]), averages[k].load_state_dict(saved["averages"][k])
    if saved["optimizer"]:  # an adopted model brings none
        optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], saved["curve"], saved["seconds"]


def batches(data, recipe, part, out, batch):
    """The pictures of every step left, (step, seeds, uint8 batch); fresh ones are drawn ahead by worker processes."""
    steps = range(saved_step(out, part), course(part, recipe)[0])
    plan = [data.seeds(k, batch, step_generator(recipe, part, k)) for k in steps]
    workers = 0 if recipe.pictures else recipe.workers
    loader = torch.utils.data.DataLoader(data, batch_sampler=plan, num_workers=workers, collate_fn=np.stack)
    return zip(steps, plan, loader, strict=True)


def saved_step(out, name):
    """How many steps of a part a checkpoint holds (0 without one)."""
    path = out / f"{name}.pt"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"] if path.exists() else 0


def trained(out, name, module, key):
    """A module with a checkpoint's averaged weights, frozen."""
    saved = torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)
    module.load_state_dict(saved["averages"][key])
    return module.eval().requires_grad_(False)


def half_precision(recipe, device):
    """bfloat16 where it pays: always on a GPU, on a CPU where the recipe says so."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu" or recipe.autocast)


def reconstruction_loss(y, x, z, recipe):
    """Absolute and squared error, edges and flat colours; latents `z` kept near unit variance."""
    edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
    plain = (y - x).abs().mean() + recipe.vae_square * (y - x).square().mean() + 0.5 * edges
    # flat colours: the eye sees them first
    coarse = torch.nn.functional.avg_pool2d(y - x, 8).abs().mean()
    # every latent channel at one scale, as the noise is
    spread = (z.var((0, 2, 3)) - 1).abs().mean()
    return plain + 2 * coarse + recipe.latent_spread * spread


def crops(pictures, side, generator, tries=4):
    """One square of each uint8 picture, (b, side, side, 3): of `tries` at random the one whose colours vary most.

    The figures fill a fifth of the pictures and hold nearly all that is hard to code. Every fourth is taken at random.
    """
    most = pictures.shape[1] - side
    places = torch.randint(0, most // 8 + 1, (len(pictures), tries, 2), generator=generator) * 8
    chosen = []
    for k, (picture, corners) in enumerate(zip(pictures, places.tolist(), strict=True)):
        squares = [picture[y : y + side, x : x + side] for y, x in corners]
        chosen.append(squares[0] if k % 4 == 0 else max(squares, key=lambda square: square[::4, ::4].var()))
    return np.stack(chosen)


def alone(train):
    """A training (recipe, out, device) that holds its folder: two would take up each other's steps, and mix them."""

    @functools.wraps(train)
    def held(recipe, out, device):
        lock = filelock.FileLock(out / ".lock")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.acquire(blocking=False))
            except filelock.Timeout:
                why = "another process trains in it; wait for it, or give another folder"
                raise InputError(f"out = {str(out)!r} is in use: {why}") from None
            except NotImplementedError:  # filelock's word for a disk without locks
                pass
            yield from train(recipe, out, device)

    return held


@alone
def train_autoencoder(recipe, out, device):
    """Reconstruction of crops, through latents with a little noise; of the decoder alone where the recipe says so."""
    vae = (
        parts.build(recipe.size, recipe.seed, recipe.world)
        .vae.train()
        .to(device, memory_format=torch.channels_last)
    )
    vae.encoder.requires_grad_(recipe.encoder)
    stream = batches(Pictures(recipe, out).prepare(), recipe, "autoencoder", out, recipe.vae_batch)

    def loss_fn(step):
        at, _, pictures = next(stream)
        assert at == step
        g = step_generator(recipe, "autoencoder", step)
        x = to_unit(crops(pictures, recipe.vae_crop, g), device)
        with half_precision(recipe, device):
            z = vae.encoder(x)
            noise = torch.randn(z.shape, generator=g).to(device)
            y = vae.decoder(z + recipe.latent_noise * noise)
        y, z = y.float(), z.float()
        return reconstruction_loss(y, x, z, recipe), (y - x).detach().square().mean()

    yield from fit("autoencoder", {"vae": vae}, loss_fn, recipe, out)


@torch.no_grad()
def encode_all(recipe, out, device, batch=8):
    """Latents of the drawn set, unscaled, kept on disk, and the factor that makes their variance one.

    The file bears the autoencoder's step in its name, so that a longer trained one never meets older latents.
    """
    vae = trained(out, "autoencoder", parts.build_vae(recipe.size), "vae")
    vae = vae.to(device, memory_format=torch.channels_last)
    data = Pictures(recipe, out).prepare()
    count = recipe.pictures or 512
    path = out / f"latents-{count}-{saved_step(out, 'autoencoder')}{world_mark(recipe)}.npy"
    if not path.exists():
        chunks = []
        for a in range(0, count, batch):
            pictures = np.stack([data[i] for i in range(a, min(a + batch, count))])
            chunks.append(vae.encoder(to_unit(pictures, device)).float().cpu().numpy())
        with replacing(path) as fresh, open(fresh, "wb") as file:
            np.save(file, np.concatenate(chunks))
    latents, adopted = torch.from_numpy(np.load(path)), out / ADOPTED
    factor = json.loads(adopted.read_text()).get("scaling_factor") if adopted.exists() else None
    return latents, factor or 1.0 / latents.std().item(), vae, data


def captions_of(seeds, recipe, generator):
    """The scenes' captions, some of them emptied at random."""
    drop = torch.rand(len(seeds), generator=generator) < recipe.caption_dropout
    worlds = worlds_of(recipe)
    return ["" if d else scene(s, worlds).caption for d, s in zip(drop, seeds, strict=True)]


@alone
def train_unet(recipe, out, device):
    """Noise prediction (ε) with min-SNR weights, U-Net and text encoder together."""
    made = parts.build(recipe.size, recipe.seed, recipe.world)
    unet = made.unet.train().to(device, memory_format=torch.channels_last)
    text = made.text_encoder.train().to(device)
    latents, factor, vae, data = encode_all(recipe, out, device)
    abar, b = ddim.alphas_bar().to(device), recipe.unet_batch
    stream = None if recipe.pictures else batches(data, recipe, "unet", out, b)

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
        ids = parts.token_ids(made.tokenizer, captions_of(seeds, recipe, g)).to(device)
        t = draw_timesteps(b, recipe.focus, g).to(device)
        noise = torch.randn(z0.shape, generator=g).to(device)
        a = abar[t].view(-1, 1, 1, 1)
        z = a.sqrt() * z0.to(device) * factor + (1 - a).sqrt() * noise
        with half_precision(recipe, device):
            context = text(ids).last_hidden_state
            eps = unet(z.contiguous(memory_format=torch.channels_last), t, context).sample
        error = (eps.float() - noise).square().mean((1, 2, 3))
        snr = (a / (1 - a)).view(-1)
        return (error * snr.clamp(max=recipe.min_snr) / snr).mean(), error.detach().mean()

    yield from fit("unet", {"unet": unet, "text_encoder": text}, loss_fn, recipe, out)


def adopt(recipe, out, folder):
    """Begin from a finished model: its autoencoder is kept, its U-Net and text encoder are trained on from step 0.

    What was done to the model before goes along (`adopted.json`), and into the training.json of what is exported.
    """
    if saved_step(out, "unet"):
        raise InputError(f"out: {out} holds a training of its own; adopt a model into an empty folder")
    made, before = finished(folder, recipe.world)
    old, larger = made.pop("vae"), parts.build_vae(recipe.size)
    larger.encoder = old.encoder
    parts.grown(old.decoder, larger.decoder)
    vae = {"vae": larger}
    known = before.get("autoencoder", {"curve": [], "seconds": 0.0})
    step = recipe.vae_steps if recipe.encoder else 0
    checkpoint(out / "autoencoder.pt", step, known["curve"], known["seconds"], vae, vae, {})
    checkpoint(out / "unet.pt", 0, [], 0.0, made, made, {})
    with replacing(out / ADOPTED) as temp:
        temp.write_text(json.dumps(before))


def finished(folder, world):
    """A finished model's vae, unet and text_encoder in full precision, with a world's words, and its training.json.

    The scale of the latents that its U-Net knows is added to the latter as `scaling_factor`.
    InputError where the folder holds no model.
    """
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel

    if not (Path(folder) / "model_index.json").is_file():
        raise InputError(f"model: {folder} holds no finished model; give a folder like data/models/clay")
    kinds = {"vae": AutoencoderTiny, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    made = {k: kind.from_pretrained(Path(folder) / k, torch_dtype=torch.float32) for k, kind in kinds.items()}
    made["text_encoder"].resize_token_embeddings(len(parts.build_tokenizer(world)))
    record = Path(folder) / "training.json"
    before = json.loads(record.read_text()) if record.exists() else {}
    return made, before | {"scaling_factor": made["vae"].config.scaling_factor}


def is_history(path):
    """Is this what `export` wrote of a training?"""
    return {"recipe", "torch"} <= {*json.loads(path.read_bytes())}


def export(recipe, out, folder):
    """Write the averaged weights as a diffusers folder in fp16, and how they were trained as `training.json`."""
    made = parts.build(recipe.size, recipe.seed, recipe.world)
    _, factor, _, _ = encode_all(recipe, out, "cpu")
    trained(out, "autoencoder", made.vae, "vae").register_to_config(scaling_factor=factor)
    trained(out, "unet", made.unet, "unet"), trained(out, "unet", made.text_encoder, "text_encoder")
    folder = parts.save_folder(made, folder)
    history = {"recipe": dataclasses.asdict(recipe), "torch": torch.__version__}
    history["threads"] = torch.get_num_threads()
    for name in ("autoencoder", "unet"):
        saved = torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)
        history[name] = {"steps": saved["step"], "seconds": round(saved["seconds"]), "curve": saved["curve"]}
    if (out / ADOPTED).exists():
        history["before"] = json.loads((out / ADOPTED).read_text())
    with replacing(folder / "training.json", ours=is_history) as temp:
        temp.write_text(json.dumps(history))
    return folder
