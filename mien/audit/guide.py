"""`mien.guide`: the guided loss in somebody else's training loop, for any net with a layer of maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mien.config import AugmentConfig, CueConfig, GuidanceConfig
from mien.cues import map_resize, render_cue
from mien.data.transforms import DRAWN, draw_changes, place_faces
from mien.errors import DataError, UsageError, unknown_name
from mien.explain import left_as_found
from mien.losses.alignment import SIMILARITIES, guidance_loss
from mien.models.adapt import logits_of
from mien.models.taps import last_layer, tapped
from mien.schema import LANDMARKS, scheme_classes
from mien.wrapped.classes import expressions_of, read_classes, scheme_of

PROBE = 2
"""Faces of the first batch with which `auto` looks for the layer."""


class Guide:
    """Calls a net, and says how far the attention of one of its layers is from where the evidence should be. Made by `guide`.

    Nothing is kept on the net; what it learns needs no landmarks later.
    """

    def __init__(
        self, net: nn.Module, classes: tuple[str, ...], layer: str, cue: CueConfig, config: GuidanceConfig,
        call: Callable[[Tensor], Any],
    ) -> None:  # fmt: skip
        self.net, self.classes, self.layer, self.cue, self.config, self.call = net, classes, layer, cue, config, call
        self.scheme = scheme_of(classes)
        names = scheme_classes(self.scheme)
        self.places = [names.index(name) if name in names else -1 for name in classes] + [-1]
        self.guided = self.seen = 0
        """Faces with a cue, and all faces, so far: a guide without cues guides nothing."""

    def __call__(self, images: Tensor, labels: Tensor, landmarks: Tensor) -> tuple[Any, Tensor]:
        """A pass of the net: its answer, and the guidance term to add to the loss.

        Args:
            images: (B, C, S, S) as the net takes them.
            labels: (B,) class index in the order of `classes`, -1 unknown; or (B, K) soft labels.
            landmarks: (B, 68, 2) iBUG points, xy pixels of `images`, NaN unknown: such faces are not guided.

        Returns:
            What the net returned, and a scalar with gradient: weight x mean over the guided faces of 1 - similarity; 0 where none is.

        """
        batch, landmarks = len(images), torch.as_tensor(landmarks)
        if tuple(landmarks.shape) != (batch, LANDMARKS, 2):
            raise DataError(
                f"landmarks have shape {tuple(landmarks.shape)}; expected ({batch}, {LANDMARKS}, 2), xy pixels of the images."
            )
        if self.layer == "auto":
            self.layer = self._found(images)
        with tapped(self.net, (self.layer,), batch) as seen:
            answer = self.call(images)
        if not seen:
            raise UsageError(
                f"layer {self.layer} returned no map (B, C, h, w) or tokens (B, N, C) in this pass; name another."
            )
        grid = seen[-1].grid
        known = self._labels(torch.as_tensor(labels), batch).to(grid.device)
        cue = render_cue(
            self.cue, landmarks.to(grid.device, torch.float32), known, scheme=self.scheme,
            image_size=(images.shape[-2], images.shape[-1]), size=(grid.shape[-2], grid.shape[-1]),
        )  # fmt: skip
        self.guided, self.seen = self.guided + int(cue.valid.sum()), self.seen + batch
        return answer, self.config.weight * guidance_loss([grid], [cue], self.config, resize=map_resize(self.cue))

    def change(
        self, images: Tensor, landmarks: Tensor, augment: AugmentConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Faces flipped, turned, moved and zoomed at random, with their landmarks (a flip swaps left and right points).

        images (B, C, S, S) of any normalisation, landmarks (B, 68, 2). `augment` says how far, by default flips of half of them,
        10 degrees, 5 % and a zoom of 10 %; its colours and erasing are left to others.
        """
        how = augment or AugmentConfig(flip=0.5, rotation=10.0, translate=0.05, scale=0.1)
        changes = draw_changes(how, torch.rand(len(images), DRAWN, generator=generator))
        if not images.is_floating_point():
            raise DataError(f"images are {images.dtype}; give them as floating-point numbers, as the net takes them.")
        points = torch.as_tensor(landmarks).to(images.device, torch.float32)
        if changes is None:
            return images, points
        moved, places = place_faces(images.float(), points, changes.flip, changes.matrix)
        return moved.to(images.dtype), places

    def _labels(self, labels: Tensor, batch: int) -> Tensor:
        """Labels of a batch -> classes of the scheme, -1 where there is none; DataError for labels of another form."""
        soft = labels.dim() == 2 and labels.shape[1] == len(self.classes)
        hard = labels.argmax(1) if soft else labels.flatten() if labels.dim() == 2 and labels.shape[1] == 1 else labels
        if tuple(hard.shape) != (batch,) or bool((hard != hard.long()).any()):
            raise DataError(
                f"labels have shape {tuple(labels.shape)} and type {labels.dtype}; expected ({batch},) class numbers or "
                f"({batch}, {len(self.classes)}) soft labels."
            )
        hard = hard.long()
        if bool((hard >= len(self.classes)).any()):
            raise DataError(
                f"label {int(hard.max())} is beyond the {len(self.classes)} classes {', '.join(self.classes)}."
            )
        places = torch.tensor(self.places, device=hard.device)
        return places[torch.where(hard < 0, len(self.classes), hard)]

    def _found(self, images: Tensor) -> str:
        with torch.inference_mode(False), torch.enable_grad(), left_as_found(self.net):  # also in a validation step
            part = images[:PROBE].detach().clone()
            found = last_layer(self.net, lambda: logits_of(self.call(part), len(self.classes)), len(part))
        if found is None:
            raise UsageError(
                "no layer has places that a gradient reaches (no convolution or tokens); this net cannot be guided."
            )
        return found


def guide(
    net: nn.Module,
    classes: Sequence[str] | Mapping[int, str] | str,
    *,
    layer: str = "auto",
    cue: CueConfig | None = None,
    weight: float = 4.0,
    similarity: str = "cosine",
    call: Callable[[Tensor], Any] | None = None,
) -> Guide:
    """The guided loss for a training loop that is not Mien's: bare torch, Lightning, the Trainer of Hugging Face (docs/compare.md).

    Args:
        net: any torch module with a layer of maps.
        classes: names in the order of its answers, as in `mien.wrap`.
        layer: whose channel mean is pulled towards the cue; by its name in the net, or auto: the last one that a gradient reaches
            (`Guide.layer` says which, after the first batch).
        cue: where the evidence should be; the action units of the label unless given. Cues of pictures or of observed action units
            are not for foreign loops.
        weight: of the term. docs/guidance.md says what is usual.
        similarity: as `guidance.similarity`.
        call: how the net is called, images -> answer; net(images) unless given.

    """
    names = expressions_of(read_classes(classes))
    chosen = cue or CueConfig()
    if chosen.kind in ("saliency", "au_observed") or chosen.control not in ("none", "uniform", "centre", "inverted"):
        raise UsageError(
            f"cue {chosen.kind} with control {chosen.control} needs more than landmarks and labels; use `mien train`."
        )
    if layer != "auto" and layer not in dict(net.named_modules()):
        raise unknown_name("layer", layer, [one for one, _ in net.named_modules() if one])
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)
    if not 0 <= weight < float("inf"):
        raise UsageError(f"weight is {weight}; give a number from 0 on.")
    config = GuidanceConfig(weight=weight, similarity=similarity)  # type: ignore[arg-type]
    return Guide(net, names, layer, chosen, config, call or net)
