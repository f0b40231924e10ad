"""A diffusers Stable Diffusion 1 written as one file in the original checkpoint's names, for the tests of loading."""

import torch

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(rest, table):
    """`rest` with its first matching beginning replaced."""
    for ours, theirs in table.items():
        if rest == ours or rest.startswith(ours + "."):
            return theirs + rest[len(ours) :]
    return rest


def unet_key(key, layers=2, plain=0):
    """The original name of a parameter of the U-Net with `layers` resnets in a down block.

    plain  the up block without attention, whose upsampler comes right after its resnet
    """
    if key.startswith(tuple(ENDS)):
        return renamed(key, ENDS)
    side, *parts = key.split(".")
    if side == "mid_block":
        kind, k, rest = parts[0], int(parts[1]), ".".join(parts[2:])
        return f"middle_block.{2 * k if kind == 'resnets' else 1}.{renamed(rest, RESNET)}"
    block, kind, k, rest = int(parts[0]), parts[1], int(parts[2]), ".".join(parts[3:])
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{rest.removeprefix('conv.')}"
        at = f"input_blocks.{(layers + 1) * block + k + 1}"
    else:
        if kind == "upsamplers":
            return f"output_blocks.{(layers + 1) * block + layers}.{1 if block == plain else 2}.{rest}"
        at = f"output_blocks.{(layers + 1) * block + k}"
    return f"{at}.0.{renamed(rest, RESNET)}" if kind == "resnets" else f"{at}.1.{rest}"


def vae_key(key):
    """The original name of a parameter of the autoencoder."""
    side, *parts = key.split(".")
    rest = ".".join(parts)
    if side not in ("encoder", "decoder"):
        return key
    if parts[0] in ("conv_in", "conv_out", "conv_norm_out"):
        return f"{side}.{rest.replace('conv_norm_out', 'norm_out')}"
    shortcut = {"conv_shortcut": "nin_shortcut"}
    if parts[0] == "mid_block":
        inner = ".".join(parts[3:])
        if parts[1] == "attentions":
            return f"{side}.mid.attn_1.{renamed(inner, ATTENTION)}"
        return f"{side}.mid.block_{int(parts[2]) + 1}.{renamed(inner, shortcut)}"
    block, kind, k, inner = int(parts[1]), parts[2], parts[3], ".".join(parts[4:])
    at = f"{side}.down.{block}" if side == "encoder" else f"{side}.up.{3 - block}"
    if kind == "resnets":
        return f"{at}.block.{k}.{renamed(inner, shortcut)}"
    return f"{at}.{'downsample' if side == 'encoder' else 'upsample'}.{inner}"


def one_file(model):
    """All weights of a loaded model under the names of the original checkpoint."""
    return pictures_of(model) | clip_of(model.text_encoder)


def pictures_of(model, plain=0):
    """The weights of U-Net and autoencoder; `plain` as in `unet_key`."""
    found = {}
    for key, x in model.unet.state_dict().items():
        found[f"model.diffusion_model.{unet_key(key, plain=plain)}"] = x.contiguous()
    for key, x in model.vae.state_dict().items():
        name = vae_key(key)
        flat = ".mid.attn_1." in name and name.endswith(".weight") and ".norm." not in name
        found[f"first_stage_model.{name}"] = (x[..., None, None] if flat else x).contiguous()
    return found


def clip_of(text, prefix="cond_stage_model.transformer."):
    """The weights of a text encoder in CLIP's own names."""
    own = {k.removeprefix("text_model."): x.contiguous() for k, x in text.state_dict().items()}
    return {f"{prefix}text_model.{k}": x for k, x in own.items()}


def open_clip(text, prefix="cond_stage_model.model.", more=1):
    """The text encoder in OpenCLIP's names, with the last layer that Stable Diffusion 2 leaves out (`more`)."""
    found = {}
    own = {k.removeprefix("text_model."): x for k, x in text.state_dict().items()}
    ends = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    for layer in range(text.config.num_hidden_layers + more):
        ours = f"encoder.layers.{min(layer, text.config.num_hidden_layers - 1)}."
        theirs = f"{prefix}transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            for a, b in names.items():
                found[f"{theirs}{b}.{end}"] = own[f"{ours}{a}.{end}"].clone()
            three = [own[f"{ours}self_attn.{n}_proj.{end}"] for n in "qkv"]
            found[f"{theirs}attn.in_proj_{end}"] = torch.cat(three)
    if "text_projection.weight" in own:
        found[prefix + "text_projection"] = own["text_projection.weight"].T.contiguous()
    return found | {prefix + b: own[a].clone() for a, b in ends.items()}
