"""What a stage costs: seconds, passes through the U-Net, FLOPs, peak memory.

Everything is read between two marks. A mark waits for the device, so that no work is booked to the stage after it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

STATUS, PEAK_RESET = (
    Path("/proc/self/status"),
    Path("/proc/self/clear_refs"),
)  # Linux; elsewhere no process peak


aten = torch.ops.aten
CPU_ATTENTION = {  # torch's own table has the CUDA kernels only; the formulas are the same
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_: flop_counter.sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_: (
        flop_counter.sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)
    ),
}


class Flops(TorchDispatchMode):
    """Adds up 2 x multiply-adds by torch's own formulas.

    `FlopCounterMode` itself also follows modules, by hooks that `torch.autograd.grad` does not allow.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket
        if name in CPU_ATTENTION:
            self.total += CPU_ATTENTION[name](*args)
        elif name in flop_counter.flop_registry:
            self.total += flop_counter.flop_registry[name](*args, **(kwargs or {}), out_val=out)
        return out


@dataclass(frozen=True)
class Cost:
    """Of one stage of one run.

    seconds               wall time
    forwards, gradients   pictures that went into the U-Net; how many of them with a gradient asked for
    flops                 2 x multiply-adds of products and convolutions (torch's formulas); 0 unless counted
    allocated, resident   peak bytes of the device's allocator (CUDA) and of the process (Linux); 0 where unknown
    """

    seconds: float = 0.0
    forwards: int = 0
    gradients: int = 0
    flops: int = 0
    allocated: int = 0
    resident: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds, self.forwards + other.forwards, self.gradients + other.gradients,
            self.flops + other.flops, max(self.allocated, other.allocated), max(self.resident, other.resident),
        )  # fmt: skip


class Meter:
    """Costs by stage, booked mark by mark; use it as a context manager, which hangs its counter on the U-Net.

    `flops=True` counts FLOPs too, which slows the run: take its seconds from another one.
    """

    def __init__(self, model, flops: bool = False):
        self.model, self.costs = model, {}
        self._mode = Flops() if flops else None

    def __enter__(self) -> Meter:
        self._stack = contextlib.ExitStack()

        def count(module, args, kwargs):  # a function: copies of the module tree (`sd.private`) share it
            rows = len(args[0] if args else kwargs["sample"])
            self.forwards += rows
            self.gradients += rows * torch.is_grad_enabled()

        hook = self.model.unet.register_forward_pre_hook(count, with_kwargs=True)
        self._stack.callback(hook.remove)
        if self._mode:
            self._stack.enter_context(self._mode)
        self._restart()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _restart(self):
        self.forwards = self.gradients = 0
        self._flops = self._mode.total if self._mode else 0
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with contextlib.suppress(OSError):
            PEAK_RESET.write_text("5")
        self._since = time.perf_counter()

    def mark(self, stage: str) -> None:
        """Book everything since the last mark to `stage`."""
        allocated = 0
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
            allocated = torch.cuda.max_memory_allocated()
        seconds = time.perf_counter() - self._since
        flops = self._mode.total - self._flops if self._mode else 0
        cost = Cost(seconds, self.forwards, self.gradients, flops, allocated, peak_resident())
        self.costs[stage] = self.costs.get(stage, Cost()) + cost
        self._restart()


def peak_resident() -> int:
    """Largest resident size of this process in bytes since the last mark; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def matrix_rate(device: torch.device, dtype: torch.dtype, tries: int = 5) -> float:
    """FLOP a second of one large matrix product, the best of `tries`: what the device can do at most in practice."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in "ab")
    best = float("inf")
    for _ in range(tries + 1):
        begin = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * n**3 / best
