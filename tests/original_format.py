"""A diffusers Stable Diffusion 1 written as one file in the original checkpoint's names, for the tests of loading."""

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(rest, table):
    """`rest` with its first matching beginning replaced."""
    for ours, theirs in table.items():
        if rest == ours or rest.startswith(ours + "."):
            return theirs + rest[len(ours) :]
    return rest


def unet_key(key, layers=2):
    """The original name of a parameter of the U-Net with `layers` resnets in a down block."""
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
            return f"output_blocks.{(layers + 1) * block + layers}.{1 if block == 0 else 2}.{rest}"
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
    found = {}
    for key, x in model.unet.state_dict().items():
        found[f"model.diffusion_model.{unet_key(key)}"] = x.contiguous()
    for key, x in model.vae.state_dict().items():
        name = vae_key(key)
        flat = ".mid.attn_1." in name and name.endswith(".weight") and ".norm." not in name
        found[f"first_stage_model.{name}"] = (x[..., None, None] if flat else x).contiguous()
    for key, x in model.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = x.contiguous()
    return found
