"""Train the bundled model: `python -m dragnb.clay.train PART --out FOLDER --recipe cpu`.

Parts: `pictures` draws the training set, `autoencoder` and `unet` train (each resumes exactly where a kill left it),
`export` writes the diffusers folder, `all` does them in turn. The U-Net and the text encoder are trained jointly on the
latents of the autoencoder's averaged weights.

Resume is exact because nothing random outlives a step: the draws of step k come from a generator seeded with
(seed, part, k), and weights, averages and optimiser state are saved together, beside and then renamed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from dragnb import ddim
from dragnb.clay import model as parts
from dragnb.clay.pictures import draw_set
from dragnb.clay.recipe import HELDOUT_SEED, RECIPES, Recipe
from dragnb.clay.scene import sample


def to_unit(pictures, device="cpu"):
    """uint8 pictures (b, h, w, 3) to tensors (b, 3, h, w) in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float()
    return (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class Pictures(torch.utils.data.Dataset):
    """Training pictures by index: read from the drawn set, or drawn on the fly where the recipe keeps none."""

    def __init__(self, recipe: Recipe, out: Path):
        self.recipe, self.path = recipe, out / f"pictures-{recipe.pictures}.npy"
        self.drawn = None

    def prepare(self, progress=lambda done, total: None):
        """Draw the set, if the recipe keeps one."""
        if self.recipe.pictures:
            self.drawn = draw_set(
                self.path, self.recipe.pictures, workers=self.recipe.workers, progress=progress
            )
        return self

    def __getitem__(self, index):
        return self.drawn[index] if self.recipe.pictures else sample(int(index)).picture()

    def seeds(self, step, batch, generator):
        """Which seeds make up a step's batch: shuffled from the drawn set, or ever new ones."""
        if self.recipe.pictures:
            return torch.randint(0, self.recipe.pictures, (batch,), generator=generator).tolist()
        return [(step * batch + i) % HELDOUT_SEED for i in range(batch)]


def step_generator(recipe, part, step):
    """The one source of randomness of a step."""
    return torch.Generator().manual_seed(((recipe.seed * 2 + (part == "unet")) << 32) + step)


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
        if (step + 1) % 50 == 0 or last:
            curve.append((step + 1, mean))
        if (step + 1) % recipe.save_every == 0 or last:
            state = dict(step=step + 1, curve=curve, seconds=spent + time.monotonic() - started,
                         weights={k: m.state_dict() for k, m in modules.items()},
                         averages={k: m.state_dict() for k, m in averages.items()},
                         optimizer=optimizer.state_dict())  # fmt: skip
            torch.save(state, path.with_suffix(".partial"))
            os.replace(path.with_suffix(".partial"), path)
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


def train_autoencoder(recipe, out, device):
    """Reconstruction of crops: absolute error, squared error and edges; latents kept near unit variance."""
    vae = parts.build_vae(recipe.size).to(device, memory_format=torch.channels_last)
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
        )  # flat colours, which the eye sees first
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


def trained(out, name, module, key):
    """A module with a checkpoint's averaged weights, frozen."""
    saved = torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)
    module.load_state_dict(saved["averages"][key])
    return module.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(recipe, out, device, batch=8, progress=lambda done, total: None):
    """Latents of the whole drawn set, unscaled, kept in `latents.npy`; and the factor that makes their variance one."""
    path = out / "latents.npy"
    vae = trained(out, "autoencoder", parts.build_vae(recipe.size), "vae").to(
        device, memory_format=torch.channels_last
    )
    data = Pictures(recipe, out).prepare()
    count = recipe.pictures or 512
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
    """Noise prediction (ε) at uniform timesteps with min-SNR weights, U-Net and text encoder together."""
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
        t, noise = (
            torch.randint(0, 1000, (b,), generator=g).to(device),
            torch.randn(z0.shape, generator=g).to(device),
        )
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
    (folder / "training.json").write_text(json.dumps(history))
    return folder


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m dragnb.clay.train", description=__doc__.split("\n")[0])
    p.add_argument("part", choices=["pictures", "autoencoder", "unet", "export", "all"])
    p.add_argument(
        "--out", type=Path, default=Path("runs/clay"), help="folder of pictures, checkpoints and logs"
    )
    p.add_argument("--recipe", choices=list(RECIPES), default="cpu")
    p.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    p.add_argument(
        "--folder", type=Path, default=Path("data/models/clay"), help="where export writes the model"
    )
    p.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change single numbers of the recipe"
    )
    args = p.parse_args(argv)
    recipe = RECIPES[args.recipe]
    for item in args.set:
        name, _, value = item.partition("=")
        if name not in {f.name for f in dataclasses.fields(Recipe)}:
            p.error(f"--set {item}: a recipe has no {name!r}")
        recipe = dataclasses.replace(recipe, **{name: type(getattr(recipe, name))(value)})
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part in ("pictures", "all"):
        Pictures(recipe, args.out).prepare(lambda done, total: _say(f"pictures {done}/{total}"))
    for name, train in (("autoencoder", train_autoencoder), ("unet", train_unet)):
        if args.part in (name, "all"):
            started = time.monotonic()
            for step, loss, lr in train(recipe, args.out, args.device):
                if step % 50 == 0:
                    _say(f"{name} {step} loss {loss:.5f} lr {lr:.1e} {time.monotonic() - started:.0f} s")
    if args.part in ("export", "all"):
        _say(f"written: {export(recipe, args.out, args.folder)}")


def _say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
