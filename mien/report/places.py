"""The section on spatial transformers: where each recipe's net reads its input, class by class and on single faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.config import Recipe
from mien.errors import DataError
from mien.report.pictures import MEAN_FACES, RECIPES, Faces, data_uri, open_faces
from mien.report.runs import Group, load_run
from mien.schema import ByteArray


def places_section(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Pictures of each recipe whose nets have a theta, and whose faces can be shown; of the first few recipes.

    A theta belongs to one net: of several seeds or folds the first net stands there, never a mean over nets.
    """
    section = []
    for group in [one for one in map(first_net, groups) if "theta" in one.first.faces][:RECIPES]:
        faces = open_faces(group.first)[0]
        if faces is not None:
            section.append({
                "name": group.name,
                "classes": data_uri(class_picture(group, faces)),
                "faces": data_uri(face_picture(group, faces)),
            })  # fmt: skip
    return section


def first_net(group: Group) -> Group:
    """The run of one net: the first run, or the first fold of a cross-validation; itself where that fold is gone."""
    run = group.first
    if not run.folds:
        several = len(group.runs) > 1
        return Group(f"{group.name}, net of seed {run.recipe.run.seed}" if several else group.name, [run])
    number = run.folds["each"][0]["fold"]
    title = f"{group.name}, net of fold {number}"
    try:
        return Group(title, [load_run(run.path / f"fold-{number}", title)])
    except DataError:
        bare = {name: values for name, values in run.faces.items() if name != "theta"}
        return Group(title, [run._replace(faces=bare)])


def class_picture(group: Group, faces: Faces) -> ByteArray:
    """Mean theta of each class over all faces of the first run, on the mean of some of them."""
    import torch

    from mien.report import warps

    run = group.first
    labels = run.faces["label"]
    rows = np.concatenate([np.flatnonzero(labels == k)[:MEAN_FACES] for k in range(len(run.classes))])
    images, cues = _pictures(run.recipe, faces, rows)
    theta = torch.from_numpy(run.faces["theta"]).float()
    return warps.class_sheet(
        images, theta, torch.from_numpy(labels), run.classes, cues, torch.from_numpy(rows), "cue", cell=104,
        masked=run.recipe.transformer.kind == "masked", padding=run.recipe.transformer.padding,
    )  # fmt: skip


def face_picture(group: Group, faces: Faces) -> ByteArray:
    """One face a class: the median of its class by the distance of its theta from the mean of the class."""
    import torch

    from mien.report import warps

    run, chosen = group.first, []
    theta, labels = run.faces["theta"].astype(np.float64), run.faces["label"]
    for k in np.unique(labels):
        own = np.flatnonzero(labels == k)
        distance = np.square(theta[own] - theta[own].mean(0)).sum((1, 2))
        chosen.append(own[np.argsort(distance, kind="stable")[len(own) // 2]])
    rows = np.array(chosen)
    images, cues = _pictures(run.recipe, faces, rows)
    names = [run.classes[k] for k in labels[rows]]
    masked, padding = run.recipe.transformer.kind == "masked", run.recipe.transformer.padding
    theta_ = torch.from_numpy(theta[rows]).float()
    return warps.sheet(images, theta_, cues, names, "cue", cell=104, masked=masked, padding=padding)


def _pictures(recipe: Recipe, faces: Faces, rows: np.ndarray) -> tuple[Any, Any]:
    """Tensors (R, 3, H, W) and (R, 1, H, W) in [0, 1] of faces by their place in the run; no cues where a control took their
    place as the guide, which would show what the net did not get.
    """
    import torch

    images = torch.from_numpy(faces.images(rows)).permute(0, 3, 1, 2).float() / 255
    if recipe.cue.control != "none":
        return images, None
    return images, torch.from_numpy(faces.cues(rows)).float()[:, None]
