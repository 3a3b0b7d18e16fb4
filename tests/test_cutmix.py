"""CutMix: pixels, labels and cues are cut by the same box; random state of a step; what a face without a cue does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.config import AugmentConfig
from mien.data.cutmix import cutmix, draw_box, mix_batch, mix_cue
from mien.data.labels import labels_of
from mien.data.loader import Loader
from mien.data.store import open_store
from mien.schema import Batch, Cue, Mix
from mien.training import checkpoint
from mien.training.cues import cues_for
from mien.training.loop import fit

ON = AugmentConfig(cutmix=1.0)


def a_batch(count: int = 4, side: int = 12) -> Batch:
    images = torch.arange(count * 3 * side * side, dtype=torch.float32).view(count, 3, side, side)
    rest = torch.zeros(count, 24), torch.zeros(count, 68, 2), torch.arange(count)
    return Batch(images, torch.arange(count), *rest)


def a_mix(box: tuple[int, int, int, int], partner: list[int], side: int = 12) -> Mix:
    return Mix(box, (side, side), torch.tensor(partner), torch.arange(len(partner)))


def test_pixels_and_labels_come_from_inside_and_outside_of_the_box() -> None:
    batch, partner = a_batch(), torch.tensor([1, 2, 3, 0])
    mixed = mix_batch(batch, (2, 8, 3, 12), partner, classes=5)
    for b in range(4):
        for y in range(12):
            for x in range(12):
                source = int(partner[b]) if 2 <= y < 8 and 3 <= x < 12 else b
                assert torch.equal(mixed.images[b, :, y, x], batch.images[source, :, y, x])
    inside = 6 * 9 / 144
    assert mixed.mix.share == pytest.approx(1 - inside)
    expected = (1 - inside) * F.one_hot(batch.expressions, 5) + inside * F.one_hot(partner, 5)
    assert torch.allclose(mixed.expressions, expected)
    assert torch.equal(mixed.mix.labels, batch.expressions)
    again = mix_batch(batch._replace(expressions=expected), (0, 3, 0, 12), partner, classes=5)  # soft labels stay soft
    assert torch.allclose(again.expressions, 0.75 * expected + 0.25 * expected[partner])


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_boxes_lie_in_the_picture_and_follow_beta(alpha: float) -> None:
    """With the clipping undone (centred boxes only) the area is 1 - lambda; Beta(a, a) has mean 1/2, variance 1/(8a+4)."""
    rng = np.random.default_rng(0)
    boxes = [draw_box(rng, 200, 100, alpha) for _ in range(4000)]
    assert all(0 <= y0 <= y1 <= 200 and 0 <= x0 <= x1 <= 100 for y0, y1, x0, x1 in boxes)
    whole = [
        (y1 - y0) / 200 * (x1 - x0) / 100 for y0, y1, x0, x1 in boxes if y0 > 0 and y1 < 200 and x0 > 0 and x1 < 100
    ]
    rng, drawn = np.random.default_rng(1), []
    while len(drawn) < len(whole):  # the same by rejection, without pixels
        side = np.sqrt(1 - rng.beta(alpha, alpha))
        if np.all(np.abs(rng.random(2) - 0.5) < 0.5 - side / 2):
            drawn.append(side**2)
    assert np.mean(whole) == pytest.approx(np.mean(drawn), abs=0.02)
    assert np.std(whole) == pytest.approx(np.std(drawn), abs=0.02)


def test_the_step_alone_decides() -> None:
    batch = a_batch()
    first, again, later = (cutmix(batch, ON, 5, (0, 1, step)) for step in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert first.mix.box == again.mix.box != later.mix.box
    assert cutmix(batch, AugmentConfig(), 5, (0, 1, 0)) is batch
    hits = sum(cutmix(batch, AugmentConfig(cutmix=0.3), 5, (0, 1, step)).mix is not None for step in range(300))
    assert 60 < hits < 120


def cue_twin(cue: Tensor, mix: Mix, fine: int) -> Tensor:
    """Maps mixed at `fine` times the resolution of a cell and averaged, by a mask of pixels."""
    count, _, h, w = cue.shape
    (y0, y1, x0, x1), (height, width) = mix.box, mix.size
    out = torch.zeros_like(cue)
    for b in range(count):
        for i in range(h):
            for j in range(w):
                for dy in range(fine):
                    for dx in range(fine):
                        y, x = (i + (dy + 0.5) / fine) * height / h, (j + (dx + 0.5) / fine) * width / w
                        source = int(mix.partner[b]) if y0 <= y < y1 and x0 <= x < x1 else b
                        out[b, 0, i, j] += cue[source, 0, i, j] / fine**2
    return out


@pytest.mark.parametrize(("cells", "fine"), [((12, 12), 1), ((3, 3), 4), ((4, 6), 6), ((1, 1), 12)], ids=str)
def test_cues_are_mixed_with_the_same_box_at_every_resolution(cells: tuple[int, int], fine: int) -> None:
    cue = Cue(torch.rand(3, 1, *cells), torch.ones(3, dtype=torch.bool))
    mix = a_mix((2, 7, 5, 12), [2, 0, 1])
    mixed = mix_cue(cue, mix)
    assert mixed.valid.all()
    assert torch.allclose(mixed.maps, cue_twin(cue.maps, mix, fine), atol=1e-5)


def test_a_face_is_valid_where_every_visible_part_has_a_cue() -> None:
    cue = Cue(torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4), torch.tensor([False, True, True]))
    partner = [1, 0, 1]  # face 1 gets a part of face 0, which has no cue
    assert mix_cue(cue, a_mix((2, 7, 5, 12), partner)).valid.tolist() == [False, False, True]
    assert mix_cue(cue, a_mix((5, 5, 3, 9), partner)).valid.tolist() == [False, True, True]  # empty box
    assert mix_cue(cue, a_mix((0, 12, 0, 12), partner)).valid.tolist() == [True, False, True]  # nothing own is left
    assert mix_cue(cue, a_mix((2, 7, 5, 12), partner)).maps[0].abs().sum() == 0


def test_a_cue_that_the_box_removed_is_not_valid() -> None:
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 1, 1] = maps[1, 0, 3, 3] = 1.0
    mixed = mix_cue(Cue(maps, torch.ones(2, dtype=torch.bool)), a_mix((0, 6, 0, 6), [1, 0]))
    assert mixed.valid.tolist() == [False, True]


def test_cues_in_training_are_those_of_both_faces(tmp_path: Path) -> None:
    recipe, store = tiny.recipe(tiny.store(tmp_path / "s", each=1).path), open_store(tmp_path / "s")
    rows = np.flatnonzero(store.expression != "Neutral")[:6]
    loader = Loader(store, rows, labels_of(store, "basic-7"), size=32, batch=6, device=torch.device("cpu"))
    batch = next(iter(loader))
    mixed = mix_batch(batch, (0, 32, 0, 16), torch.arange(6).roll(1), 7)
    own = cues_for(recipe, batch, [(8, 8)], [None], 1, 0)[0].maps
    both = cues_for(recipe, mixed, [(8, 8)], [None], 1, 0)[0].maps
    assert torch.equal(both[..., 4:], own[..., 4:])
    assert torch.equal(both[..., :4], own.roll(1, 0)[..., :4])


def test_runs_with_cutmix_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guided, with class weights, label smoothing and a head that reads labels; stopped in epoch 2 and resumed."""
    from mien.training import loop as module

    recipe = tiny.recipe(
        tiny.store(tmp_path / "s", each=4).path,
        augment={"cutmix": 0.7}, guidance={"weight": 1.0}, data={"balance": "weights"},
        optim={"label_smoothing": 0.1}, model={"head": "acol", "head_options": {"width": 8}},
    )  # fmt: skip
    fit(recipe, tmp_path / "whole")
    inner = module.loss_terms

    def stop_in_epoch_2(*arguments):
        if arguments[4] == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(module, "loss_terms", stop_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tmp_path / "parts")
    monkeypatch.undo()
    fit(recipe, tmp_path / "parts")
    fit(replace(recipe, augment=replace(recipe.augment, cutmix=0.0)), tmp_path / "plain")
    whole, parts, plain = (checkpoint.load_tensors(tmp_path / n / "last.ckpt")[0] for n in ("whole", "parts", "plain"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)
