"""Does another person's smile, put on a neutral portrait, read as a smile, and is the person still the same?

    python benchmarks/swap_portraits.py RUN STORE

RUN is a run folder of `mien audet train` with a decoder, STORE a prepared store of people who are each there neutral and smiling
(expressions Neutral and Happiness), laid like the run's faces (`mien prepare aligned --like RUN`). The face model of the faces extra
reads the smile (AU12), which has trained nothing here. Writes no picture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mien.audet.embed import decode_rows, eye_corners, real_pictures
from mien.audet.readers import Reader, open_blendshapes
from mien.audet.run import load_audet
from mien.data.store import Store, open_store
from mien.metrics.counterfactual import face_texture
from mien.metrics.intervals import wilson
from mien.schema import IntArray


def pairs_of(store: Store) -> tuple[IntArray, IntArray]:
    """Rows of the neutral and of the smiling picture of every person who has both."""
    rows = [{name: np.flatnonzero((store.subject == who) & (store.expression == name)) for name in ("Neutral", "Happiness")}
            for who in sorted(set(store.subject) - {None})]  # fmt: skip
    both = [(one["Neutral"][0], one["Happiness"][0]) for one in rows if all(map(len, one.values()))]
    return np.array([one for one, _ in both]), np.array([other for _, other in both])


def smiles(reader: Reader, pictures: Tensor, corners: Tensor) -> np.ndarray:
    """(N,) 1 where AU12 is read, 0 where not or where no face is found."""
    k = reader.units.index("AU12")
    values = reader.read(pictures, corners)[:, k]
    return np.nan_to_num(values, nan=0.0) >= reader.cuts[k]


def recognised(pictures: Tensor, eyes: Tensor, known: Tensor) -> np.ndarray:
    """(N,) whether the inner face N resembles known texture N most."""
    texture = face_texture(pictures, eyes)
    return (texture @ known.T).argmax(1).numpy() == np.arange(len(known))


def main(run: Path, folder: Path) -> None:
    """Print a table: kind of picture, share that reads as a smile, share that is recognised among all people."""
    net, store, reader = load_audet(run), open_store(folder), open_blendshapes()
    neutral, smiling = pairs_of(store)
    others, device = np.roll(smiling, 1), torch.device("cpu")
    calm, glad = (eye_corners(store, rows) for rows in (neutral, smiling))
    kinds = {
        "smiling photo": (real_pictures(store, smiling, net.size), glad),
        "its reconstruction": (decode_rows(net, store, smiling, smiling, device), glad),
        "neutral photo": (real_pictures(store, neutral, net.size), calm),
        "its reconstruction ": (decode_rows(net, store, neutral, neutral, device), calm),
        "another's smile on the neutral photo": (decode_rows(net, store, others, neutral, device), calm),
        "another's neutral face on the neutral photo": (
            decode_rows(net, store, np.roll(neutral, 1), neutral, device),
            calm,
        ),
    }
    eyes = {name: corners.unflatten(1, (2, 2)).mean(2) for name, (_, corners) in kinds.items()}
    known = face_texture(kinds["smiling photo"][0], eyes["smiling photo"])
    print(f"{len(neutral)} people, {net.size} px; 95 % intervals (Wilson)")
    print(f"{'':<46}{'read as a smile':>26}{'recognised':>26}")
    for name, (pictures, corners) in kinds.items():
        cells = []
        for share in (smiles(reader, pictures, corners).mean(), recognised(pictures, eyes[name], known).mean()):
            low, high = wilson(float(share), len(neutral))
            cells.append(f"{share:.1%} ({low:.1%} to {high:.1%})")
        print(f"{name:<46}{cells[0]:>26}{cells[1]:>26}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
