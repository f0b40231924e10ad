"""How a model is loaded, as options of a command line: the words of `sd.load`, the same in every command."""

from __future__ import annotations

from collections.abc import Callable

NAMES = ("device", "dtype", "config", "low_memory", "lora", "vae", "clip_skip")


def add_options(add: Callable) -> None:
    """Give a parser the options, by its `add_argument`; what is not given is as `sd.load` has it."""
    add("--device", default="auto", help="cuda, mps or cpu")
    add("--dtype", default="auto", help="of the U-Net: fp32, fp16, bf16")
    add("--config", help="for a single file: a folder, hub id or yaml with its settings")
    add("--low-memory", action="store_true", help="slower, with less memory")
    add("--lora", help="a LoRA file to merge into the model")
    add("--vae", help="another autoencoder: its folder, file or hub id")
    add("--clip-skip", type=int, default=0, help="how many last layers of the text encoder are left out")


def loading(args) -> dict:
    """What `add_options` read, as the keywords of `sd.load`."""
    return {name: getattr(args, name) for name in NAMES}
