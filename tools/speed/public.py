"""The cost structure of DragDiffusion's public code, transcribed: what it computes, as often as it computes it.

Not a second implementation of the method: results are not compared, costs are. What differs from `dragnb`:
the picture is encoded for every sample of every fine-tune step; the adapter stays unmerged; the drag runs on float32
weights (under autocast on CUDA) that all ask for gradients, a full forward pass each, the whole feature map brought
to half the picture's size, points handled one by one; both branches are denoised and decoded; nothing is kept between
two edits but the adapter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dragnb import attention, ddim, features, lora, sd
from dragnb.geometry import Frame
from tools.speed.meter import Meter

REF_BLOCKS = (2, 3)  # the public code's layers 10 and up
MAP_PER_CELL = 4  # its feature map has half the picture's side


def autocast(model):
    """Half precision under autocast on CUDA; the CPU has none."""
    return torch.autocast(
        model.device.type, dtype=torch.float16, enabled=model.device.type == "cuda", cache_enabled=False
    )


def finetune(model, x, cond, s):
    """LoRA steps that encode the picture anew for each sample."""
    params = [p for p in model.unet.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(params, s.lora_lr, weight_decay=lora.WEIGHT_DECAY)
    g = torch.Generator().manual_seed(0)
    for _ in range(s.lora_steps):
        mean, std = sd.encode_dist(model, x.expand(s.lora_batch, -1, -1, -1))
        z0 = mean + std * torch.randn(mean.shape, generator=g).to(mean)
        noise = torch.randn(z0.shape, generator=g).to(z0)
        t = torch.randint(0, len(model.abar), (s.lora_batch,), generator=g)
        a = model.abar[t].view(-1, 1, 1, 1).to(z0)
        with torch.enable_grad(), autocast(model):
            out = sd.predict(model, a.sqrt() * z0 + (1 - a).sqrt() * noise, t.to(model.device), cond)
            loss = F.mse_loss(out, noise)
        loss.backward()
        adam.step()
        adam.zero_grad()
        loss.item()


def look(model, z, t, cond, s, hw):
    """Full forward pass; the block's whole map at half the picture's size, and one denoising step."""
    feats, eps = features.capture(model, z, t, cond, (s.block,), stop_early=False)
    levels = ddim.abar_at(model.abar, t), ddim.abar_at(model.abar, t - ddim.TRAIN_STEPS // s.steps)
    return features.upsample(feats[s.block], hw), ddim.ddim_move(z, eps, *levels)


def patch(feat, y, x, r):
    """A window of a map around a place between cells, bilinear in two folds, clipped to the map."""
    h, w = feat.shape[-2:]
    y0, x0 = int(y), int(x)
    dy, dx = y - y0, x - x0

    def window(at_y, at_x):
        ys, xs = (torch.arange(at - r, at + r + 1).clamp(0, n - 1) for at, n in ((at_y, h), (at_x, w)))
        return feat[:, :, ys][:, :, :, xs]

    top = (1 - dx) * window(y0, x0) + dx * window(y0, x0 + 1)
    low = (1 - dx) * window(y0 + 1, x0) + dx * window(y0 + 1, x0 + 1)
    return (1 - dy) * top + dy * low


def drag(model, z_t, t, cond, handles, targets, mask, s):
    """All iterations: no early end, gradients of all weights, points one by one."""
    hw = tuple(n * MAP_PER_CELL for n in z_t.shape[-2:])
    at = [tuple(map(float, p)) for p in handles]
    with torch.no_grad():
        first, kept = look(model, z_t, t, cond, s, hw)
    model.unet.requires_grad_(True)
    z = z_t.clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=s.drag_lr)
    for step in range(s.drag_steps):
        with torch.enable_grad(), autocast(model):
            feat, previous = look(model, z, t, cond, s, hw)
            if step:
                at = [track(first, feat, start, now, s.r2) for start, now in zip(handles, at, strict=True)]
            loss = s.lam * ((previous - kept) * (1 - mask)).abs().sum()
            for (y, x), (gy, gx) in zip(at, targets, strict=True):
                far = max(float((gy - y) ** 2 + (gx - x) ** 2) ** 0.5, 1e-6)
                here = patch(feat.detach(), y, x, s.r1)
                there = patch(feat, y + float(gy - y) / far, x + float(gx - x) / far, s.r1)
                loss = loss + (2 * s.r1 + 1) ** 2 * F.l1_loss(there, here)
        loss.backward()
        adam.step()
        adam.zero_grad()
        loss.item()
    model.unet.zero_grad(set_to_none=True)
    model.unet.requires_grad_(False)
    return z.detach()


def track(first, feat, start, now, r):
    """Where in the window around `now` the first map's `start` is found again."""
    with torch.no_grad():
        sought = first[:, :, round(float(start[0])), round(float(start[1]))]
        cost = (patch(feat, round(now[0]), round(now[1]), r) - sought[..., None, None]).abs().sum(1)[0]
        row, column = divmod(int(cost.argmin()), cost.shape[1])
    return float(round(now[0]) + row - r), float(round(now[1]) + column - r)


def run(task, model, settings, side, meter: Meter, weights=None):
    """One edit as the public interface does it; `weights` is the adapter of an earlier one. Returns the adapter."""
    frame = Frame.fit(*task.size, side or model.side, settings.fit)
    own = sd.private(model, own=lambda name: True)  # the drag gives all weights gradients
    x, cond = frame.to_canvas(task.image), sd.embed(own, task.prompt)
    meter.mark("load")
    with lora.attached(own, settings):
        if weights is None:
            finetune(own, x, cond, settings)
            weights = {n: p.detach().clone() for n, p in own.unet.named_parameters() if p.requires_grad}
            meter.mark("finetune")
        own.unet.load_state_dict(weights, strict=False)
        own.unet.requires_grad_(False)
        z0 = sd.encode(own, x)
        meter.mark("encode")
        ts = tuple(ddim.timesteps(settings.steps)[ddim.start_index(settings.steps, settings.strength) :])
        eps_fn = sd.eps_fn(own, cond)
        *_, up = ddim.invert(eps_fn, z0, own.abar, ts)
        meter.mark("invert")
        hw = tuple(n * MAP_PER_CELL for n in z0.shape[-2:])
        points = [frame.xy_to_yx(p, hw).round().tolist() for p in (task.handles, task.targets)]
        mask = frame.mask_to_canvas(task.mask, *z0.shape[-2:]).to(z0)
        own.unet.float()
        z = drag(own, up.z, ts[0], cond, *points, mask, settings)
        own.unet.to(own.dtype)
        meter.mark("drag")
        with attention.batched(own, REF_BLOCKS):
            *_, end = ddim.sample(eps_fn, torch.cat([up.z, z]), own.abar, ts)
        meter.mark("denoise")
        sd.decode(own, end.z_next)
        meter.mark("decode")
    return weights


def first_and_repeat(task, again, model, settings, side, flops=False):
    """Costs of a first edit and of a second drag on the same picture: two dicts by stage."""
    with Meter(model, flops) as first:
        weights = run(task, model, settings, side, first)
    with Meter(model, flops) as repeat:
        run(again, model, settings, side, repeat, weights)
    return first.costs, repeat.costs
