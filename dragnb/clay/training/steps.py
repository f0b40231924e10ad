"""A step of training a U-Net on a card: latents in its memory, the losses of ε and v, gradients compiled or eager."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager

import torch

from dragnb import ddim
from dragnb.clay.training import parts
from dragnb.clay.training.data import to_unit
from dragnb.store import replacing

LAST = 720  # the highest timestep that an edit visits
AUTOENCODER = "autoencoder.pt"


class Encoder:
    """Latents and token numbers of what is drawn, written for the processes that train; then the autoencoder itself."""

    def __init__(self, run, vae, drawn, tokenizer, shelf, factor=None):
        self.run, self.vae, self.drawn, self.tokenizer, self.shelf = run, vae, drawn, tokenizer, shelf
        self.count = self.files = 0
        latents = self.write()
        factor = factor or 1 / latents.std().item()
        state = {"weights": vae.state_dict(), "factor": factor, "history": run.history}
        with replacing(shelf / AUTOENCODER) as path:
            torch.save(state, path)

    @torch.no_grad()
    def write(self):
        """A file of what was drawn since."""
        first, last, device = self.count, self.drawn.have, self.run.device
        if first == last:
            return None
        chunks = (self.drawn.pictures(a, min(a + 256, last)) for a in range(first, last, 256))
        z = torch.cat([self.vae.encoder(to_unit(chunk, device)) for chunk in chunks]).contiguous()
        ids = parts.token_ids(self.tokenizer, self.drawn.captions(first, last))
        with replacing(self.shelf / f"latents-{self.files:03d}.pt") as path:
            torch.save({"z": z.cpu(), "ids": ids}, path)
        self.count, self.files = last, self.files + 1
        self.run.say("latents", last)
        return z


class Latents:
    """What an Encoder has written, on the card; unit variance."""

    def __init__(self, run, tokenizer, shelf):
        self.run, self.shelf, self.files, self.factor = run, shelf, 0, 1.0
        self.empty = parts.token_ids(tokenizer, [""]).to(run.device)

    def blank(self):
        """A batch of the shapes and types of any other."""
        self.z, self.ids = torch.randn(1, 4, 32, 32, device=self.run.device), self.empty
        return self.batch()

    def autoencoder(self, vae):
        """The trained autoencoder and what is told of its training, once there is one; then there are latents too."""
        while not (self.shelf / AUTOENCODER).exists():
            time.sleep(0.2)
        found = torch.load(self.shelf / AUTOENCODER, map_location=self.run.device, weights_only=True)
        vae.to(self.run.device).load_state_dict(found["weights"])
        self.factor = found["factor"]
        vae.register_to_config(scaling_factor=self.factor)
        self.join()
        return vae.eval().requires_grad_(False), found["history"]

    def join(self):
        """Take in what was written since."""
        for path in sorted(self.shelf.glob("latents-*.pt"))[self.files :]:
            new = torch.load(path, map_location=self.run.device, weights_only=True)
            if self.files:
                new = {"z": torch.cat([self.z, new["z"]]), "ids": torch.cat([self.ids, new["ids"]])}
            self.z, self.ids, self.files = new["z"], new["ids"], self.files + 1

    def batch(self):
        """Latents at random, some captions emptied; timesteps stratified, seven of eight where an edit goes."""
        plan, b, device = self.run.plan, self.run.plan.unet_batch, self.z.device
        chosen = torch.randint(0, len(self.z), (b,), device=device)
        dropped = torch.rand(b, 1, device=device) < plan.caption_dropout
        ids = torch.where(dropped, self.empty, self.ids[chosen])
        place = torch.arange(b, device=device)
        share = (place + torch.rand(b, device=device)) / b
        t = torch.where(place % 8 == 0, 1000 * share, LAST * share).long().clamp(max=999)
        z0 = self.z[chosen] * self.factor
        return z0, ids, t, torch.randn_like(z0)


@contextmanager
def _within(seconds):
    """TimeoutError in here, in the main thread, after so many seconds; for ever where the system has no such alarm."""

    def late(*_):
        raise TimeoutError(f"{seconds:.0f} s were not enough")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Backward:
    """Loss and gradients of a batch (clean latents, token numbers, timesteps, noise), the U-Net compiled on a card.

    The loss of ε has min-SNR weights, that of v none.
    """

    def __init__(self, run, modules, prediction):
        self.run, self.modules, self.prediction = run, modules, prediction
        self.abar, self.unet = ddim.alphas_bar().to(run.device), modules["unet"]
        if run.cuda and run.plan.compile:
            self.unet = torch.compile(self.unet)

    def compile(self, batch):
        """Compile, which takes minutes, or leave it where it fails or takes longer than the plan allows."""
        if self.unet is self.modules["unet"]:
            return
        left = max(1.0, self.run.plan.compile_until * self.run.plan.seconds - self.run.clock())
        try:
            with _within(left):
                self(*batch)
            self.run.say("compiled")
        except Exception as error:  # a compiler has many ways to fail
            self.run.say("not compiled:", repr(error)[:300])
            self.unet = self.modules["unet"]
        self.modules.zero_grad(set_to_none=True)

    def __call__(self, *batch):
        loss = self.loss(*batch)
        loss.backward()
        return loss.detach()

    def loss(self, z0, ids, t, noise):
        """Mean over the batch."""
        a = self.abar[t].view(-1, 1, 1, 1)
        z = (a.sqrt() * z0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with self.run.half():
            context = self.modules["text_encoder"](ids).last_hidden_state
            out = self.unet(z, t, context, return_dict=False)[0].float()
        if self.prediction == "v_prediction":
            return (out - (a.sqrt() * noise - (1 - a).sqrt() * z0)).square().mean()
        snr = (a / (1 - a)).view(-1)
        return ((out - noise).square().mean((1, 2, 3)) * snr.clamp(max=self.run.plan.min_snr) / snr).mean()
