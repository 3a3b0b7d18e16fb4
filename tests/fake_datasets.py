"""Small made-up datasets in the true layouts of the published ones, each with one broken sample."""

import csv
from pathlib import Path

import cv2
import numpy as np

FER_WORDS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")


def face(seed: int, size: int = 48) -> np.ndarray:
    """A drawn grey face, different for every seed."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (6, 6), dtype=np.uint8)
    image = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) // 3 + 40
    s = size / 48
    x, y = rng.integers(-3, 4, 2)
    cv2.ellipse(image, (int((24 + x) * s), int((24 + y) * s)), (int(15 * s), int(20 * s)), 0, 0, 360, 190, -1)
    for side in (-6, 6):
        cv2.circle(image, (int((24 + x + side) * s), int((18 + y) * s)), int(2 * s), 40, -1)
    cv2.ellipse(image, (int((24 + x) * s), int((33 + y) * s)), (int(6 * s), int(2 + seed % 4 * s)), 0, 0, 180, 60, -1)
    return image


def fer2013_csv(folder: Path, rows: int = 21, header=("emotion", "pixels", "Usage"), private: bool = True) -> Path:
    """`fer2013.csv` with a row of too few pixels (row 5); two thirds are Training."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fer2013.csv"
    keys = [name.strip().lower() for name in header]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in range(rows):
            pixels = " ".join(map(str, face(row).ravel()[: 100 if row == 5 else None]))
            values = {"emotion": row % 7, "pixels": pixels, "usage": usage(row, rows, private)}
            writer.writerow([values[key] for key in keys])
    return path


def usage(row: int, rows: int, private: bool) -> str:
    if row < rows * 2 // 3:
        return "Training"
    return "PrivateTest" if private and row >= rows * 5 // 6 else "PublicTest"


def fer_plus_csv(folder: Path, rows: int = 21, private: bool = True) -> Path:
    """`fer2013new.csv`: row 2 is not a face, row 3 has unknown votes only, row 4 is 6 : 4 happiness : fear."""
    path = folder / "fer2013new.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *VOTE_COLUMNS])
        for row in range(rows):
            votes = dict.fromkeys(VOTE_COLUMNS, 0)
            votes.update({2: {"NF": 10}, 3: {"unknown": 10}, 4: {"happiness": 6, "fear": 4}}.get(row, {"neutral": 10}))
            name = "" if row == 2 else f"fer{row:07d}.png"
            writer.writerow([usage(row, rows, private), name, *votes.values()])
    return path


def class_folders(root: Path, words=FER_WORDS, splits=("train", "test"), each: int = 2, size: int = 48) -> Path:
    """``root/split/class/*.png`` with subjects in the names; a corrupt picture and a text file in the first class."""
    for s, split in enumerate(splits or ("",)):
        for k, word in enumerate(words):
            folder = root / split / word
            folder.mkdir(parents=True, exist_ok=True)
            for n in range(each):
                cv2.imwrite(str(folder / f"S{n:02d}_{k}.png"), face(100 * s + 10 * k + n, size))
    first = root / (splits[0] if splits else "") / words[0]
    (first / "broken.png").write_bytes((first / f"S00_{0}.png").read_bytes()[:60])
    (first / "readme.txt").write_text("not a picture")
    (first / ".DS_Store").write_bytes(b"\0")
    return root


def table_csv(folder: Path, rows: int = 6, size: int = 64) -> Path:
    """A CSV with own column names, 68 points, AUs, groups; row 3 has a broken AU, row 4 names a missing file."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [f"{axis}{k}" for axis in "xy" for k in range(68)]
    path = folder / "faces.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "person", "set", "AU12", "AU06_r", "skin", "light", *points])
        for row in range(rows):
            cv2.imwrite(str(folder / f"{row}.png"), face(row, size))
            xs, ys = np.linspace(10, size - 10, 68), np.linspace(5, size - 5, 68)
            unit = "strong" if row == 3 else row / 2
            name = "gone.png" if row == 4 else f"{row}.png"
            labels = [("happy", "sad", "")[row % 3], f"p{row // 2}", ("train", "test")[row % 2]]
            writer.writerow([name, *labels, unit, "", "II", 0.5, *np.round(xs, 2), *np.round(ys, 2)])
    return path
