"""All parts trained within a time by the clock, on one card: `python -m dragnb.clay.training gpu --seconds 560`.

Processes draw pictures all along. The autoencoder has the first share of the time; then what is drawn becomes latents,
and the U-Net trains on them until the end, while new pictures join. So there is a whole model at the end on any card.
A U-Net has a process of its own from the beginning, which compiles it, if that is asked for, while the autoencoder
trains; those of two predictions train side by side. `--set start=FOLDER` keeps a finished model's autoencoder and
trains its U-Net on, with all of the time.

Seen whole on an NVIDIA H200 with 16 cores, in 440 s (2026-11, torch 2.11): 3,014 steps of the autoencoder in 112 s,
then side by side 1,695 steps of 256 latents by AdamW (141 ms each) and 928 by Muon (248 ms); ten processes drew 81,600
pictures meanwhile. A U-Net alone took 115 ms a step of 512. Compiling did not come to its end within two minutes, tried
three times: it is for longer runs.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import json
import multiprocessing
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
from dragnb.clay.training.data import Drawn, to_unit, worlds_of
from dragnb.clay.training.loop import finished, update_average
from dragnb.clay.training.measure import Heldout
from dragnb.clay.training.optimizers import Optimizers
from dragnb.clay.training.steps import Backward, Encoder, Latents
from dragnb.errors import InputError
from dragnb.processes import end_with_parent
from dragnb.store import replacing

FIRST, WAIT = (
    2048,
    0.1,
)  # pictures that a training that goes on waits for, and the share of the time that it does
PIECE = 15 << 20  # bytes: what comes back from a rented card may be limited in size


@dataclass(frozen=True)
class Plan:
    """What is trained, and how the time is shared out. `prediction` "both" trains two U-Nets on the same latents."""

    seconds: float = 560.0
    size: str = "wide"  # a key of parts.SIZES
    seed: int = 0
    world: int = VERSION
    older: bool = False  # the versions of the world before it are drawn as well, in turn
    start: str = ""  # folder of a finished model to go on from; "": from nothing
    first: int = 0  # seed of the first picture
    pictures: int = 320_000  # at most: as many as there is room for and as are drawn in time
    pool: int = 20_000  # pictures that the autoencoder keeps on the card
    workers: int = 0  # processes that draw; 0: one less than there are cores
    vae_share: float = 0.3  # of the time
    vae_batch: int = 64
    vae_crop: int = 128
    vae_lr: float = 1e-3
    latent_noise: float = 0.1  # at most: a picture's is anything below
    prediction: str = "epsilon"  # or "v_prediction", or "both"
    optimizer: str = "adamw"  # or "muon": hidden matrices by Muon; "adamw,muon": of ε and of v
    unet_batch: int = 256
    unet_lr: float = 1e-3
    muon_lr: float = 0.02
    min_snr: float = 5.0  # weights of ε, as in the recipes; v has none
    caption_dropout: float = 0.1
    ema: float = 0.9995
    compile: bool = False
    compile_until: float = 0.4  # of the time: what is not compiled by then trains as it is
    save_every: float = 100.0  # seconds between weights; new pictures join as often
    closing: float = 25.0  # seconds kept for the held-out errors and the last weights
    heldout: int = 128  # pictures


class Run:
    """A plan under way: where it runs, where it writes, what time it is. Each process has one."""

    def __init__(self, plan: Plan, out: Path, device: str, begun: float, name: str = ""):
        self.plan, self.out, self.device, self.begun = plan, Path(out), torch.device(device), begun
        self.name, self.crew = name, []
        self.cuda, self.history = self.device.type == "cuda", {}
        self.history["hardware"] = torch.cuda.get_device_name() if self.cuda else "a CPU"
        torch.manual_seed(plan.seed)
        torch.set_float32_matmul_precision("high")

    def clock(self) -> float:
        """Seconds since the beginning."""
        return time.time() - self.begun

    def say(self, *words):
        """A line with the time before it."""
        sys.stdout.write(f"[{self.clock():6.1f}] {self.name} {' '.join(map(str, words))}\n")
        sys.stdout.flush()

    def check(self):
        """RuntimeError where every process that trains has failed: the card's time is not free."""
        if self.crew and all(process.exitcode for process in self.crew):
            raise RuntimeError("no process trains any more; the errors stand above")

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
            run.check()
            new = drawn.pictures(0 if pool is None else len(pool), min(drawn.have, plan.pool)).to(run.device)
            pool, filled = new if pool is None else torch.cat([pool, new]), run.clock()
        for group in optimizer.param_groups:
            group["lr"] = plan.vae_lr * min(1, (step + 1) / 100) * min(1, 2 * (1 - done))
        x = crops(pool, plan, generator)
        with run.half():
            z = vae.encoder(x)
            spread = plan.latent_noise * torch.rand(len(z), 1, 1, 1, device=z.device)
            y = vae.decoder(z + spread * torch.randn_like(z))
        loss = picture_loss(y.float(), x, z.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        update_average(average, vae, 0.998, step)
        step += 1
        run.note("autoencoder", curve, step, loss.detach(), begun)
    return average.eval()


def train_unet(plan, out, device, begun, shelf, prediction, optimizer):
    """A U-Net and its text encoder until the end; their averages are saved on the way and then. A process's own."""
    end_with_parent()
    run = Run(plan, out, device, begun, prediction)
    torch.backends.cudnn.benchmark = True
    made, held = parts.build(plan.size, plan.seed, plan.world), Heldout(plan.heldout, worlds_of(plan))
    if plan.start:
        known, before = finished(plan.start, plan.world)
        made = dataclasses.replace(made, unet=known["unet"], text_encoder=known["text_encoder"])
        run.history |= {"before": before, "autoencoder": before["autoencoder"]} if "recipe" in before else {}
    modules = torch.nn.ModuleDict({"unet": made.unet, "text_encoder": made.text_encoder}).train()
    modules = modules.to(run.device, memory_format=torch.channels_last)
    average = copy.deepcopy(modules).requires_grad_(False).eval()
    optimizers = Optimizers(modules, optimizer, plan.unet_lr, plan.muon_lr, run.cuda)
    backward = Backward(run, modules, prediction)
    latents = Latents(run, made.tokenizer, shelf)
    backward.compile(latents.blank())
    vae, found = latents.autoencoder(parts.build_vae(plan.size))
    run.history |= found
    model = dataclasses.replace(made, unet=average["unet"], text_encoder=average["text_encoder"], vae=vae)
    model.scheduler.register_to_config(prediction_type=prediction)
    started, until, step, curve = run.clock(), plan.seconds - plan.closing, 0, []
    saved, done = started, 0.0
    while done < 1:
        if run.clock() - saved > plan.save_every and done < 0.9:
            latents.join()
            save(run, model, prediction)
            saved = run.clock()
        loss = backward(*latents.batch())
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizers.step(min(1, (step + 1) / 200) * min(1, (1 - done) / 0.6))
        update_average(average, modules, plan.ema, step)
        step += 1
        run.note("unet", curve, step, loss, started)
        done = (run.clock() - started) / max(until - started, 1)
    torch.backends.cudnn.benchmark = False
    run.history |= {"samples": step * plan.unet_batch, "pictures": len(latents.z)}
    run.history["held_out"] = held.errors(model, run.device)
    save(run, model, prediction)
    with replacing(shelf / f"{prediction}.json") as path:
        path.write_text(json.dumps(run.history["held_out"]))


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
    run.say("saved", f"{run.history['unet']['steps']} steps")


def started_from(plan, predictions):
    """The autoencoder of the model that a plan goes on from, and the scale of its latents.

    InputError where that model is of another size or prediction than the plan.
    """
    made, before = finished(plan.start, plan.world)
    said = json.loads((Path(plan.start) / "scheduler" / "scheduler_config.json").read_text())
    prediction = said.get("prediction_type", "epsilon")
    if (prediction,) != predictions:
        raise InputError(
            f"prediction: {plan.start} has {prediction!r}, the plan {plan.prediction!r}; set it so"
        )
    for name, fresh in (("unet", parts.build_unet(plan.size)), ("vae", parts.build_vae(plan.size))):
        shapes, wanted = ({k: v.shape for k, v in m.state_dict().items()} for m in (made[name], fresh))
        if shapes != wanted:
            fits = ", ".join(parts.SIZES)
            raise InputError(f"size: the {name} of {plan.start} is not of size {plan.size!r}; one of {fits}")
    return made["vae"].eval(), before["scaling_factor"]


def train(plan: Plan, out: Path, device: str):
    """The whole run; the last lines are the errors on held-out pictures, figures apart from the background."""
    begun, spawn = time.time(), multiprocessing.get_context("spawn")
    predictions = ("epsilon", "v_prediction") if plan.prediction == "both" else (plan.prediction,)
    run = Run(plan, out, device, begun)
    start = started_from(plan, predictions) if plan.start else None
    with Drawn(plan.pictures, worlds_of(plan), plan.workers, plan.first) as drawn:
        shelf = Path(drawn.folder.name)
        chosen = zip(predictions, itertools.cycle(plan.optimizer.split(",")), strict=False)
        arguments = [(plan, out, device, begun, shelf, *pair) for pair in chosen]
        run.crew = [spawn.Process(target=train_unet, args=a, daemon=True) for a in arguments]
        for process in run.crew:
            process.start()
        vae, factor = start or (train_autoencoder(run, drawn), None)
        while start and drawn.have < FIRST and run.clock() < WAIT * plan.seconds:
            run.check()
            time.sleep(0.1)
        vae = vae.to(run.device)
        encoder = Encoder(run, vae, drawn, parts.build_tokenizer(plan.world), shelf, factor)
        while alive := [process for process in run.crew if process.is_alive()]:
            alive[0].join(min(15, plan.save_every / 2))
            run.check()
            if run.clock() < plan.seconds - plan.closing:
                encoder.write()
        errors = {path.stem: json.loads(path.read_text()) for path in sorted(shelf.glob("*.json"))}
    for prediction, figures in errors.items():
        run.say(prediction, json.dumps(figures))
    if any(process.exitcode for process in run.crew):  # the others have come to their end all the same
        raise RuntimeError("a process that trains has failed; its error stands above")
    return errors
