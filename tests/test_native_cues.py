"""Codebook `paper` is drawn on the picture as stored and resized with it; the sheet, training and the mean cue agree."""

import numpy as np
import pytest
import tiny
import torch

from mien.config import CueConfig
from mien.cues import has_cue, render_cue
from mien.cues.render import onto_canvas
from mien.cues.verb import cues
from mien.data.labels import labels_of
from mien.data.loader import Loader, load_memory
from mien.data.transforms import resize_faces
from mien.evaluation.reference import class_cues
from mien.training.cues import cues_for, mean_of_cue

STORED, SEEN = 224, 48


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("stores") / "large", each=2, size=STORED)


def recipe_at(store, size, **cue):
    return tiny.recipe(store.path, cue={"codebook": "paper", **cue}, model={"size": size})


def batch_of(store, recipe, memory=None):
    labels = labels_of(store, "basic-7")
    options = {"size": recipe.model.size, "batch": len(store), "device": torch.device("cpu"), "memory": memory}
    return next(iter(Loader(store, np.arange(len(store)), labels, **options)))


def drawn_on_the_store(store, config):
    labels = torch.from_numpy(labels_of(store, "basic-7"))
    frame = (STORED, STORED)
    return render_cue(config, torch.from_numpy(store.landmarks), labels, image_size=frame, size=frame).maps


@pytest.mark.parametrize("size", [48, 112, 224])
@pytest.mark.parametrize("kind", ["au", "au_generic"])
def test_a_smaller_net_gets_the_published_map_resized(store, size, kind):
    """Twin: the pixel of the stored map under the centre of each pixel that the net sees."""
    recipe = recipe_at(store, size, kind=kind)
    cue = cues_for(recipe, batch_of(store, recipe), [(size, size)], [None], 0, 0)[0]
    whole = drawn_on_the_store(store, recipe.cue)
    places = ((torch.arange(size) + 0.5) * torch.tensor(STORED / size)).long()
    torch.testing.assert_close(cue.maps, whole[:, :, places][..., places], rtol=0, atol=1e-6)
    region = [(m[cue.valid] > 0.5).float().mean() for m in (cue.maps, whole)]
    assert region[0] == pytest.approx(float(region[1]), rel=0.03)


def test_layers_get_that_map_by_the_published_resize(store):
    recipe = recipe_at(store, SEEN)
    whole, small = cues_for(recipe, batch_of(store, recipe), [(SEEN, SEEN), (7, 7)], [None, None], 0, 0)
    again = torch.nn.functional.interpolate(
        whole.maps, size=(7, 7), mode="bilinear", align_corners=True, antialias=True
    )
    torch.testing.assert_close(small.maps[small.valid], again[small.valid].clamp(0, 1))


def test_the_sheet_shows_what_training_uses(store, tmp_path):
    """`mien cues` on the store, to the pixels that the net sees."""
    shown = cues(store.path, codebook="paper", out=tmp_path / "maps.npz")
    recipe = recipe_at(store, STORED)
    used = cues_for(recipe, batch_of(store, recipe), [(STORED, STORED)], [None], 0, 0)[0]
    np.testing.assert_allclose(shown, used.maps[:, 0].numpy(), atol=1e-6)


@pytest.mark.parametrize("codebook", ["paper", "corrected"])
def test_scores_memory_and_the_mean_take_the_same_map(store, codebook):
    recipe = recipe_at(store, SEEN, codebook=codebook)
    labels, rows = labels_of(store, "basic-7"), np.arange(len(store))
    batch = batch_of(store, recipe)
    used = cues_for(recipe, batch, [(SEEN, SEEN)], [None], 0, 0)[0]
    kept = batch_of(store, recipe, load_memory(store, recipe.model, torch.device("cpu")))
    assert torch.equal(cues_for(recipe, kept, [(SEEN, SEEN)], [None], 0, 0)[0].maps, used.maps)
    reference = class_cues(recipe, store, labels, rows, SEEN, torch.device("cpu"))
    one = reference.of(torch.from_numpy(labels))[used.valid]
    twin = torch.stack([used.maps[used.valid & torch.from_numpy(labels == labels[k])].mean(0) for k in rows])[
        used.valid
    ]
    torch.testing.assert_close(one, twin)
    mean = mean_of_cue(recipe, store, labels, rows, SEEN)
    torch.testing.assert_close(mean[0], used.maps[used.valid].mean(0))


def test_whether_there_is_a_cue_is_judged_on_the_same_canvas(store):
    points = torch.from_numpy(store.landmarks) + torch.linspace(0, 300, len(store)).view(-1, 1, 1)
    small = resize_faces(torch.zeros(len(store), 3, STORED, STORED), points, SEEN)[1]
    labels = torch.from_numpy(labels_of(store, "basic-7"))
    frames = {"image_size": (SEEN, SEEN), "canvas": (STORED, STORED)}
    drawn = render_cue(CueConfig(codebook="paper"), small, labels, size=(SEEN, SEEN), **frames).valid
    assert torch.equal(has_cue(CueConfig(codebook="paper"), small, labels, **frames), drawn)
    assert 0 < int(drawn.sum()) < len(store) - 4


def test_whole_numbers_survive_the_way_there_and_back():
    points = torch.randint(-40, 300, (500, 68, 2)).float()
    for seen in (48, 112, 100):
        there = resize_faces(torch.zeros(500, 1, STORED, STORED), points, seen)[1]
        assert torch.equal(onto_canvas(there, (seen, seen), (STORED, STORED)), points)


def test_action_units_of_the_face_are_drawn_there_too(store):
    recipe = recipe_at(store, SEEN, kind="au_observed")
    batch = batch_of(store, recipe)
    batch = batch._replace(action_units=torch.full_like(batch.action_units, 4.0))
    cue = cues_for(recipe, batch, [(SEEN, SEEN)], [None], 0, 0)[0]
    alone = cues_for(recipe, batch._replace(canvas=None), [(SEEN, SEEN)], [None], 0, 0)[0]
    assert cue.valid.all()
    assert (cue.maps > 0.5).float().mean() < 0.6 * (alone.maps > 0.5).float().mean()
