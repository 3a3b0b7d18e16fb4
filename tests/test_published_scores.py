"""Scores with codebook `paper` are those of the published code; what is trained is what is measured, there too."""

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from mien import maps
from mien.config import CueConfig, GuidanceConfig
from mien.cues import map_resize, render_cue
from mien.losses.alignment import guidance_loss
from mien.metrics.alignment import attention_scores, cam_cos
from mien.reproduce import tables
from mien.reproduce.grids import TABLES, WILDCAT_AS_CODED, recipe_of, shared_recipe

LABELS = torch.arange(1, 7)
FACES = torch.from_numpy(np.stack([tiny.points(224)] * 6)) + torch.randn(
    6, 1, 2, generator=torch.Generator().manual_seed(0)
)


def cue_at(codebook, size):
    return render_cue(CueConfig(codebook=codebook), FACES, LABELS, image_size=(224, 224), size=(size, size))


def as_coded(features, cue):
    """Twin of the published ATT-COS, face by face, from the description of its code."""
    found = []
    for one, target in zip(features, cue, strict=True):
        attention = one.mean(0)[None, None]
        low, high = attention.min(), attention.max()
        big = F.interpolate(attention, cue.shape[-2:], mode="bilinear", align_corners=True, antialias=True).clamp(
            low, high
        )
        if big.min() < 0:
            big = big - big.min()
        found.append(F.cosine_similarity(big.flatten(), target.flatten(), dim=0, eps=1e-8))
    return torch.stack(found)


@pytest.mark.parametrize("shift", [0.0, -0.4])
@pytest.mark.parametrize("side", [7, 14, 28])
def test_att_cos_is_the_published_one(side, shift):
    features = torch.rand(6, 5, side, side, generator=torch.Generator().manual_seed(side)) + shift
    cue = cue_at("paper", 224).maps
    ours = attention_scores(features, cue, map_resize(CueConfig(codebook="paper")))["cosine"]
    torch.testing.assert_close(ours, as_coded(features, cue), rtol=0, atol=5e-6)


def test_cam_cos_is_the_published_one():
    cams, cue = torch.randn(6, 1, 7, 7, generator=torch.Generator().manual_seed(1)), cue_at("paper", 224).maps
    small = (cams - cams.amin((2, 3), keepdim=True)) / (cams.amax((2, 3)) - cams.amin((2, 3)))[..., None, None]
    big = F.interpolate(small, size=(224, 224), mode="bilinear", align_corners=False).clamp(0, 1)
    expected = F.cosine_similarity(big.flatten(1), cue.flatten(1), eps=1e-8)
    torch.testing.assert_close(cam_cos(cams, cue), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("codebook", ["paper", "corrected"])
@pytest.mark.parametrize("side", [7, 14, 28])
def test_what_is_trained_is_what_is_measured(codebook, side):
    """Attention that is the cue at its layer, which the loss calls perfect, is measured as the cue's own copy at that size."""
    aim, whole = cue_at(codebook, side), cue_at(codebook, 224)
    resize = map_resize(CueConfig(codebook=codebook))
    loss = guidance_loss([aim.maps], [aim], GuidanceConfig(weight=1.0), resize=resize)
    assert float(loss) == pytest.approx(0, abs=1e-5)
    measured = attention_scores(aim.maps, whole.maps, resize)["cosine"]
    least = {"paper": (0.84, 0.97, 0.995), "corrected": (0.77, 0.90, 0.95)}[codebook]
    assert measured.min() > least[(7, 14, 28).index(side)]
    if codebook == "paper":  # with the other resize the same attention would lie beside its cue
        assert (measured - attention_scores(aim.maps, whole.maps)["cosine"]).min() > 0.01


def test_up_undoes_down():
    blob = torch.zeros(1, 1, 224, 224)
    blob[..., 150:190, 150:190] = 1
    again = maps.published_resize(maps.published_resize(blob, (14, 14)), (224, 224))
    rows = (torch.arange(224.0) * again.sum((1, 2))).sum() / again.sum()
    assert float(rows) == pytest.approx(169.5, abs=2)


def test_which_cues_take_it():
    assert map_resize(CueConfig(codebook="paper")) is maps.published_resize
    assert map_resize(CueConfig("au_generic", codebook="paper")) is maps.published_resize
    assert map_resize(CueConfig("landmarks", codebook="paper")) is maps.resize
    assert map_resize(CueConfig()) is maps.resize


def test_protocol_paper_trains_and_scores_as_coded():
    entries = {(entry.row, entry.column): entry for entry in TABLES["methods"]}
    wildcat, plus = (next(e for key, e in entries.items() if key[0] == row) for row in ("wildcat", "grad_cam_pp"))
    for protocol, options in (("paper", WILDCAT_AS_CODED), ("strict", {})):
        shared = shared_recipe("small", protocol, tiny.Path("store"), "rafdb", 1000)
        assert recipe_of(wildcat, shared, "small", 0).model.head_options == options
    found = {"protocol": "paper", "alignment": {"grad_cam_pp": {}, "grad_cam_pp_as_coded": {}}}
    score = tables.SCORES["cam_cos"]
    assert tables.map_of(found, plus, score) == "grad_cam_pp_as_coded"
    assert tables.map_of({**found, "protocol": "strict"}, plus, score) == "grad_cam_pp"
