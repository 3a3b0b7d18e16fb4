"""Every script in examples/ is short, says what it does, and runs."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))

torch.set_num_threads(1)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_short_and_described(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 65
    assert (ast.get_docstring(ast.parse(text)) or "").splitlines()[0].endswith((".", ":", "else."))
    assert path.name in (FOLDER.parent / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"def test_{path.stem}(" in Path(__file__).read_text(encoding="utf-8")


def test_train_on_synthetic(tmp_path):
    results = load("train_on_synthetic").main(tmp_path, faces=42, size=32, epochs=1)
    assert results["faces"] >= 7
    assert 0 < results["alignment"]["layer-5"]["cosine"]["class_mean"] <= 1


def test_render_cues(tmp_path):
    picture = load("render_cues").main(tmp_path / "cues.png", size=48)
    assert picture.stat().st_size > 1000


def test_explain_a_batch():
    shown = load("explain_a_batch").main(size=48, count=2)
    assert {tuple(maps.shape) for maps in shown.values()} == {(2, 1, 48, 48)}
    assert all(maps.min() >= 0 and maps.max() <= 1 for maps in shown.values())


def test_compare_explainers():
    from mien.explain import EXPLAINERS, TOKEN_MAPS

    means = load("compare_explainers").main(size=48, count=7)
    assert set(means) == {*EXPLAINERS, "baseline: uniform"} - set(TOKEN_MAPS)
    assert means["baseline: uniform"]["pearson"] == pytest.approx(0, abs=1e-6)


def test_guide_own_loop(tmp_path):
    found = load("guide_own_loop").main(tmp_path, faces=56, size=32, epochs=3)
    assert found["guided"] > found["unguided"]


def test_own_faces_table(tmp_path):
    store = load("own_faces_table").main(tmp_path, count=7, size=48)
    assert len(store) == 7
    assert set(store.subject) == {"synthetic-000000"} or len(set(store.subject)) == 2
    assert {row["crop"] for row in store.attributes} == {"aligned"}


def test_onnx_face(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import tiny
    from PIL import Image

    from mien.export import export
    from mien.synthetic.sample import faces
    from mien.training.loop import fit

    run, face = tmp_path / "run", tmp_path / "face.png"
    fit(tiny.recipe(tiny.store(tmp_path / "store").path, optim={"epochs": 1}), run)
    Image.fromarray(next(faces(7, size=64, subjects=1)).image).save(face)
    model = export(run)
    script = [sys.executable, str(FOLDER / "onnx_face.py"), str(model), str(face), str(tmp_path / "heat.png")]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=240)
    assert "Happiness" in done.stdout
    with Image.open(tmp_path / "heat.png") as heat:
        assert heat.size == (tiny.SIZE, tiny.SIZE)
    assert sum(load("onnx_face").main(str(model), str(face)).values()) == pytest.approx(1, abs=1e-5)


def test_onnx_face_from_a_photo_says_what_mien_says(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import numpy as np
    import tiny
    from PIL import Image

    import mien
    from mien.export import export
    from mien.faces.detect import points_box
    from mien.faces.landmarks import five_points
    from mien.faces.provider import Face
    from mien.synthetic.sample import faces
    from mien.training.loop import fit

    run, photo = tmp_path / "run", tmp_path / "photo.png"
    fit(tiny.recipe(tiny.store(tmp_path / "store").path, optim={"epochs": 1}), run)
    record = next(faces(7, size=96, subjects=1))
    image = np.full((200, 300, 3), 90, np.uint8)
    image[50:146, 120:216] = record.image
    points = (record.landmarks + np.float32([120, 50])).astype(np.float32)
    Image.fromarray(image).save(photo)
    model = mien.load(run, faces=lambda picture: [Face(points_box(points), points, 1.0, "test")], views=1)
    wanted = model.predict(photo).faces[0].probabilities
    found = load("onnx_face").main(str(export(run)), str(photo), five_points(points).tolist())
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), atol=1e-5)


def test_onnx_fusion(tmp_path, monkeypatch):
    """Two graphs joined by the example say what `mien predict` says of a face with blendshapes, and of a small one without."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import numpy as np
    import tiny
    from PIL import Image

    import mien
    from mien.export import export
    from mien.faces.blendshapes import BLENDSHAPES
    from mien.faces.detect import points_box
    from mien.faces.provider import Face
    from mien.predict.fusion import Fusion, write_fusion
    from mien.training.loop import fit

    run, photo = tmp_path / "run", tmp_path / "photo.png"
    fit(tiny.recipe(tiny.store(tmp_path / "store").path, optim={"epochs": 1}), run)
    write_fusion(run, Fusion(*(torch.randn(shape) for shape in ((5, 52), (5,), (7, 5), (7,)))), tiny.NAMES)
    image = np.random.default_rng(1).integers(0, 255, (220, 300, 3), dtype=np.uint8)
    Image.fromarray(image).save(photo)
    graph, units = export(run, out=tmp_path / "face.onnx"), export(run, units=True, out=tmp_path / "units.onnx")
    shapes = (np.random.default_rng(0).random(52) ** 4).astype(np.float32)
    shapes[BLENDSHAPES.index("mouthSmileLeft")] = shapes[BLENDSHAPES.index("mouthSmileRight")] = 0.9
    monkeypatch.syspath_prepend(str(FOLDER))
    for size in (150, 90):
        points = tiny.points(size) + np.float32([60, 40])
        face = Face(points_box(points), points, 1.0, "test", blendshapes=shapes)
        answer = mien.load(run, faces=lambda picture, face=face: [face]).predict(photo).faces[0]
        given = {
            "points": points.tolist(), "width": float(face.box[2] - face.box[0]),
            "blendshapes": dict(zip(BLENDSHAPES, shapes.tolist(), strict=True)),
        }  # fmt: skip
        shares, present = load("onnx_fusion").main(str(graph), str(units), str(photo), given)
        np.testing.assert_allclose(list(shares.values()), list(answer.probabilities.values()), atol=2e-5)
        assert {"AU12_L", "AU12_R"} <= set(present)
