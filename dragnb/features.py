"""What the U-Net sees: feature maps of any block by hook (paper §3.1), their principal components, and matching.

Blocks carry the paper's numbers: 1 to 4 are the outputs of up_blocks[0] to [3], 0 is the mid block. SDXL has three up
blocks, counted from the last one, 4 to 2: so each number means cells of one size in every family (`cells` measures
them), and the paper's third of four is the first whose cells are the latent's own. SDXL's mid block, as coarse as the
others' block 1, stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from dragnb import ddim, geometry, sd
from dragnb.errors import InputError

BLOCKS = (0, 1, 2, 3, 4)
PCA_CLIP = 1.0  # per cent of the values cut at each end before a component becomes a colour


class _Enough(Exception):
    """Raised by the last wanted block's hook: nothing after it is needed."""


def block_module(model: sd.Model, block: int) -> torch.nn.Module:
    """The U-Net module whose output the paper calls this block; InputError outside 0..4."""
    if block not in BLOCKS:
        raise InputError(
            f"block = {block!r}: use 1 to 4 (up blocks, as the paper counts) or 0 (the mid block)"
        )
    place = sd.up_block(model, block - 1)
    return model.unet.mid_block if block == 0 or place is None else model.unet.up_blocks[place]


@torch.no_grad()
def cells(model: sd.Model, side: int = 64) -> dict[int, tuple[int, int]]:
    """How each block sees a latent of `side` cells, measured by a pass: {block: (channels, rows of its map)}."""
    # whatever the prompt: one row of words, and SDXL's pooled one
    cond = torch.zeros(1, 2, model.unet.config.cross_attention_dim)
    feats, _ = capture(model, torch.zeros(1, model.unet.config.in_channels, side, side), 0, cond, BLOCKS)
    return {block: (feat.shape[1], feat.shape[2]) for block, feat in feats.items()}


def capture(
    model: sd.Model, z: torch.Tensor, t: int, cond: torch.Tensor, blocks=(3,), stop_early: bool = True
):
    """One forward pass at (z, t) -> ({block: (b, c, h, w) float32}, eps or None).

    With `stop_early` the pass ends after the last wanted block and eps is None; features and their gradients are
    exactly those of the whole pass. Gradients flow to z if it asks for them. The hooks are gone afterwards.
    """
    feats: dict[int, torch.Tensor] = {}
    many = len(set(blocks))

    def keep(block: int):
        def hook(module, args, output):
            # a clone, since FreeU writes into the map while the next block runs
            feats[block] = output.float() if output.dtype != torch.float32 else output.clone()
            if stop_early and len(feats) == many:
                raise _Enough

        return hook

    hooks = [block_module(model, block).register_forward_hook(keep(block)) for block in blocks]
    try:
        out = sd.predict(model, z, t, cond)
    except _Enough:
        return feats, None
    finally:
        for hook in hooks:
            hook.remove()
    return feats, ddim.to_eps(out, z, ddim.abar_at(model.abar, t), model.prediction_type)


def capture_guided(
    model: sd.Model, z, t: int, cond, uncond, guidance: float, block: int = 3, stop_early: bool = True
):
    """`capture` under classifier-free guidance -> ((1, 2c, h, w) float32, guided eps or None).

    One pass sees z twice, with the negative prompt `uncond` and with the prompt. Both maps count, channels beside each
    other, the first times 1 - w and the second times w = guidance / (2 guidance - 1), as the public code weighs them
    (the paper's App. C concatenates). guidance is above 1.
    """
    rows = torch.cat([uncond, cond])
    feats, noise = capture(model, torch.cat([z, z]), t, rows, (block,), stop_early)
    weight = guidance / (2 * guidance - 1)
    free, told = feats[block].chunk(2)
    feat = torch.cat([(1 - weight) * free, weight * told], dim=1)
    if noise is None:
        return feat, None
    free, told = noise.chunk(2)
    return feat, free + guidance * (told - free)


def upsample(feat: torch.Tensor, hw: tuple[int, int]) -> torch.Tensor:
    """The whole map at another size, bilinear, half-pixel centres (align_corners=False)."""
    return F.interpolate(feat, hw, mode="bilinear", align_corners=False)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """The U-Net's own map, read as if it were enlarged to `hw` cells; the larger map itself is never made.

    cells    (1, c, h, w)
    hw       rows and columns in which points are counted
    between  what is mixed at a place between whole cells of `hw`: "own", the U-Net's cells around it; "fine", the four
             cells of the enlarged map around it, as the public code does. On whole cells both are the same.
    """

    cells: torch.Tensor
    hw: tuple[int, int]
    between: str = "own"

    def __post_init__(self):
        if self.between not in ("own", "fine"):
            raise InputError(
                f"between = {self.between!r}: use 'own' (the U-Net's cells) or 'fine' (the map's)"
            )

    def read(self, yx: torch.Tensor) -> torch.Tensor:
        """Features at points (..., 2) -> (..., c).

        On whole cells of `hw` that is `upsample(cells, hw)` exactly; between them it is what `between` says. Points
        outside are moved to the border cell. Gradients flow to `cells`, deterministically.
        """
        yx = self.inside(yx)
        return self._read_own(yx) if self.between == "own" else geometry.mix_corners(self._read_own, yx)

    def _read_own(self, yx: torch.Tensor) -> torch.Tensor:
        """The continuous bilinear interpolant of `cells` at points on the map."""
        ratio = yx.new_tensor([n / m for n, m in zip(self.cells.shape[-2:], self.hw, strict=True)])
        return geometry.sample_bilinear(self.cells, (yx + 0.5) * ratio - 0.5)

    def inside(self, yx: torch.Tensor) -> torch.Tensor:
        """Points moved to the nearest place on the map."""
        return torch.minimum(yx.clamp_min(0), yx.new_tensor(self.hw) - 1)

    def detach(self, copy: bool = False) -> FeatureMap:
        """The same map without gradient; with `copy`, in memory of its own."""
        cells = self.cells.detach()
        return replace(self, cells=cells.clone() if copy else cells)


def as_map(feat: FeatureMap | torch.Tensor) -> FeatureMap:
    """A tensor (1, c, h, w) as the map whose points are counted in its own cells; a FeatureMap as it is."""
    return feat if isinstance(feat, FeatureMap) else FeatureMap(feat, tuple(feat.shape[-2:]))


def match(
    before: FeatureMap | torch.Tensor, after: FeatureMap | torch.Tensor, yx: torch.Tensor
) -> torch.Tensor:
    """Where in `after` the features of `before` at `yx` (n, 2) are found again: nearest by cosine, (n, 2) cells.

    The search covers every whole cell of `after.hw`.
    """
    after = as_map(after)
    whole = upsample(after.cells, after.hw)
    query = F.normalize(as_map(before).read(yx), dim=-1)
    keys = F.normalize(whole[0].flatten(1), dim=0)
    best = (query @ keys).argmax(dim=1)
    return torch.stack([best // whole.shape[-1], best % whole.shape[-1]], dim=-1).to(yx)


def pca_colors(feats: Sequence[torch.Tensor]) -> Callable[[torch.Tensor], np.ndarray]:
    """Three principal components of all these maps as colours: the basis and the range, for any map.

    feats  maps (1, c, h, w) of one c; sizes may differ
    Returns a function from a map (1, c, h, w) to (h, w, 3) float32 in [0, 1].
    """
    if len({f.shape[1] for f in feats}) != 1:
        raise InputError(
            f"feats: one basis needs one channel count, not {sorted({f.shape[1] for f in feats})}"
        )
    rows = np.concatenate([_rows(f) for f in feats])
    pca = _components(rows)
    low, high = np.percentile(pca.transform(rows), [PCA_CLIP, 100 - PCA_CLIP], axis=0)

    def colors(feat: torch.Tensor) -> np.ndarray:
        scores = (pca.transform(_rows(feat)) - low) / np.maximum(high - low, 1e-12)
        return np.clip(scores, 0, 1).astype(np.float32).reshape(*feat.shape[-2:], 3)

    return colors


@torch.no_grad()
def of_picture(model: sd.Model, image: np.ndarray, prompt: str, t: int, block: int, side: int | None = None):
    """The map of a picture without an inversion: seeded noise is added up to t -> ((1, c, h, w), geometry.Frame).

    image  uint8 (h, w, 3); side: the canvas's longer side in pixels, None for the model's own
    """
    frame = geometry.Frame.fit(image.shape[1], image.shape[0], side or model.side)
    z0, abar = sd.encode(model, frame.to_canvas(image)), ddim.abar_at(model.abar, t)
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0)).to(z0)
    z = abar.sqrt() * z0 + (1 - abar).sqrt() * noise
    return capture(model, z, t, sd.embed(model, prompt), (block,))[0][block], frame


def likeness(feat: torch.Tensor, yx: tuple[int, int]) -> np.ndarray:
    """How like one cell every cell of a map is: the cosine in the map's own three principal components.

    feat  (1, c, h, w); yx: row and column of the cell
    Returns (h, w) float32 in [-1, 1], 1 at the cell itself. On the bundled model three components tell a figure from
    what is around it better than eight, sixteen, or all channels.
    """
    rows = _rows(feat)
    scores = _components(rows).transform(rows)
    scores /= np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-12)
    h, w = feat.shape[-2:]
    alike = (scores @ scores[yx[0] * w + yx[1]]).reshape(h, w).astype(np.float32)
    alike[yx] = 1  # also where the cell is the mean of all
    return alike.clip(-1, 1)


def _components(rows: np.ndarray):
    from sklearn.decomposition import PCA

    return PCA(n_components=3, random_state=0).fit(rows)


def _rows(feat: torch.Tensor) -> np.ndarray:
    return feat[0].detach().float().cpu().flatten(1).T.numpy()


def pca_rgb(feats: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Maps (1, c, h, w) -> pictures (h, w, 3) in the colours that `pca_colors` finds for all of them (paper Fig. 2)."""
    colors = pca_colors(feats)
    return [colors(feat) for feat in feats]
