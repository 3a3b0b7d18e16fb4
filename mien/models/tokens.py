"""Vision transformers with every block's token grid on the path to the logits, and their attention as a return value.

timm's own intermediates are copies beside that path: a gradient of a logit with respect to them does not exist. Here the
sequence is cut into prefix tokens (class, distillation, registers) and a grid (B, C, h, w) after every block, and the next
block reads the sequence that is put together from that very grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import UsageError
from mien.schema import Layers


def is_token_net(net: nn.Module) -> bool:
    """Whether `token_layers` runs this net: timm's VisionTransformer (most vit_*, all deit_* and deit3_*)."""
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(net, VisionTransformer)


def plain_attention(net: nn.Module) -> None:
    """Switch timm's fused attention off, in place: fused kernels have no second derivative."""
    for module in net.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]


def token_layers(net: Any, images: Tensor) -> Layers:
    """Run a timm VisionTransformer on (B, 3, H, W) images; numbers are those of its own `forward_features`.

    features: one grid (B, C, h, w) a block, the last one after the final norm; each lies on the path to all that follows.
    class_token: (B, C) after the final norm; None for a net without. The last grid is beside it, not before it.
    token_attention: one (B, N, N) a block, rows sum to 1; N = prefix tokens + h w, class token first.
    attention: (B, 1, h, w), the sum over blocks of the class token's row at the patches (TS-CAM).
    Both attentions are left out where there is no class token, or where blocks are not timm's standard ones.
    """
    h, w = net.patch_embed.dynamic_feat_size(images.shape[-2:])
    tokens = net.norm_pre(net._pos_embed(net.patch_embed(images)))
    features, attention = [], []
    for number, block in enumerate(net.blocks, start=1):
        if _is_standard(block):
            change, _, weights = attend(block.attn, block.norm1(tokens))
            tokens = tokens + block.drop_path1(block.ls1(change))
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
            attention.append(weights)
        else:
            tokens = block(tokens)
        prefix, grid = cut(net.norm(tokens) if number == len(net.blocks) else tokens, (h, w))
        features.append(grid)
        tokens = joined(prefix, grid)
    if not net.has_class_token:
        return Layers(tuple(features))
    class_token = prefix[:, 0]
    if len(attention) < len(features):
        return Layers(tuple(features), class_token)
    return Layers(tuple(features), class_token, class_attention(attention, (h, w)), tuple(attention))


def attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Self-attention with the weights of a timm `Attention`, by the plain softmax path, twice differentiable.

    tokens (B, N, C) -> what the block adds (B, N, C), scores before the softmax (B, heads, N, N), and the softmax averaged
    over heads (B, N, N).
    """
    batch, count, _ = tokens.shape
    parts = attention.qkv(tokens).reshape(batch, count, 3, attention.num_heads, -1)
    query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attention.q_norm(query), attention.k_norm(key)
    scores = query * attention.scale @ key.transpose(-2, -1)
    weights = scores.softmax(dim=-1)
    mixed = (attention.attn_drop(weights) @ value).transpose(1, 2).flatten(2)
    return attention.proj_drop(attention.proj(attention.norm(mixed))), scores, weights.mean(dim=1)


def cut(tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(B, P + h w, C) -> prefix tokens (B, P, C) and the patch tokens as a grid (B, C, h, w)."""
    patches = size[0] * size[1]
    return tokens[:, :-patches], tokens[:, -patches:].transpose(1, 2).unflatten(2, size)


def joined(prefix: Tensor, grid: Tensor) -> Tensor:
    """The sequence that `cut` took apart."""
    return torch.cat((prefix, grid.flatten(2).transpose(1, 2)), dim=1)


def class_attention(attention: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum over blocks of the class token's attention to the patches: (B, N, N) each -> (B, 1, h, w)."""
    rows = torch.stack([weights[:, 0, -size[0] * size[1] :] for weights in attention]).sum(dim=0)
    return rows.unflatten(1, (1, *size))


def spread_gains(norm: nn.Module | None, spread: float = 0.1) -> None:
    """Draw the gains of a fresh final LayerNorm from 1 +- spread, in place.

    With all gains 1 its channel mean, which guidance aligns, is zero at every token up to rounding: the cosine is then
    noise and its gradient millions. Trained weights have no such symmetry.
    """
    if isinstance(norm, nn.LayerNorm) and norm.elementwise_affine:
        nn.init.normal_(norm.weight, 1.0, spread)


def check_size(net: Any, backbone: str, size: int) -> None:
    """UsageError where patches do not tile the picture: its right and lower edge would not be seen."""
    stride = getattr(net.patch_embed, "patch_size", (1,))[0]
    if type(net.patch_embed).__name__ == "PatchEmbed" and size % stride:
        low = max(stride, size // stride * stride)
        raise UsageError(
            f"model.size {size} is not a multiple of the {stride} px patches of '{backbone}'; "
            f"use {low} or {size // stride * stride + stride}."
        )


def resized_positions(net: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State with `pos_embed` of another square grid resized to the grid of the net (bicubic, as timm does it)."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    given, own = state.get("pos_embed"), getattr(net, "pos_embed", None)
    if given is None or own is None or given.dim() != 3 or given.shape[1] == own.shape[1]:
        return state
    prefix = 0 if net.no_embed_class else net.num_prefix_tokens
    if (given.shape[1] - prefix) ** 0.5 % 1:
        return state
    position = resample_abs_pos_embed(given, list(net.patch_embed.grid_size), num_prefix_tokens=prefix)
    return {**state, "pos_embed": position}


def _is_standard(block: nn.Module) -> bool:
    from timm.models.vision_transformer import Attention, Block

    return type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None
