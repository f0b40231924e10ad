"""Train the bundled model: `python -m dragnb.clay.training.train PART --out FOLDER --recipe cpu`.

Parts: `pictures` draws the training set, `autoencoder` and `unet` train (each resumes exactly where a kill left it),
`export` writes the diffusers folder, `all` does them in turn; `adopt` begins from a finished model instead of from
nothing. The U-Net and the text encoder are trained jointly on the latents of the autoencoder's averaged weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from dragnb import ddim
from dragnb.clay.scene import sample
from dragnb.clay.training import parts
from dragnb.clay.training.loop import (
    Pictures,
    batches,
    checkpoint,
    draw_timesteps,
    fit,
    saved_step,
    step_generator,
    to_unit,
    trained,
)
from dragnb.clay.training.recipe import RECIPES, Recipe
from dragnb.errors import InputError


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


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m dragnb.clay.training.train", description=__doc__.split("\n")[0]
    )
    p.add_argument("part", choices=["pictures", "adopt", "autoencoder", "unet", "export", "all"])
    p.add_argument(
        "--out", type=Path, default=Path("runs/clay"), help="folder of pictures, checkpoints and logs"
    )
    p.add_argument("--recipe", choices=list(RECIPES), default="cpu")
    p.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    p.add_argument(
        "--folder",
        type=Path,
        default=Path("data/models/clay"),
        help="the model that export writes and adopt reads",
    )
    p.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change single numbers of the recipe"
    )
    args = p.parse_args(argv)
    recipe = RECIPES[args.recipe]
    for item in args.set:
        name, _, value = item.partition("=")
        kind = {f.name: type(f.default) for f in dataclasses.fields(Recipe)}.get(name)
        if kind not in (int, float, str):
            p.error(f"--set {item}: a recipe has no number {name!r}")
        recipe = dataclasses.replace(recipe, **{name: kind(value)})
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "adopt":
        adopt(recipe, args.out, args.folder)
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
