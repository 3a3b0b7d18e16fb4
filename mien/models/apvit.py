"""APViT: a face-recognition trunk, then a transformer that keeps only the patches and tokens that matter.

Xue et al. 2022, arXiv 2212.05463. Names of modules and parameters are those of the published checkpoints.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mien.models.tokens import attend
from mien.schema import Layers

TRUNK_UNITS = {18: (2, 2, 2), 50: (3, 4, 14)}
"""Depth of an IR net -> residual units in each of its first three stages."""


class Unit(nn.Module):
    """Residual unit of an IR net (ArcFace, Deng et al. 2019, arXiv 1801.07698)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inside != outside:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inside),
            nn.Conv2d(inside, outside, 3, 1, 1, bias=False),
            nn.PReLU(outside),
            nn.Conv2d(outside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, inside, h, w) -> (B, outside, h / stride, w / stride), rounded up."""
        return cast(Tensor, self.res_layer(features) + self.shortcut_layer(features))


class Trunk(nn.Module):
    """First three stages of an IR net: widths w, 2w, 4w and strides 2, 4, 8."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        widths, stages = (width, width, 2 * width, 4 * width), []
        for number, units in enumerate(TRUNK_UNITS[layers], start=1):
            first = Unit(widths[number - 1], widths[number], 2)
            stages.append(nn.Sequential(first, *(Unit(widths[number], widths[number], 1) for _ in range(units - 1))))
        self.body = nn.ModuleList(stages)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of the three stages."""
        features, stages = self.input_layer(images), []
        for stage in self.body:
            features = stage(features)
            stages.append(features)
        return stages


class PoolingTransformer(nn.Module):
    """Attentive patch pooling in front of the blocks, attentive token pooling inside their second half."""

    def __init__(
        self, inside: int, patches: int, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float,
        keep_patches: float, keep_tokens: float,
    ) -> None:  # fmt: skip
        super().__init__()
        from timm.models.vision_transformer import Block

        norm = partial(nn.LayerNorm, eps=1e-6)
        self.projs = nn.ModuleList([nn.Conv2d(inside, embed_dim, 1)])
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.patch_pos_embed = nn.Parameter(torch.empty(1, patches, embed_dim))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, norm_layer=norm) for _ in range(depth))
        self.norm = norm(embed_dim)
        self.counts = token_counts(patches, depth, keep_patches, keep_tokens)
        for weight in (self.cls_token, self.patch_pos_embed, *_linear_weights(self.blocks)):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """(B, inside, h, w) -> class token (B, C), patch attention (B, 1, h, w), token attention (B, N, N) a block.

        N = 1 + h w: tokens stand where they came from; rows and columns of those that were dropped before are zero.
        """
        projected = self.projs[0](features)
        attention = projected.abs().sum(dim=1, keepdim=True)
        kept = largest(attention.flatten(1), self.counts[0])
        patches = projected.flatten(2).transpose(1, 2) + self.patch_pos_embed
        count = patches.shape[1]
        patches = picked(patches, kept)
        tokens = torch.cat(((self.cls_token + self.cls_pos_embed).expand(patches.shape[0], -1, -1), patches), dim=1)
        places, spread = _after_class(kept), []
        for block, keep in zip(self.blocks, self.counts[1:], strict=True):
            change, scores, weights = attend(block.attn, block.norm1(tokens))  # type: ignore[operator]
            spread.append(placed(weights, places, 1 + count))
            tokens = tokens + change
            if keep < tokens.shape[1] - 1:
                kept = _after_class(largest(scores[:, :, 0, 1:].sum(dim=1), keep))
                tokens, places = picked(tokens, kept), places.gather(1, kept)
            tokens = tokens + block.mlp(block.norm2(tokens))  # type: ignore[operator]
        return self.norm(tokens)[:, 0], attention, tuple(spread)


class APViT(nn.Module):
    """IR trunk, 1x1 convolution, class token and positions, transformer with both poolings.

    Args:
        size: side of the pictures in pixels; patches are its eighths, 14 x 14 at 112 px.
        embed_dim: width of the tokens.
        depth: blocks of the transformer; no bias in q, k and v.
        num_heads: of each block.
        mlp_ratio: width of a block's hidden layer in widths of the tokens.
        trunk_layers: key of TRUNK_UNITS; 50 is the published IR-50 without its fourth stage.
        trunk_width: channels of the first stage; the third has four times as many.
        keep_patches: share of the patches that enter the transformer, by sum_c |projected feature| (160 of 196).
        keep_tokens: share of the tokens that each block of the second half keeps, by the summed class-token scores.

    """

    def __init__(
        self, size: int, embed_dim: int = 768, depth: int = 8, num_heads: int = 8, mlp_ratio: float = 3.0,
        trunk_layers: int = 50, trunk_width: int = 64, keep_patches: float = 160 / 196, keep_tokens: float = 0.9,
    ) -> None:  # fmt: skip
        super().__init__()
        if trunk_layers not in TRUNK_UNITS:
            raise ValueError(f"trunk_layers is {trunk_layers}; one of {', '.join(map(str, TRUNK_UNITS))} is needed.")
        if not (0 < keep_patches <= 1 and 0 < keep_tokens <= 1):
            raise ValueError("keep_patches and keep_tokens are shares above 0 and at most 1.")
        self.extractor = Trunk(trunk_layers, trunk_width)
        side = (size + 7) // 8
        self.vit = PoolingTransformer(
            4 * trunk_width, side * side, embed_dim, depth, num_heads, mlp_ratio, keep_patches, keep_tokens
        )

    def forward(self, images: Tensor) -> Layers:
        """(B, 3, size, size) -> Layers; the features are the three stages of the trunk."""
        stages = self.extractor(images)
        class_token, attention, token_attention = self.vit(stages[-1])
        return Layers(tuple(stages), class_token, attention, token_attention)


def token_counts(patches: int, depth: int, keep_patches: float = 160 / 196, keep_tokens: float = 0.9) -> list[int]:
    """Patch tokens that enter the transformer, then those that leave each block; without the class token.

    196 patches and 8 blocks: 160, then 160 four times, 144, 129, 116, 104.
    """
    counts = [max(1, round(patches * keep_patches))]
    for number in range(depth):
        counts.append(max(1, int(counts[-1] * keep_tokens)) if number >= depth // 2 else counts[-1])
    return counts


def largest(values: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest of each row in rising order: (B, N) -> (B, count)."""
    return values.topk(count, dim=1, sorted=False).indices.sort(dim=1).values


def picked(tokens: Tensor, kept: Tensor) -> Tensor:
    """Tokens (B, N, C) at the indices `kept` (B, n) -> (B, n, C)."""
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))


def placed(weights: Tensor, places: Tensor, count: int) -> Tensor:
    """(B, n, n) between tokens that stand at `places` (B, n) of the whole sequence -> (B, count, count), else zero."""
    batch = torch.arange(weights.shape[0], device=weights.device).view(-1, 1, 1)
    whole = weights.new_zeros(weights.shape[0], count, count)
    return whole.index_put((batch, places[:, :, None], places[:, None, :]), weights)


def _after_class(patches: Tensor) -> Tensor:
    """Patch numbers (B, n) -> token numbers (B, 1 + n), the class token first."""
    return torch.cat((torch.zeros_like(patches[:, :1]), patches + 1), dim=1)


def _linear_weights(module: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
