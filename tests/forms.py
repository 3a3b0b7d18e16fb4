"""Small data sets in the forms that circulate: each function writes one below `at` and gives the command and the truth.

A truth has the keys that `tests/test_forms.py` compares: faces (split -> expression -> number), subjects, units (names, known
cells, active ones at intensity 2 and more), landmarks (valid faces), votes, skipped and told (words in the output).
"""

import csv
import json
from collections import Counter

import cv2
import numpy as np
import tiny
from PIL import Image

from mien.faces.landmarks import MESH_TO_68

SIZE = 32
WORDS = {
    "Neutral": "neutral",
    "Happiness": "happy",
    "Surprise": "surprise",
    "Fear": "fear",
    "Anger": "angry",
    "Sadness": "sad",
}
NAMES = list(WORDS)
RAF = {"Surprise": 1, "Fear": 2, "Disgust": 3, "Happiness": 4, "Sadness": 5, "Anger": 6, "Neutral": 7}
FER = {"Anger": 0, "Disgust": 1, "Fear": 2, "Happiness": 3, "Sadness": 4, "Surprise": 5, "Neutral": 6}
UNITS = ["AU1", "AU2", "AU4", "AU12", "AU25"]
HEADER68 = [f"{axis}_{k}" for axis in "xy" for k in range(68)]
COUNT = 12


def pixels(n, size=SIZE):
    """A picture of its own."""
    return np.random.default_rng(n).integers(0, 255, (size, size, 3), dtype=np.uint8)


def picture(path, n, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(n, size)).save(
        path, **({"format": "JPEG"} if path.suffix[1:].lower() in ("jfif", "jpe") else {})
    )
    return path


def text(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))


def table(path, header, rows, sep=",", encoding="utf-8", end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=sep, lineterminator=end).writerows([*([header] if header else []), *rows])


def pictures(at, pattern="pics/{:03d}.png", count=COUNT):
    names = [pattern.format(k) for k in range(count)]
    for k, name in enumerate(names):
        picture(at / name, k)
    return names


def label(k):
    return NAMES[k % len(NAMES)]


def faces(count=COUNT, split="train", first=0):
    return {split: dict(Counter(label(k) for k in range(first, first + count)))}


def two_splits(at, pattern="{split}/{word}/{k}.png", words=WORDS):
    """12 training and 6 test faces; the truth of their labels."""
    for split, numbers in (("train", range(12)), ("test", range(12, 18))):
        for k in numbers:
            picture(at / pattern.format(split=split, word=words[label(k)], k=k), k)
    return faces() | faces(6, "test", 12)


def command(reader, root, *words):
    return ["prepare", reader, "--root", str(root), *map(str, words)]


# --- action units ---------------------------------------------------------------------------------------------------


def intensities(seed=0, count=COUNT):
    values = np.random.default_rng(seed).integers(0, 6, (count, len(UNITS)))
    values[:5] = np.arange(5)[:, None] + 1  # every strength occurs, also 1
    return values


def unit_table(at, cells, names=UNITS, sep=",", end="\n", **truth):
    rows = [[name, *row] for name, row in zip(pictures(at), cells, strict=True)]
    table(at / "labels.csv", ["image", *names], rows, sep, end=end)
    return command("table", at), {"faces": {"train": {"none": COUNT}}, **truth}


def units(values, active):
    values = np.asarray(values, dtype=float)
    return {"names": UNITS, "known": int(np.isfinite(values).sum()), "active": int((values >= active).sum())}


def occurrence(at):
    values = (intensities() >= 2).astype(int)
    return unit_table(at, values, units=units(values, 1), told=["occurrence"])


def probability(at):
    values = np.where(intensities() >= 2, 0.83, 0.04)
    return unit_table(at, values, units=units(values, 0.5), told=["probability"])


def percent(at):
    values = np.where(intensities() >= 2, 83, 9)  # 9 is a percentage here, and no code
    return unit_table(at, values, units=units(values, 50), told=["percent"])


def letters(at):
    values = intensities()
    return unit_table(at, [["0ABCDE"[n] for n in row] for row in values], units=units(values, 2))


def intensities_between(at):
    values = intensities() * 0.9
    names = [f"AU{int(n[2:]):02d}_{kind}" for kind in "rc" for n in UNITS]
    cells = np.concatenate([values, values >= 1], axis=1)
    return unit_table(at, cells, names, units=units(values, 2), told=["AU01_c"])


def decimal_commas(at):
    values = intensities() * 0.9
    cells = [[f"{n:.2f}".replace(".", ",") for n in row] for row in values]
    return unit_table(at, cells, ["au 1", "AU_02", "au4", "AU12", "Au25"], ";", units=units(values, 2))


def codes(at):
    values = (intensities() >= 2).astype(float)
    cells = [[f"{n:.0f}" for n in row] for row in values]
    for k, word in enumerate(["9", "999", "-1", "NaN", ""]):
        cells[k + 1][k], values[k + 1, k] = word, np.nan
    return unit_table(at, cells, units=units(values, 1), skipped=0)


def both_kinds(at):
    values = intensities().astype(float)
    values[:, 0] = [1, 0] * (COUNT // 2)
    values[:10, 0] = 1  # ten times 1 and nothing higher: there or not, among strengths
    truth = units(values, 2)
    truth["active"] += int(values[:, 0].sum())
    return unit_table(at, values.astype(int), units=truth, told=["AU1 as occurrence"])


# --- tables ---------------------------------------------------------------------------------------------------------


def utf16(at):
    table(
        at / "l.csv",
        ["image", "expression"],
        [[p, WORDS[label(k)]] for k, p in enumerate(pictures(at))],
        encoding="utf-16",
    )
    return command("table", at), {"faces": faces()}


def latin1(at):
    who = ["Müller", "Möller", "Häfner"]
    rows = [[p, WORDS[label(k)], who[k % 3]] for k, p in enumerate(pictures(at))]
    table(at / "l.csv", ["Picture", "Emotion", "Person"], rows, ";", "latin-1", "\r\n")
    return command("table", at), {"faces": faces(), "subject_names": set(who), "told": ["Windows-1252"]}


def usage_words(at):
    usage = ["Training", "PublicTest", "PrivateTest"]
    rows = [[p, WORDS[label(k)], usage[k % 3]] for k, p in enumerate(pictures(at))]
    table(at / "l.csv", ["path", "label", "Usage"], rows)
    found = {s: dict(Counter(label(k) for k in range(i, COUNT, 3))) for i, s in enumerate(["train", "valid", "test"])}
    return command("table", at), {"faces": found}


def public_test_only(at):
    rows = [[p, WORDS[label(k)], ["Training", "PublicTest"][k % 2]] for k, p in enumerate(pictures(at))]
    table(at / "l.csv", ["path", "label", "Usage"], rows)
    found = {s: dict(Counter(label(k) for k in range(i, COUNT, 2))) for i, s in enumerate(["train", "test"])}
    return command("table", at), {"faces": found}


def list_with_blanks(at):
    names = pictures(at, "my pics/{:03d}.png")
    text(at / "list.txt", "".join(f"{p}   {FER[label(k)]}\n" for k, p in enumerate(names)))
    return command("table", at, "--labels", "fer2013"), {"faces": faces()}


def list_with_tabs_and_words(at):
    text(at / "list.lst", "".join(f"{WORDS[label(k)]}\t{p}\n" for k, p in enumerate(pictures(at))))
    return command("table", at / "list.lst"), {"faces": faces()}


def one_list_a_split(at):
    for split, numbers in (("train", range(12)), ("test", range(12, 18))):
        for k in numbers:
            picture(at / f"all/{k}.png", k)
        table(at / f"{split}_labels.csv", ["image", "label"], [[f"{k}.png", RAF[label(k)]] for k in numbers])
    return command("table", at, "--labels", "rafdb"), {"faces": faces() | faces(6, "test", 12), "told": ["all"]}


def elsewhere(at):
    for split, numbers in (("train", range(12)), ("test", range(12, 18))):
        for n, k in enumerate(numbers):
            picture(at / f"faces/{split}/{n}.png", k)
    rows = [
        [f"D:\\Users\\a\\faces\\{s}\\{n}.png", WORDS[label(k)], s]
        for s, numbers in (("train", range(12)), ("test", range(12, 18)))
        for n, k in enumerate(numbers)
    ]
    table(at / "l.csv", ["image", "expression", "split"], rows)
    return command("table", at, "--pictures", at), {"faces": faces() | faces(6, "test", 12)}


def other_suffix(at):
    names = [p.removesuffix(".png") + (".jpg", ".PNG", "", ".png ")[k % 4] for k, p in enumerate(pictures(at))]
    table(at / "l.csv", ["image", "expression"], [[p, WORDS[label(k)]] for k, p in enumerate(names)])
    return command("table", at), {"faces": faces(), "skipped": 0}


def boxes_with_sizes(at):
    rows = []
    for k in range(COUNT):
        photo = np.zeros((60, 90, 3), np.uint8)
        photo[10:42, 20 + k : 52 + k] = 200
        picture(at / f"{k}.png", k)
        cv2.imwrite(str(at / f"{k}.png"), photo)
        rows.append([f"{k}.png", WORDS[label(k)], 20 + k, 10, 32, 32])
    table(at / "b.csv", ["image", "expression", "x", "y", "w", "h"], rows)
    return command("table", at), {"faces": faces(), "bright": 180}


def soft_labels(at):
    columns = [*WORDS.values(), "disgust"]
    cells = [[0.7 if WORDS[label(k)] == word else 0.05 for word in columns] for k in range(COUNT)]
    table(at / "soft.csv", ["image", *columns], [[p, *c] for p, c in zip(pictures(at), cells, strict=True)])
    return command("table", at), {"faces": faces(), "votes": COUNT}


def annotators(at):
    rows = [[p, *(WORDS[label(k + (rater == k % 3))] for rater in range(3))] for k, p in enumerate(pictures(at))]
    table(at / "raters.csv", ["image", "rater_1", "rater_2", "rater_3"], rows)
    return command("table", at), {"faces": faces(), "votes": COUNT}


def json_lines(at):
    for split, numbers in (("train", range(12)), ("test", range(12, 18))):
        for k in numbers:
            picture(at / split / f"{k}.png", k)
        lines = [json.dumps({"file_name": f"{k}.png", "label": WORDS[label(k)]}) for k in numbers]
        text(at / split / "metadata.jsonl", "\n".join(lines))
    return command("table", at), {"faces": faces() | faces(6, "test", 12)}


def parquet_shards(at, kind="struct"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(WORDS.values())
    (at / "data").mkdir(parents=True)
    for name, numbers in (("train-0-of-2", range(6)), ("train-1-of-2", range(6, 12)), ("test-0-of-1", range(12, 18))):
        encoded = [cv2.imencode(".png", pixels(k))[1].tobytes() for k in numbers]
        image = {
            "struct": [{"bytes": data, "path": None} for data in encoded],
            "bytes": encoded,
            "list": [pixels(k)[:, :, 0].tolist() for k in numbers],
        }[kind]
        content = pa.table(
            {"image": image, "label": pa.array([names.index(WORDS[label(k)]) for k in numbers], pa.int64())}
        )
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(content, at / f"data/{name}.parquet")
    return command("table", at), {"faces": faces() | faces(6, "test", 12)}


# --- folders --------------------------------------------------------------------------------------------------------


def numbers_as_folders(at):
    truth = two_splits(at, words=FER)
    picture(at / "train/9/x.png", 99)
    pairs = ",".join(f"{n}={name}" for name, n in FER.items())
    return command("folder", at, "--labels", f"{pairs},9=skip"), {"faces": truth, "told": ["left out by --labels"]}


def german(at):
    words = dict(zip(NAMES, ["neutral", "Freude", "Überraschung", "Angst", "Wut", "Trauer"], strict=True))
    pairs = ",".join(f"{word}={name}" for name, word in words.items())
    return command("folder", at, "--labels", pairs), {"faces": two_splits(at, words=words)}


def class_then_split(at):
    return command("folder", at), {"faces": two_splits(at, "{word}/{split}/{k}.png")}


def junk(at):
    truth = two_splits(at)
    for path in [*at.rglob("*.png")]:
        text(path.with_name(f"._{path.name}"), "\0")
        text(at / "__MACOSX" / path.relative_to(at), "\0")
        text(path.with_name("Thumbs.db"), "\0")
    return command("folder", at), {"faces": truth, "skipped": 0}


def left_behind(at):
    truth = two_splits(at)
    picture(at / "more/happy/1.png", 50)
    picture(at / "train/loose.png", 51)
    (at / "train/happy/gone.png").symlink_to(at / "nowhere.png")
    (at / "test/happy/linked").symlink_to(at / "more/happy")
    truth["test"]["Happiness"] += 1
    return command("folder", at), {"faces": truth, "told": ["more/", "train/loose.png"], "skipped": 3}


def odd_suffixes(at):
    for k in range(COUNT):
        picture(at / WORDS[label(k)] / f"{k}.{('jfif', 'JPEG', 'jpe')[k % 3]}", k)
    return command("folder", at), {"faces": faces()}


def jaffe(at):
    codes = dict(zip(NAMES, ["NE", "HA", "SU", "FE", "AN", "SA"], strict=True))
    for k in range(COUNT):
        picture(at / f"jaffe/{('KA', 'KL', 'KM')[k % 3]}.{codes[label(k)]}1.{k}.png", k)
    return command("folder", at, "--expression-pattern", "jaffe"), {"faces": faces(), "subjects": 3}


def own_pattern(at):
    for k in range(COUNT):
        picture(at / f"s{k % 4}/{k}-{WORDS[label(k)]}.png", k)
    words = ["--expression-pattern", r"\d-(\w+)\.", "--subject-pattern", r"(s\d+)/"]
    return command("folder", at, *words), {"faces": faces(), "subjects": 4}


def pattern_for_a_table(at):
    names = pictures(at, "p{0}/x{0}.png")
    table(at / "l.csv", ["image", "expression"], [[p, WORDS[label(k)]] for k, p in enumerate(names)])
    return command("table", at, "--subject-pattern", r"^(p\d+)/"), {"faces": faces(), "subjects": COUNT}


def ckplus(at):
    codes = dict(
        zip(["Anger", "Contempt", "Disgust", "Fear", "Happiness", "Sadness", "Surprise"], range(1, 8), strict=True)
    )
    found = Counter()
    for k in range(COUNT):
        name = f"S{k % 3 + 5:03d}_{k:03d}"
        for frame in (1, 2):
            picture(at / f"cohn-kanade-images/{name[:4]}/{name[5:]}/{name}_{frame:08d}.png", 2 * k + frame)
        if label(k) in codes:
            text(at / f"Emotion/{name[:4]}/{name[5:]}/{name}_00000002_emotion.txt", f"   {codes[label(k)]:.7e}\n")
            found[label(k)] += 1
    return command("folder", at, "--expression-pattern", "ckplus"), {"faces": {"train": dict(found)}, "subjects": 3}


def yolo(at, ultralytics=False):
    names = list(WORDS.values())
    text(at / "data.yaml", f"names: {names}\n")
    pattern = "{kind}/{split}/{k}.{end}" if ultralytics else "{split}/{kind}/{k}.{end}"
    for split, numbers in (("train", range(0, 12, 2)), ("valid", range(12, 18, 2))):
        for k in numbers:
            photo = np.zeros((60, 90, 3), np.uint8)
            photo[10:42, 4:36] = photo[10:42, 50:82] = 200
            path = picture(at / pattern.format(kind="images", split=split, k=k, end="png"), k)
            cv2.imwrite(str(path), photo)
            lines = [
                f"{names.index(WORDS[label(k + n)])} {x / 90} {26 / 60} {32 / 90} {32 / 60}"
                for n, x in ((0, 20), (1, 66))
            ]
            text(at / pattern.format(kind="labels", split=split, k=k, end="txt"), "\n".join(lines))
    return command("folder", at), {"faces": faces() | faces(6, "valid", 12), "bright": 180}


# --- landmarks ------------------------------------------------------------------------------------------------------


def laid(at, write, *words, valid=18, **truth):
    """Class folders, and landmarks that `write(face, name, points)` writes."""
    found = two_splits(at / "faces")
    for k, path in enumerate(sorted((at / "faces").rglob("*.png"))):
        write(k, path.relative_to(at / "faces").as_posix(), tiny.points(SIZE) + np.float32(0.1 * k))
    root = command("folder", at / "faces", "--faces", "given", "--landmarks", *words)
    return root, {"faces": found, "landmarks": valid, **truth}


def flat(points):
    return [f"{v:.2f}" for v in np.asarray(points).T.ravel()]


def openface_one_table(at):
    rows = []

    def write(k, name, points):
        rows.append([name, 0, *((0, 0) if k % 5 == 0 else (0.9, 1)), *flat(points * (k % 5 > 0))])
        if k % 5 and k % 3 == 1:  # a small false face behind the real one
            rows.append([name, 1, 0.3, 1, *flat(points * 0.2)])

    found = laid(at, write, at / "of.csv", valid=14, told=["several faces"])
    table(at / "of.csv", ["file", " face", " confidence", " success", *(f" {n}" for n in HEADER68)], rows)
    return found


def openface_one_file_a_picture(at):
    def write(k, name, points):
        if k != 4:
            table(
                at / f"of/{name.split('/')[-1][:-4]}.csv", ["face", "confidence", *HEADER68], [[0, 0.9, *flat(points)]]
            )

    return laid(at, write, at / "of", valid=17)


def odd_cell(at):
    rows = []
    found = laid(
        at, lambda k, name, points: rows.append([name, *flat(points)]), at / "l.csv", valid=17, told=["-nan(ind)"]
    )
    rows[3][7] = "-nan(ind)"
    table(at / "l.csv", ["id", *HEADER68], rows, "\t")
    return found


def dlib_xml(at):
    lines = []

    def write(k, name, points):
        dots = "".join(f"<part name='{n:02d}' x='{x:.0f}' y='{y:.0f}'/>" for n, (x, y) in enumerate(points))
        small = "".join(f"<part name='{n:02d}' x='{x / 9:.0f}' y='{y / 9:.0f}'/>" for n, (x, y) in enumerate(points))
        lines.append(f"<image file='{name}'><box top='1' left='1'>{dots}</box><box top='1'>{small}</box></image>")

    found = laid(at, write, at / "l.xml", told=["18 pictures have several faces"])
    text(at / "l.xml", f"<?xml version='1.0'?><dataset><images>{''.join(lines)}</images></dataset>")
    return found


def mesh(at):
    def write(k, name, points):
        shares = np.full((478, 3), 0.5, np.float32)
        shares[list(MESH_TO_68), :2] = (points + 0.5) / SIZE
        (at / "mesh").mkdir(exist_ok=True)
        np.save(at / f"mesh/{name.split('/')[-1][:-4]}.npy", shares)

    return laid(at, write, at / "mesh", told=["shares of the picture"])


# --- published sets -------------------------------------------------------------------------------------------------


def rafdb_kaggle(at):
    truth = two_splits(at / "DATASET", words=RAF)
    table(at / "train_labels.csv", ["image", "label"], [["1.jpg", 3]])
    return command("rafdb", at), {"faces": truth}


def rafdb_list(at):
    lines = []
    for split, numbers in (("train", range(12)), ("test", range(12, 18))):
        for k in numbers:
            name = f"{split}_{k:05d}_aligned.jpg"
            picture(at / f"raf-basic/Image/aligned/{name}", k)
            lines.append(f"{name} {RAF[label(k)]}\r\n")
    text(at / "raf-basic/EmoLabel/list_patition_label.txt", "".join(lines), "utf-8-sig")
    return command("rafdb", at), {"faces": faces() | faces(6, "test", 12)}


def fer_list(at):
    usage = ["Training", "PublicTest", "PrivateTest"]
    rows = [[FER[label(k)], f"{k}.png", usage[k % 3]] for k in range(COUNT)]
    pictures(at, "IMAGES/{}.png")
    table(at / "labels_FER2013.csv", ["emotion", "path", "in_set"], rows, ";")
    found = {s: dict(Counter(label(k) for k in range(i, COUNT, 3))) for i, s in enumerate(["train", "valid", "test"])}
    return command("fer2013", at), {"faces": found}


def ferplus(at):
    order = ["Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt"]
    for split, numbers in (("Train", range(12)), ("Test", range(12, 18))):
        rows = []
        for k in numbers:
            picture(at / f"FER2013{split}/fer{k:07d}.png", k)
            votes = [0] * 8 + [1, 9] if k == 3 else [7 * (label(k) == name) for name in order] + [2, 1]
            rows.append([f"fer{k:07d}.png", "(0, 0, 48, 48)", *votes])
        table(at / f"FER2013{split}/label.csv", None, rows)
    truth = faces() | faces(6, "test", 12)
    truth["train"][label(3)] -= 1
    return command("fer2013", at), {"faces": truth, "votes": 17, "skipped": 1}


def fer_numbers(at):
    return command("fer2013", at), {"faces": two_splits(at, words=FER)}


def bp4d_plus(at):
    for subject in ("F001", "F099"):
        rows = [[k, *(k % 2 for _ in range(4)), 9] for k in range(6)]
        table(at / f"AUCoding/AU_OCC/{subject}_T1.csv", [0, 1, 2, 4, 12, 25], rows)
        for k in range(6):
            picture(at / f"2D+3D/{subject}/T1/{k:04d}.jpg", k)
    truth = {"names": ["AU1", "AU2", "AU4", "AU12"], "known": 48, "active": 24}
    return command("bp4d", at, "--fold", "none"), {"faces": {"train": {"none": 12}}, "subjects": 2, "units": truth}


def disfa_plus(at):
    for subject in ("SN001", "SN099"):
        for unit in ("AU1", "AU12"):
            text(at / f"Labels/{subject}/A1_Trail1/{unit}.txt", "".join(f"{k:03d}.jpg   {k}\n" for k in range(6)))
        for k in range(6):
            picture(at / f"Images/{subject}/A1_Trail1/{k:03d}.jpg", k)
    truth = {"names": ["AU1", "AU12"], "known": 24, "active": 16}
    return command("disfa", at), {"faces": {"train": {"none": 12}}, "subjects": 2, "units": truth}


def disfa_numbers(at, first=0, missing=0):
    """Frame k has intensity k; of one subject the first picture is lacking."""
    for s, subject in enumerate(("SN003", "SN004", "SN005")):
        text(at / f"ActionUnit_Labels/{subject}/{subject}_au12.txt", "".join(f"{k + 1},{k}\n" for k in range(6)))
        for k in range(6):
            if (s, k) != (1, missing):
                picture(at / f"images/{subject}/{k + first}.png", k)
    truth = {"names": ["AU12"], "known": 17, "active": 12 - (missing >= 2)}
    return command("disfa", at), {"faces": {"train": {"none": 17}}, "units": truth, "skipped": 1}


def mxnet_list(at):
    """Number, label as a float, path; numbers never repeat."""
    text(at / "train.lst", "".join(f"{k}\t{FER[label(k)]:.6f}\t{p}\n" for k, p in enumerate(pictures(at))))
    return command("table", at, "--labels", "fer2013"), {"faces": faces()}


def names_without_folders(at):
    names = pictures(at, "deep/down/{:03d}_aligned.png")
    rows = [[p.split("/")[-1].removesuffix(".png"), WORDS[label(k)]] for k, p in enumerate(names)]
    table(at / "l.csv", ["image", "label"], rows)
    return command("table", at), {"faces": faces(), "told": ["by their names"]}


def affectnet_folders(at):
    codes = dict(
        zip(["Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger"], range(7), strict=True)
    )
    for split, numbers in (("train", range(12)), ("val", range(12, 18))):
        for k in numbers:
            picture(at / f"{split}/{codes[label(k)]}/{k}.png", k)
    picture(at / "train/8/x.png", 99)
    return command("affectnet", at), {"faces": faces() | faces(6, "test", 12), "skipped": 1}


def graph_lists(at):
    for split, subject in (("train", "SN003"), ("test", "SN001")):
        names = pictures(at / "img", f"{subject}/{{}}.png", 6)
        text(at / f"list/DISFA_{split}_img_path_fold1.txt", "\n".join(names) + "\n")
        text(at / f"list/DISFA_{split}_label_fold1.txt", "".join(f"{k % 2} 0 9 0 1 0 0 0\n" for k in range(6)))
    units = ["AU1", "AU2", "AU6", "AU9", "AU12", "AU25", "AU26"]
    truth = {"names": units, "known": 84, "active": 18}
    return command("disfa", at), {"faces": {"train": {"none": 6}, "test": {"none": 6}}, "subjects": 2, "units": truth}


def disfa_unknown_codes(at):
    words, truth = disfa_numbers(at)
    path = at / "ActionUnit_Labels/SN003/SN003_au12.txt"
    path.write_text(path.read_text().replace("6,5", "6,9"))
    truth["units"] |= {"known": 16, "active": 11}
    return words, truth


FORMS = [
    mxnet_list, names_without_folders, affectnet_folders, graph_lists, disfa_unknown_codes,
    occurrence, probability, percent, letters, intensities_between, decimal_commas, codes, both_kinds, utf16, latin1, usage_words,
    public_test_only, list_with_blanks, list_with_tabs_and_words, one_list_a_split, elsewhere, other_suffix, boxes_with_sizes,
    soft_labels, annotators, json_lines, parquet_shards, numbers_as_folders, german, class_then_split, junk, left_behind,
    odd_suffixes, jaffe, own_pattern, pattern_for_a_table, ckplus, yolo, openface_one_table, openface_one_file_a_picture, odd_cell,
    dlib_xml, mesh, rafdb_kaggle, rafdb_list, fer_list, ferplus, fer_numbers, bp4d_plus, disfa_plus, disfa_numbers,
]  # fmt: skip
