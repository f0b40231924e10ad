"""AdamW for all, or Muon (Jordan et al. 2024; torch's own) for a U-Net's hidden matrices and AdamW for the rest."""

from __future__ import annotations

import torch

OUTER = ("conv_in", "conv_out", "time_emb")  # of the U-Net: not hidden, so AdamW's


class Optimizers:
    """The optimisers of `modules` ("unet" and others) together; kernels are handed to Muon as matrices.

    A matrix shares its kernel's memory: modules must lie in memory with channels last. Bound to one object for good.
    """

    def __init__(self, modules, kind, lr, muon_lr, fused=False):
        named = modules["unet"].named_parameters() if kind == "muon" else ()
        self.hidden = [p for name, p in named if p.ndim >= 2 and not name.startswith(OUTER)]
        known, self.rates = {id(p) for p in self.hidden}, (lr, muon_lr)
        rest = [p for p in modules.parameters() if id(p) not in known]
        self.parts = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=fused)]
        self.matrices = [torch.nn.Parameter(_matrix(p.detach()).view(len(p), -1)) for p in self.hidden]
        if self.matrices:
            self.parts.append(torch.optim.Muon(self.matrices, lr=muon_lr, weight_decay=0.0))

    def step(self, scale):
        """One step at a fraction of the peak rates; gradients are taken away."""
        for p, matrix in zip(self.hidden, self.matrices, strict=True):
            matrix.grad, p.grad = _matrix(p.grad).reshape(len(p), -1), None
        for optimizer, rate in zip(self.parts, self.rates, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _matrix(p):
    """A kernel with its channels last, as it lies in memory; a matrix as it is."""
    return p.permute(0, 2, 3, 1) if p.ndim == 4 else p
