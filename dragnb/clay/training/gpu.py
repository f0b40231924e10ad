"""All parts trained within a time by the clock, on one card: `python -m dragnb.clay.training gpu --seconds 560`.

Processes draw pictures all along. The autoencoder has the first share of the time; then what is drawn becomes latents,
and the U-Net trains on them until the end, while new pictures join. So there is a whole model at the end on any card.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d

from dragnb.clay.scene import VERSION
from dragnb.clay.training import parts
from dragnb.clay.training.data import Drawn, to_unit
from dragnb.clay.training.loop import update_average
from dragnb.clay.training.measure import Heldout
from dragnb.clay.training.optimizers import Optimizers
from dragnb.clay.training.steps import Backward, Latents, objective
from dragnb.store import replacing

PIECE = 15 << 20  # bytes: what comes back from a rented card may be limited in size


@dataclass(frozen=True)
class Plan:
    """What is trained, and how the time is shared out. `prediction` "both" trains two U-Nets on the same latents."""

    seconds: float = 560.0
    size: str = "wide"  # a key of parts.SIZES
    seed: int = 0
    world: int = VERSION
    pictures: int = 320_000  # at most: as many as there is room for and as are drawn in time
    pool: int = 20_000  # pictures that the autoencoder keeps on the card
    workers: int = 0  # processes that draw; 0: one less than there are cores
    vae_share: float = 0.3  # of the time
    vae_batch: int = 64
    vae_crop: int = 128
    vae_lr: float = 1e-3
    latent_noise: float = 0.05
    prediction: str = "epsilon"  # or "v_prediction", or "both"
    optimizer: str = "adamw"  # or "muon": hidden matrices by Muon, the rest by AdamW
    unet_batch: int = 512
    unet_lr: float = 1e-3
    muon_lr: float = 0.02
    min_snr: float = 5.0  # weights of ε, as in the recipes; v has none
    caption_dropout: float = 0.1
    ema: float = 0.9995
    compile: bool = True
    save_every: float = 120.0  # seconds between weights; new pictures join as often
    closing: float = 25.0  # seconds kept for the held-out errors and the last weights
    heldout: int = 128  # pictures


class Run:
    """A plan under way: where it runs, where it writes, what time it is."""

    def __init__(self, plan: Plan, out: Path, device: str):
        self.plan, self.out, self.device, self.begun = plan, out, torch.device(device), time.monotonic()
        self.cuda, self.history = self.device.type == "cuda", {}

    def clock(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begun

    def say(self, *words):
        """A line with the time before it."""
        sys.stdout.write(f"[{self.clock():6.1f}] {' '.join(map(str, words))}\n")
        sys.stdout.flush()

    def half(self):
        """bfloat16 on a card."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cuda)

    def note(self, part, curve, step, loss, begun):
        """Write a part's progress down every so often."""
        if step == 5 or step % 200 == 0:
            curve.append((step, round(float(loss), 6)))
            self.say(part, step, f"loss {float(loss):.5f}")
        self.history[part] = {"steps": step, "seconds": round(self.clock() - begun, 1), "curve": curve}


def picture_loss(y, x, z):
    """Absolute and, heavier, squared error, edges, flat colours; latents centred and of unit variance."""
    error, flat = y - x, avg_pool2d(y - x, 8)
    edges = sum(error.diff(dim=d).abs().mean() for d in (2, 3))
    centred = (z.var((0, 2, 3)) - 1).abs().mean() + z.mean((0, 2, 3)).square().mean()
    near = error.abs().mean() + 4 * error.square().mean()
    return near + 0.25 * edges + 2 * flat.abs().mean() + 0.02 * centred


def crops(pool, plan, generator):
    """A batch of crops at one place, mostly where figures stand, (b, 3, c, c) in [-1, 1]."""
    c, side = plan.vae_crop, pool.shape[1]
    middle = torch.tensor((0.55, 0.5)) * side + 45 * torch.randn(2, generator=generator) - c / 2
    y, x = middle.round().int().clamp(0, side - c).tolist()
    chosen = torch.randint(0, len(pool), (plan.vae_batch,), generator=generator).to(pool.device)
    return to_unit(pool[chosen, y : y + c, x : x + c], pool.device)


def train_autoencoder(run, drawn):
    """The averaged autoencoder after its share of the time."""
    plan, begun, generator = run.plan, run.clock(), torch.Generator().manual_seed(run.plan.seed)
    vae = parts.build_vae(plan.size).train().to(run.device, memory_format=torch.channels_last)
    average = copy.deepcopy(vae).requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0, fused=run.cuda)
    pool, filled, step, curve = None, -1e9, 0, []
    span = plan.vae_share * (plan.seconds - plan.closing - begun)
    while (done := (run.clock() - begun) / max(span, 1)) < 1:
        if run.clock() - filled > 15 and (pool is None or len(pool) < plan.pool):
            new = drawn.pictures(0 if pool is None else len(pool), min(drawn.have, plan.pool)).to(run.device)
            pool, filled = new if pool is None else torch.cat([pool, new]), run.clock()
        for group in optimizer.param_groups:
            group["lr"] = plan.vae_lr * min(1, (step + 1) / 100) * min(1, 2 * (1 - done))
        x = crops(pool, plan, generator)
        with run.half():
            z = vae.encoder(x)
            y = vae.decoder(z + plan.latent_noise * torch.randn_like(z))
        loss = picture_loss(y.float(), x, z.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        update_average(average, vae, 0.998, step)
        step += 1
        run.note("autoencoder", curve, step, loss.detach(), begun)
    return average.eval()


def train_unet(run, vae, latents, prediction, until):
    """A U-Net and its text encoder until a time by the clock; their averages are saved on the way and at the end."""
    plan, begun, made = run.plan, run.clock(), parts.build(run.plan.size, run.plan.seed, run.plan.world)
    modules = torch.nn.ModuleDict({"unet": made.unet, "text_encoder": made.text_encoder}).train()
    modules = modules.to(run.device, memory_format=torch.channels_last)
    average = copy.deepcopy(modules).requires_grad_(False).eval()
    optimizers = Optimizers(modules, plan.optimizer, plan.unet_lr, plan.muon_lr, run.cuda)
    backward = Backward(run, objective(run, modules, prediction))
    step, curve, saved = 0, [], begun
    model = dataclasses.replace(made, unet=average["unet"], text_encoder=average["text_encoder"], vae=vae)
    model.scheduler.register_to_config(prediction_type=prediction)
    while (done := (run.clock() - begun) / max(until - begun, 1)) < 1:
        if run.clock() - saved > plan.save_every and done < 0.9:
            latents.join()
            save(run, model, prediction)
            saved = run.clock()
        loss = backward(*latents.batch(plan))
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizers.step(min(1, (step + 1) / 200) * min(1, (1 - done) / 0.6))
        update_average(average, modules, plan.ema, step)
        step += 1
        run.note("unet", curve, step, loss, begun)
    run.history["samples"] = step * plan.unet_batch
    return model


def save(run, model, prediction):
    """Write a model with its training.json as pieces of a tar file: `cat clay-epsilon.tar.* | tar x` joins them."""
    history = {"recipe": dataclasses.asdict(run.plan), "torch": torch.__version__, **run.history}
    with tempfile.TemporaryDirectory() as folder, io.BytesIO() as packed:
        whole = parts.save_folder(model, Path(folder) / "clay")
        (whole / "training.json").write_text(json.dumps(history))
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(whole, "clay")
        for k, a in enumerate(range(0, packed.tell(), PIECE)):
            with replacing(run.out / f"clay-{prediction}.tar.{k:02d}") as piece:
                piece.write_bytes(packed.getbuffer()[a : a + PIECE])
    run.say("saved", prediction, f"{run.history['unet']['steps']} steps")


def train(plan: Plan, out: Path, device: str):
    """The whole run; the last lines are the errors on held-out pictures, figures apart from the background."""
    run, errors = Run(plan, Path(out), device), {}
    torch.manual_seed(plan.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    run.history["hardware"] = torch.cuda.get_device_name() if run.cuda else "a CPU"
    predictions = ("epsilon", "v_prediction") if plan.prediction == "both" else (plan.prediction,)
    with Drawn(plan.pictures, plan.world, plan.workers) as drawn:
        held = Heldout(plan.heldout, plan.world)
        vae = train_autoencoder(run, drawn)
        latents = Latents(run, vae, drawn, parts.build_tokenizer(plan.world))
        vae.register_to_config(scaling_factor=latents.factor)
        begun, left = run.clock(), plan.seconds - plan.closing - run.clock()
        for k, prediction in enumerate(predictions):
            model = train_unet(run, vae, latents, prediction, begun + left * (k + 1) / len(predictions))
            errors[prediction] = run.history["held_out"] = held.errors(model, run.device)
            save(run, model, prediction)
    for prediction, figures in errors.items():
        run.say(prediction, json.dumps(figures))
    return errors
