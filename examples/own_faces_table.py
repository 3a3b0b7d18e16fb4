"""Bring your own faces: a CSV with one face a row, read by the `table` reader into a prepared store."""

import csv
from pathlib import Path

from mien import draw
from mien.data.store import Store
from mien.datasets.check import check
from mien.datasets.prepare import prepare
from mien.synthetic.sample import faces


def write_table(folder: Path, count: int, size: int) -> Path:
    """Stands for your own table: path, person, emotion, AU12 and 68 points a row."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "faces.csv", "w", newline="") as file:
        rows = csv.writer(file)
        points = [f"{axis}_{k}" for axis in "xy" for k in range(68)]
        rows.writerow(["path", "person", "emotion", "AU12_r", "light", *points])
        for i, face in enumerate(faces(count, size=size, subjects=2)):
            draw.write_png(folder / f"{i}.png", face.image)
            units, light = face.action_units, face.attributes["light"]
            row = [f"{i}.png", face.subject, face.expression, units[8], light, *face.landmarks.T.ravel()]
            rows.writerow(row)
    return folder / "faces.csv"


def main(out: Path = Path("runs/own"), count: int = 14, size: int = 64) -> Store:
    table = write_table(out / "pictures", count, size)
    store = prepare(
        "table",
        root=table,
        out=out / "store",
        size=48,
        faces="given",
        align=True,
        columns="image=path,subject=person,expression=emotion,AU12=AU12_r,attr.light=light,landmarks_x=x_{},landmarks_y=y_{}",
        workers=1,
    )
    check(store.path)
    return store


if __name__ == "__main__":
    main()
