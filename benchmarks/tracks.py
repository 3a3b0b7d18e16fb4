"""Track switches a minute on synthetic videos of known people: who is who through turns of the head, occlusions and crossings.

    python benchmarks/tracks.py                # 8 videos of 60 s, three people each

Faces are rendered once for each person and turn of the head; boxes and missing detections are simulated: a head turned by
more than 35 degrees, or behind another one or a passing object, is not found. A switch is a person whose track number
differs from the one before.
"""

from __future__ import annotations

import argparse
from functools import lru_cache

import numpy as np

from mien.predict.results import FacePrediction, PicturePrediction
from mien.predict.tracks import Tracker
from mien.web.synthetic import draw_face

WIDTH, HEIGHT, RATE = 1280, 720, 12.5
TURNS = tuple(range(-40, 41, 10))


@lru_cache(maxsize=512)
def face_picture(person: int, turn: int) -> np.ndarray:
    import cv2

    return cv2.resize(draw_face({"AU12": 2.0}, person, turn, 0, 96).image, (32, 32), interpolation=cv2.INTER_AREA)


def paths(rng: np.random.Generator, people: int, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (T, P, 2), sizes (P,) and turns (T, P) of heads that sway, cross and look aside."""
    steps = int(seconds * RATE)
    moments = np.arange(steps) / RATE
    sizes = rng.uniform(90, 170, people)
    centres = np.empty((steps, people, 2))
    turns = np.empty((steps, people))
    for k in range(people):
        speeds = np.append(rng.uniform(0.02, 0.12, 3), rng.uniform(0.05, 0.3))
        phases = rng.uniform(0, 2 * np.pi, 4)
        wave = [np.sin(2 * np.pi * speed * moments + phase) for speed, phase in zip(speeds, phases, strict=True)]
        centres[:, k, 0] = WIDTH / 2 + 330 * wave[0] + 60 * wave[1]
        centres[:, k, 1] = HEIGHT / 2 + 90 * wave[2]
        turns[:, k] = 48 * np.sign(wave[3]) * np.abs(wave[3]) ** 1.5
    return centres, sizes, turns


def video(seed: int, people: int, seconds: float) -> list[tuple[PicturePrediction, list[int]]]:
    """Frames and, for each of their faces, whose it is."""
    rng = np.random.default_rng(seed)
    centres, sizes, turns = paths(rng, people, seconds)
    who = rng.choice(24, people, replace=False) + 1
    order = rng.permutation(people)  # who stands before whom
    passing = rng.uniform(0, WIDTH, 3), rng.uniform(150, 500, 3), rng.uniform(0, seconds, 3)
    made = []
    for t in range(len(centres)):
        faces, owners = [], []
        for k in range(people):
            box = np.concatenate([centres[t, k] - sizes[k] / 2, centres[t, k] + sizes[k] / 2])
            hidden = abs(turns[t, k]) > 35 or any(
                order[o] < order[k] and np.abs(centres[t, o] - centres[t, k]).max() < 0.45 * sizes[o]
                for o in range(people)
            )
            for place, speed, moment in zip(*passing, strict=True):
                x = (place + speed * (t / RATE - moment)) % (3 * WIDTH)
                hidden |= abs(x - centres[t, k, 0]) < 70
            if hidden or rng.random() < 0.03:
                continue
            box = box + rng.normal(0, 3, 4)
            picture = face_picture(int(who[k]), int(np.clip(np.rint(turns[t, k] / 10) * 10, -40, 40)))
            picture = np.clip(picture * rng.uniform(0.8, 1.2) + rng.normal(0, 6, picture.shape), 0, 255).astype(
                np.uint8
            )
            faces.append(FacePrediction(
                0, tuple(box), None, 1.0, {"Neutral": 1.0}, "Neutral", 1.0, False, "aligned", picture, np.eye(2, 3),
            ))  # fmt: skip
            owners.append(k)
        shuffled = rng.permutation(len(faces))
        faces = tuple(faces[i] for i in shuffled)
        made.append((PicturePrediction("v", WIDTH, HEIGHT, faces, None, t, t / RATE), [owners[i] for i in shuffled]))
    return made


def switches(frames: list[tuple[PicturePrediction, list[int]]]) -> tuple[int, int]:
    """Changes of a person's track number, and how many tracks there are."""
    tracker, last, count, numbers = Tracker(), {}, 0, set()
    for picture, owners in frames:
        for face, owner in zip(tracker.follow(picture).faces, owners, strict=True):
            count += last.get(owner, face.track) != face.track
            last[owner] = face.track
            numbers.add(face.track)
    return count, len(numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    words = parser.parse_args()
    found = [switches(video(seed, words.people, words.seconds)) for seed in range(words.videos)]
    minutes = words.videos * words.seconds / 60
    print(f"{sum(count for count, _ in found) / minutes:.1f} switches a minute, "
          f"{np.mean([tracks for _, tracks in found]):.1f} tracks for {words.people} people")  # fmt: skip


if __name__ == "__main__":
    main()
