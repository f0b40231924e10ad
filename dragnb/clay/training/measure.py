"""How good trained parts are on pictures that no training meets, figures apart from the background."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from dragnb import ddim, metrics, sd
from dragnb.clay.scene import VERSION, sample
from dragnb.clay.training.data import HELDOUT_SEED, to_unit
from dragnb.clay.training.parts import token_ids
from dragnb.geometry import Frame

LEVELS = (100, 300, 500, 681, 900)  # timesteps


def reconstruct(model: sd.Model, picture: np.ndarray) -> np.ndarray:
    """A 256 px picture through a model's autoencoder, uint8 as it was."""
    frame = Frame.fit(256, 256, 256)
    return frame.from_canvas(sd.decode(model, sd.encode(model, frame.to_canvas(picture))))


def autoencoder_psnr(model: sd.Model, count: int = 200, world: int = VERSION) -> Iterator[dict[str, float]]:
    """PSNR in dB of encoding and decoding `count` held-out pictures, one by one: of the whole, figure and backdrop.

    The backdrop is most of a picture and nearly flat, so the figure's own pixels are told apart from it.
    """
    for seed in range(HELDOUT_SEED, HELDOUT_SEED + count):
        scene = sample(seed, version=world)
        picture, figure = scene.picture(), scene.trace()[1] >= 0
        back = reconstruct(model, picture)
        regions = {"whole": None, "figure": figure, "backdrop": ~figure}
        yield {name: metrics.psnr(back, picture, mask) for name, mask in regions.items()}


class Heldout:
    """Held-out pictures of versions of the world in turn, and the errors that the parts of a model make on them."""

    def __init__(self, count, worlds=(VERSION,)):
        seeds = range(HELDOUT_SEED, HELDOUT_SEED + count)
        scenes = [sample(seed, version=worlds[seed % len(worlds)]) for seed in seeds]
        self.pictures = np.stack([scene.picture() for scene in scenes])
        self.figure = torch.from_numpy(np.stack([scene.trace()[1] >= 0 for scene in scenes]))[:, None]
        self.captions = [scene.caption for scene in scenes]

    @torch.no_grad()
    def errors(self, parts, device):
        """{"autoencoder_psnr": dB, "x0 at 100": mean square, ...}, each for figure and background."""
        x, figure = to_unit(self.pictures, device), self.figure.to(device)
        z0 = torch.cat([parts.vae.encoder(few) for few in x.split(16)])
        back = torch.cat([parts.vae.decoder(few).clamp(-1, 1) for few in z0.split(16)])
        off = (back - x).square() / 4
        z0 = z0 * parts.vae.config.scaling_factor
        figures = {
            "autoencoder_psnr": {k: round(-10 * np.log10(v), 2) for k, v in _apart(off, figure).items()}
        }
        context = parts.text_encoder(token_ids(parts.tokenizer, self.captions).to(device)).last_hidden_state
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(5)).to(device)
        cells = avg_pool2d(figure.float(), 8) >= 0.5
        for t in LEVELS:
            off = (self._x0(parts, z0, noise, t, context) - z0).square()
            figures[f"x0 at {t}"] = {k: round(v, 5) for k, v in _apart(off, cells).items()}
        return figures

    @staticmethod
    def _x0(parts, z0, noise, t, context):
        """The clean latents predicted at one noise level."""
        a = ddim.alphas_bar()[t].to(z0.device)
        z = a.sqrt() * z0 + (1 - a).sqrt() * noise
        out = parts.unet(z, torch.full((len(z),), t, device=z.device), context).sample
        if parts.scheduler.config.prediction_type == "v_prediction":
            return a.sqrt() * z - (1 - a).sqrt() * out
        return (z - (1 - a).sqrt() * out) / a.sqrt()


def _apart(values, figure):
    """The mean of values (b, c, h, w) over figures (b, 1, h, w) and over the rest."""
    values = values.mean(1, keepdim=True)
    return {"figure": values[figure].mean().item(), "background": values[~figure].mean().item()}
