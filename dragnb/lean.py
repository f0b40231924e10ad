"""diffusers' U-Net blocks computing the same with less around it; serves `sd` and `lora`.

A pass of one small latent spends half its time beside the arithmetic: signatures looked up at every attention call,
divisions by 1, dropout at rate 0, maps copied out of channels_last and back in every transformer. `lighten` gives
each module that is exactly Stable Diffusion 1's kind a subclass of its own class, with the same weights and a plain
forward pass; `restore` takes it back. Tests hold the two together, in values and in gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel, Transformer2DModelOutput


def lighten(unet: torch.nn.Module) -> torch.nn.Module:
    """Change, in place, every module whose light form is known; all others stay as they are."""
    for module in unet.modules():
        light = LIGHT.get(type(module))
        if light is not None and light.fits(module):
            module.__class__ = light
            if light is LightAttention:
                module.set_processor(Attend())
    return unet


def restore(unet: torch.nn.Module) -> torch.nn.Module:
    """The modules as diffusers made them."""
    for module in unet.modules():
        if type(module) in LIGHT.values():
            if type(module) is LightAttention and type(module.processor) is Attend:
                module.set_processor(AttnProcessor2_0())
            module.__class__ = type(module).__bases__[0]
    return unet


def projections(unet: torch.nn.Module) -> set[torch.nn.Module]:
    """The layers whose product is taken with their `merged_weight`, where they have one."""
    attentions = [m for m in unet.modules() if type(m) is LightAttention and type(m.processor) is Attend]
    return {layer for m in attentions for layer in (m.to_q, m.to_k, m.to_v, m.to_out[0])}


class LightResnet(ResnetBlock2D):
    """norm, SiLU, convolution, time; norm, SiLU, convolution; plus the input."""

    @staticmethod
    def fits(m) -> bool:
        plain = m.upsample is None and m.downsample is None and m.output_scale_factor == 1.0
        plain = plain and m.time_embedding_norm == "default" and type(m.nonlinearity) is torch.nn.SiLU
        return plain and m.dropout.p == 0 and (m.conv_shortcut is None or _is_pointwise(m.conv_shortcut))

    def forward(self, input_tensor, temb=None, *args, **kwargs):
        h = self.conv1(F.silu(_group_norm(self.norm1, input_tensor)))
        if temb is not None and self.time_emb_proj is not None:
            h = h + self.time_emb_proj(temb if self.skip_time_act else F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(_group_norm(self.norm2, h)))
        if self.conv_shortcut is not None:
            input_tensor = _pointwise(self.conv_shortcut, input_tensor.permute(0, 2, 3, 1)).permute(
                0, 3, 1, 2
            )
        return input_tensor + h


class LightTransformer(Transformer2DModel):
    """A map becomes tokens without a copy, since it is channels_last; the 1 x 1 convolutions are matrices."""

    @staticmethod
    def fits(m) -> bool:
        return m.is_input_continuous and _is_pointwise(m.proj_in) and _is_pointwise(m.proj_out)

    def forward(self, hidden_states, encoder_hidden_states=None, *args, return_dict=True, **kwargs):
        if args or self.gradient_checkpointing or any(v is not None for v in kwargs.values()):
            return super().forward(
                hidden_states, encoder_hidden_states, *args, return_dict=return_dict, **kwargs
            )
        rows = _group_norm(self.norm, hidden_states).permute(0, 2, 3, 1)
        shape, rows = rows.shape, _pointwise(self.proj_in, rows.flatten(1, 2))
        for block in self.transformer_blocks:
            rows = block(rows, encoder_hidden_states=encoder_hidden_states)
        out = _pointwise(self.proj_out, rows).view(shape).permute(0, 3, 1, 2) + hidden_states
        return (out,) if not return_dict else Transformer2DModelOutput(sample=out)


class LightBlock(BasicTransformerBlock):
    """Self-attention, cross-attention, feed-forward, each added to what came in."""

    @staticmethod
    def fits(m) -> bool:
        plain = m.norm_type == "layer_norm" and m.pos_embed is None and not m.only_cross_attention
        return plain and m.attn2 is not None and m._chunk_size is None and not hasattr(m, "fuser")

    def forward(self, hidden_states, attention_mask=None, encoder_hidden_states=None, *args, **kwargs):
        more = (attention_mask, *args, *kwargs.values())
        if any(x is not None for x in more) or self._chunk_size is not None:
            return super().forward(hidden_states, attention_mask, encoder_hidden_states, *args, **kwargs)
        x = hidden_states
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), encoder_hidden_states) + x
        return self.ff(self.norm3(x)) + x


class LightFeedForward(FeedForward):
    """GEGLU and a product. Its two halves are two products, so that neither is read with gaps."""

    @staticmethod
    def fits(m) -> bool:
        first, drop, last, *more = m.net
        return type(first) is GEGLU and drop.p == 0 and type(last) is torch.nn.Linear and not more

    def forward(self, hidden_states, *args, **kwargs):
        proj, last = self.net[0].proj, self.net[2]
        value, gate = zip(proj.weight.chunk(2), proj.bias.chunk(2), strict=True)
        return last(F.linear(hidden_states, *value) * F.gelu(F.linear(hidden_states, *gate)))


class LightAttention(Attention):
    """Calls its processor and looks nothing up."""

    @staticmethod
    def fits(m) -> bool:
        plain = m.spatial_norm is None and m.group_norm is None and m.norm_q is None and m.norm_k is None
        plain = plain and not m.norm_cross and m.to_out[1].p == 0 and type(m.processor) is AttnProcessor2_0
        return plain and not m.residual_connection and m.rescale_output_factor == 1.0

    def forward(self, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        return self.processor(
            self,
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=attention_mask,
            **kwargs,
        )


class Attend(AttnProcessor2_0):
    """Attention of a `LightAttention`: one product for all projections that read the same rows.

    Rows that are one row repeated (`expand`, as `sd.predict` does with the prompt) are projected once.
    """

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        rows = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q, attn.to_k, attn.to_v
        if attention_mask is not None or args or type(attn) is not LightAttention:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        if rows is hidden_states:
            query, key, value = _project(rows, q, k, v)
        else:
            batch = rows.shape[0]
            once = batch > 1 and rows.stride(0) == 0
            (query,), (key, value) = _project(hidden_states, q), _project(rows[:1] if once else rows, k, v)
            if once:
                key, value = key.expand(batch, -1, -1), value.expand(batch, -1, -1)
        heads = (query.shape[0], -1, attn.heads, query.shape[-1] // attn.heads)
        query, key, value = (x.view(heads).transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return _project(out, attn.to_out[0])[0]


def _group_norm(norm, x):
    return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def _is_pointwise(conv) -> bool:
    """Is it a 1 x 1 convolution, that is, a matrix?"""
    return type(conv) is torch.nn.Conv2d and conv.kernel_size == (1, 1) == conv.stride and conv.groups == 1


def _pointwise(conv, rows):
    """A 1 x 1 convolution of a map whose channels come last."""
    return F.linear(rows, conv.weight.flatten(1), conv.bias)


def _project(rows, *layers):
    """What each of these linear layers makes of the rows."""
    weights = [_weight(layer) for layer in layers]
    if len(layers) == 1 or any(w is None or m.bias is not None for w, m in zip(weights, layers, strict=True)):
        return tuple(
            layer(rows) if w is None else F.linear(rows, w, layer.bias)
            for layer, w in zip(layers, weights, strict=True)
        )
    return F.linear(rows, torch.cat(weights)).chunk(len(layers), -1)


def _weight(layer) -> torch.Tensor | None:
    """The matrix of a layer that is one; an adapter that is trained may offer `merged_weight`. None: call the layer."""
    if type(layer) is torch.nn.Linear:
        return layer.weight
    return getattr(layer, "merged_weight", None)


LIGHT = {
    light.__bases__[0]: light
    for light in (LightResnet, LightTransformer, LightBlock, LightFeedForward, LightAttention)
}
