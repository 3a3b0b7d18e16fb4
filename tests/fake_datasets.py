"""Small made-up datasets in the true layouts of the published ones, each with one broken sample."""

import csv
from pathlib import Path

import cv2
import numpy as np
import tiny

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


RAFDB_CODES = {"train_00001.jpg": 1, "train_00002.jpg": 2, "train_00003.jpg": 3, "train_00004.jpg": 4,
               "train_00005.jpg": 9, "train_00006.jpg": 6, "test_0001.jpg": 7, "test_0002.jpg": 5}  # fmt: skip
"""Name -> code in the label file; 9 is no code. train_00003 has no box file, train_00004 is a corrupt JPEG."""

PHOTO = (120, 80)
"""Width and height of the original photos."""


def rafdb_face(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Box x0 y0 x1 y1 and 68 points of the n-th face in its original photo."""
    box = np.array([60 + n, 10.5 + n, 100 + n, 56 + n], dtype=np.float32)
    return box, (tiny.points(40) + box[:2]).astype(np.float32)


def rafdb(root: Path) -> Path:
    """RAF-DB as released, and the crops of the published guided-AU preparation."""
    base = root / "RAF-DB" / "basic"
    for folder in ("EmoLabel", "Image/original", "Image/aligned", "Image/our_aligned"):
        (base / folder).mkdir(parents=True)
    for folder in ("boundingbox", "manual"):
        (base / "Annotation" / folder).mkdir(parents=True)
    lines = [f"{name} {code}" for name, code in RAFDB_CODES.items()]
    (base / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    for n, name in enumerate(RAFDB_CODES):
        stem = Path(name).stem
        box, points = rafdb_face(n)
        photo = np.full((PHOTO[1], PHOTO[0]), 30 + n, np.uint8)
        photo[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = cv2.resize(face(n, 50), (40, 46))[:, :40]
        cv2.imwrite(str(base / "Image" / "original" / name), photo)
        cv2.imwrite(str(base / "Image" / "aligned" / f"{stem}_aligned.jpg"), face(n, 100))
        cv2.imwrite(str(base / "Image" / "our_aligned" / name), face(n, 224))
        annotation = base / "Annotation"
        if n != 2:
            (annotation / "boundingbox" / f"{stem}_boundingbox.txt").write_text(" ".join(map(str, box)) + " \n")
        five = [*points[[36, 45, 30, 48, 54]], [1], [2], [3]]
        (annotation / "manual" / f"{stem}_manu_attri.txt").write_text("\n".join("\t".join(map(str, p)) for p in five))
    for name in ("original/train_00004.jpg", "aligned/train_00004_aligned.jpg", "our_aligned/train_00004.jpg"):
        (base / "Image" / name).write_bytes((base / "Image" / name).read_bytes()[:80])
    return root / "RAF-DB"


PAPER_CLASSES = ("Neutral", "Happiness", "Surprise", "Fear", "Anger", "Disgust", "Sadness")
"""Class integers of the published folds."""


def folds(folder: Path, splits: dict[str, dict[str, str]], points: np.ndarray | None = None) -> Path:
    """Folds files of the published guided-AU code: split -> name -> expression; `val` is a copy of `test`.

    With `points` every picture has these landmarks, the last of each split none (inf).
    """
    folder.mkdir(parents=True)
    (folder / "class_id.yaml").write_text("".join(f"{name}: {k}\n" for k, name in enumerate(PAPER_CLASSES)))
    for split, names in {**splits, "val": splits["test"]}.items():
        (folder / split).mkdir()
        (folder / split / "image_ids.txt").write_text("".join(f"{name}\n" for name in names))
        labels = [f"{name},{PAPER_CLASSES.index(expression)}\n" for name, expression in names.items()]
        (folder / split / "class_labels.txt").write_text("".join(labels))
        if points is not None:
            rows = [points] * (len(names) - 1) + [points * np.inf]
            lines = [f"{name},{','.join(map(str, row.T.ravel()))}\n" for name, row in zip(names, rows, strict=True)]
            (folder / split / "landmarks.txt").write_text("".join(lines))
    return folder


def affectnet(root: Path) -> Path:
    """AffectNet as arrays: 0-d text labels as released, then odd but readable forms, then one fault of each kind."""
    for split, count in (("train_set", 13), ("val_set", 3)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "annotations").mkdir()
        for n in range(count):
            cv2.imwrite(str(root / split / "images" / f"{n}.jpg"), face(n, 64))
            for key, value in (("exp", str(n)), ("val", "-0.25"), ("aro", "0.5")):
                np.save(root / split / "annotations" / f"{n}_{key}.npy", np.array(value))
            np.save(root / split / "annotations" / f"{n}_lnd.npy", (tiny.points(64) + n).astype(np.float64).ravel())
    notes = root / "train_set" / "annotations"
    np.save(notes / "1_exp.npy", np.array([1.0]))
    np.save(notes / "1_lnd.npy", tiny.points(64) + 1 - 40)  # (68, 2), some points outside
    np.save(notes / "1_val.npy", np.array(-2.0))  # unknown
    np.save(notes / "2_exp.npy", np.array(b"2"))
    (notes / "2_lnd.npy").unlink()
    np.save(notes / "3_exp.npy", np.array({"exp": 3}), allow_pickle=True)
    np.save(notes / "4_lnd.npy", np.zeros(134))
    (notes / "5_exp.npy").unlink()
    (root / "train_set" / "images" / "6.jpg").write_bytes(b"\xff\xd8 no")
    (root / "train_set" / "images" / "12.jpg").unlink()
    np.save(notes / "12_exp.npy", np.array("0"))
    return root  # 8, 9, 10: no expression; 11: no code


def affectnet_lists(root: Path) -> Path:
    """AffectNet's manually annotated part as lists; `validation.csv` without header, row 2 with 67 points."""
    header = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks"]
    lists, images = root / "Manually_Annotated_file_lists", root / "Manually_Annotated" / "Manually_Annotated_Images"
    lists.mkdir(parents=True)
    for name, split in (("training.csv", 0), ("validation.csv", 1)):
        with open(lists / name, "w", newline="") as file:
            writer = csv.writer(file)
            if split == 0:
                writer.writerow([*header, "expression", "valence", "arousal"])
            for n in range(4):
                path = images / str(split) / f"{n}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), face(n, 100))
                points = np.add(tiny.points(40), (20, 30)).ravel()[: 134 if n == 2 else 136]
                code = 10 if n == 3 else 7 - n
                affect = (-2, -2) if n == 3 else (0.1 * n, -0.5)
                writer.writerow([f"{split}/{n}.jpg", 20, 30, 40, 44, ";".join(map(str, points)), code, *affect])
    return root


DISFA_FRAMES = 6


def disfa(root: Path, subjects=("SN001", "SN002", "SN003"), pictures: str = "left") -> Path:
    """DISFA as released, videos of six frames. SN003 has no video; AU12 of SN002's frame 4 is 9; its frame 2 has a broken
    landmark file; SN001 has a landmark file too many. Frame n of a video is the grey value 40 + 30 n."""
    from scipy.io import savemat

    units = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
    for s, subject in enumerate(subjects):
        labels = root / "ActionUnit_Labels" / subject
        labels.mkdir(parents=True)
        for k, unit in enumerate(units):
            lines = [f"{n + 1},{(n + k + s) % 6}" for n in range(DISFA_FRAMES)]
            if subject == "SN002" and unit == 12:
                lines[3] = "4,9"
            (labels / f"{subject}_au{unit}.txt").write_text("\n".join(lines) + "\n")
        if subject != "SN003":
            _disfa_pictures(root, subject, pictures)
        marks = root / "Landmark_Points" / subject / "tmp_frame_lm"
        marks.mkdir(parents=True)
        extra = int(subject == "SN001")
        for n in range(DISFA_FRAMES + extra):
            points = np.delete(tiny.points(60) + 1, (60, 64), axis=0) + (n - extra)
            name = f"{subject}_{n:04d}_lm.mat" if s % 2 == 0 else f"l0{n:04d}_lm.mat"
            savemat(marks / name, {"pts": points})
            if subject == "SN002" and n == 2:
                (marks / name).write_bytes(b"no matlab file")
    return root


def _disfa_pictures(root: Path, subject: str, pictures: str) -> None:
    frames = [np.full((60, 80, 3), 40 + 30 * n, np.uint8) for n in range(DISFA_FRAMES)]
    if pictures == "images":
        folder = root / "images" / f"LeftVideo{subject}_comp"
        folder.mkdir(parents=True)
        for n, frame in enumerate(frames, 1):
            cv2.imwrite(str(folder / f"LeftVideo{subject}_comp_{n:05d}.jpg"), frame)
        return
    folder = root / ("Videos_LeftCamera" if pictures == "left" else "Video_RightCamera")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"LeftVideo{subject}_comp.avi" if pictures == "left" else f"RightVideo{subject}_Comp.avi"
    video = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*"MJPG"), 20, (80, 60))
    for frame in frames:
        video.write(frame)
    video.release()


def bp4d(root: Path) -> Path:
    """BP4D as released: F001_T1 with frames 2440 (AU6 unknown), 2441 (AU12 is x), 2442 (no picture), 2443 (all unknown)
    and M001_T2, whose pictures have leading zeros. AU11 and AU20b are no units that Mien knows."""
    folder = root / "AUCoding" / "AU_OCC"
    folder.mkdir(parents=True)
    header = "0,1,2,4,6,7,10,11,12,14,15,17,23,24"
    lines = [header, "2440,1,0,0,9,0,0,1,1,0,0,0,0,0", "2441,0,0,0,0,0,0,0,x,0,0,0,0,0", "2442" + ",0" * 13,
             "2443" + ",9" * 13]  # fmt: skip
    (folder / "F001_T1.csv").write_text("\n".join(lines) + "\n")
    (folder / "M001_T2.csv").write_text("\n".join([header, "7" + ",0" * 12 + ",1", "8" + ",1" * 13]) + "\n")
    for place, names in (("F001/T1", (2440, 2441, 2443)), ("M001/T2", ("0007", "0008"))):
        (root / "2D+3D" / place).mkdir(parents=True)
        for n, name in enumerate(names):
            cv2.imwrite(str(root / "2D+3D" / place / f"{name}.jpg"), face(n, 64))
    return root


AUDET_IDS = {"train": ("SN001_0", "SN001_1", "SN013_2"), "test": ("SN003_5", "SN003_6", "SN003_7")}
"""SN003_6 has a vector of five numbers, SN003_7 no label, SN001_1 no picture."""


def audetnet(root: Path, scale: float = 5, protocol: int = 4, ids=AUDET_IDS) -> Path:
    """A dataset folder of AUDetNet: `aus_dict.pkl`, lists of ids and pictures. Vector of the n-th id is (n + k) mod 6, k the
    column, or its occurrence with scale 1."""
    import pickle

    (root / "imgs").mkdir(parents=True)
    vectors = {}
    for n, name in enumerate([*ids["train"], *ids["test"]]):
        row = (n + np.arange(5 if name == "SN003_6" else 12)) % 6
        vectors[name] = row.astype(np.float64) if scale == 5 else (row > 2).astype(np.int64)
        if name != "SN001_1":
            cv2.imwrite(str(root / "imgs" / f"{name}.jpg"), face(n, 64))
    vectors.pop("SN003_7", None)
    (root / "aus_dict.pkl").write_bytes(pickle.dumps(vectors, protocol))
    for split, names in ids.items():
        (root / f"{split}_ids.csv").write_text("".join(f"{name}\n" for name in names))
    return root
