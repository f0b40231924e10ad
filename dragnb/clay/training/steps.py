"""A step of training a U-Net on a card: latents in its memory, the losses of ε and v, gradients compiled or eager."""

from __future__ import annotations

import torch

from dragnb import ddim
from dragnb.clay.training import parts
from dragnb.clay.training.data import to_unit

LAST = 720  # the highest timestep that an edit visits


class Latents:
    """Latents and token numbers of what is drawn, on the card; `factor` makes the first ones' variance one."""

    def __init__(self, run, vae, drawn, tokenizer):
        self.run, self.vae, self.drawn, self.tokenizer = run, vae, drawn, tokenizer
        self.z = self.ids = None
        self.empty = parts.token_ids(tokenizer, [""]).to(run.device)
        self.join()
        self.factor = 1 / self.z.std().item()

    @torch.no_grad()
    def join(self):
        """Take in what was drawn since."""
        first, last, device = 0 if self.z is None else len(self.z), self.drawn.have, self.run.device
        if first == last:
            return
        chunks = (self.drawn.pictures(a, min(a + 256, last)) for a in range(first, last, 256))
        z = torch.cat([self.vae.encoder(to_unit(chunk, device)) for chunk in chunks])
        ids = parts.token_ids(self.tokenizer, self.drawn.captions(first, last)).to(device)
        self.z, self.ids = (z, ids) if first == 0 else (torch.cat([self.z, z]), torch.cat([self.ids, ids]))
        self.run.say("latents", last)

    def batch(self, plan):
        """Latents at random, some captions emptied; timesteps stratified, seven of eight where an edit goes."""
        b, device = plan.unet_batch, self.z.device
        chosen = torch.randint(0, len(self.z), (b,), device=device)
        dropped = torch.rand(b, 1, device=device) < plan.caption_dropout
        ids = torch.where(dropped, self.empty, self.ids[chosen])
        place = torch.arange(b, device=device)
        share = (place + torch.rand(b, device=device)) / b
        t = torch.where(place % 8 == 0, 1000 * share, LAST * share).long().clamp(max=999)
        z0 = self.z[chosen] * self.factor
        return z0, ids, t, torch.randn_like(z0)


def objective(run, modules, prediction):
    """The loss of a batch (clean latents, token numbers, timesteps, noise): min-SNR weights for ε, none for v."""
    abar, most = ddim.alphas_bar().to(run.device), run.plan.min_snr

    def loss(z0, ids, t, noise):
        a = abar[t].view(-1, 1, 1, 1)
        z = (a.sqrt() * z0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with run.half():
            out = modules["unet"](z, t, modules["text_encoder"](ids).last_hidden_state).sample.float()
        if prediction == "v_prediction":
            return (out - (a.sqrt() * noise - (1 - a).sqrt() * z0)).square().mean()
        snr = (a / (1 - a)).view(-1)
        return ((out - noise).square().mean((1, 2, 3)) * snr.clamp(max=most) / snr).mean()

    return loss


class Backward:
    """Loss and gradients of a batch: compiled where that works, else eager."""

    def __init__(self, run, loss):
        self.say, self.eager = run.say, loss
        self.loss = torch.compile(loss) if run.cuda and run.plan.compile else loss

    def __call__(self, *batch):
        try:
            loss = self.loss(*batch)
            loss.backward()
        except Exception as error:
            if self.loss is self.eager:
                raise
            self.say("not compiled:", repr(error)[:300])
            self.loss = self.eager
            loss = self.loss(*batch)
            loss.backward()
        return loss.detach()
