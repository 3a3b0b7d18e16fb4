"""Maps that a transformer itself returns: its attention, attention times class map, and attention rolled out over blocks.

All are functions of (output, target) and need no gradient. `attention` and `rollout` are of no class in particular.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.errors import UsageError
from mien.explain.builtin import cam
from mien.schema import Output

NEEDED = "a transformer with a class token (deit_small_patch16_224, apvit, ...)"


def attention(output: Output, target: Tensor) -> Tensor:
    """`Output.attention` (B, 1, h, w), the same for every target.

    Of a ViT the sum over blocks of the class token's attention to the patches, averaged over heads; of APViT
    the sum over channels of the absolute projected feature.
    """
    if output.attention is None:
        raise UsageError(f"this model returns no attention of its own: attention and ts_cam need {NEEDED}.")
    return output.attention


def ts_cam(output: Output, target: Tensor) -> Tensor:
    """TS-CAM (Gao et al. 2021, arXiv 2103.14862), raw: attention times the class map of `target`, pixel by pixel.

    target (B,) int64 -> (B, 1, h, w). UsageError where the model returns no attention, or no class maps.
    """
    return attention(output, target) * cam(output, target)


def rollout(output: Output, target: Tensor) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928), the same for every target.

    With A_l the attention of block l averaged over heads, R = R_n ... R_1 and R_l = 0.5 A_l + 0.5 I, rows divided by their
    sum; the map is the class token's row of R at the patches, (B, 1, h, w), values in [0, 1]. Only that row is computed.
    A token that was dropped before a block (APViT) attends to nothing there, and its row of R_l is the identity's.
    """
    if not output.token_attention:
        raise UsageError(f"this model returns no attention between tokens: rollout needs {NEEDED}.")
    tokens = output.token_attention[0].shape[-1]
    identity = torch.eye(tokens, device=output.logits.device)
    row = identity[:1].expand(output.logits.shape[0], 1, tokens)
    for weights in reversed(output.token_attention):
        mixed = 0.5 * weights.float() + 0.5 * identity
        row = row @ (mixed / mixed.sum(dim=-1, keepdim=True))
    h, w = output.features[-1].shape[-2:]
    return row[:, :, tokens - h * w :].unflatten(2, (h, w))


TOKEN_MAPS: dict[str, Callable[[Output, Tensor], Tensor]] = {
    "attention": attention,
    "ts_cam": ts_cam,
    "rollout": rollout,
}
"""Name -> map of (output, target)."""
