"""Runs in the form of the Hub: written, fetched from an endpoint on loopback, pinned, checked, read without network."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tiny

import mien
from mien.cli import main
from mien.errors import DataError, UsageError
from mien.export.publish import publish
from mien.predict.bundled import bundled_run
from mien.training.hub import fetched
from mien.training.loop import fit

COMMIT = "a" * 40


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("publish")
    out = place / "secret-folder" / "run"
    fit(tiny.recipe(tiny.store(place / "secret-folder" / "store").path, optim={"epochs": 1}), out)
    return out


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one repository needs; `files` is what it holds, `asked` what it was asked for."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        Hub.asked.append(self.path)
        path = self.path.split("?")[0]
        if path.startswith("/api/models/me/net/tree/"):
            rows = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in Hub.files.items()
            ]
            return self.send(json.dumps(rows).encode(), Content_Type="application/json")
        if path.startswith("/api/models/me/net"):
            about = {
                "id": "me/net",
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in Hub.files],
                "private": False,
            }
            return self.send(json.dumps(about).encode(), Content_Type="application/json")
        name = path.rsplit("/", 1)[-1]
        if path.startswith("/me/net/resolve/") and name in Hub.files:
            content = Hub.files[name]
            return self.send(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)
        return self.send(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        Hub.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.send(json.dumps({"files": files}).encode(), Content_Type="application/json")
        if "/commit/main" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    Hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.send(
                json.dumps(
                    {"commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/me/net/commit/{COMMIT}"}
                ).encode()
            )
        return self.send(json.dumps({"url": f"http://{self.headers['Host']}/me/net", "name": "me/net"}).encode())


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False
    )
    Hub.files, Hub.asked = {}, []
    yield Hub
    server.shutdown()
    server.server_close()


def answer(where: str | Path) -> np.ndarray:
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    return np.array(list(mien.load(where, faces="none").predict(picture).faces[0].probabilities.values()))


def test_a_folder_holds_all_that_a_prediction_needs_and_no_path(run, tmp_path, capsys):
    assert main(["publish", str(run), "--to", str(tmp_path / "out"), "--licence", "cc-by-nc-4.0"]) == 0
    out = tmp_path / "out"
    assert {"model.safetensors", "config.yaml", "environment.json", "README.md", "SHA256SUMS"} <= {
        p.name for p in out.iterdir()
    }
    assert not any(b"secret-folder" in path.read_bytes() for path in out.iterdir())
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\nlibrary_name: mien\n")
    assert "prohibited in the EU" in card
    np.testing.assert_array_equal(answer(out), answer(run))
    bundled = publish(bundled_run(), to=str(tmp_path / "bundled"))  # calibration and fusion still belong to the weights
    np.testing.assert_array_equal(answer(bundled), answer(bundled_run()))
    with pytest.raises(UsageError, match="not empty"):
        publish(run, to=str(out))


def test_to_the_hub_and_back(run, hub, capsys, monkeypatch):
    address = publish(run, to="hf://me/net")
    assert address == f"hf://me/net@{COMMIT}"
    assert "model.safetensors" in hub.files
    np.testing.assert_array_equal(answer(address), answer(run))
    assert "pins it" not in capsys.readouterr().err
    np.testing.assert_array_equal(answer(Path("hf://me/net")), answer(run))  # a Path has lost a slash
    assert f"hf://me/net@{COMMIT} pins it" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody there
    np.testing.assert_array_equal(answer(address), answer(run))


def test_what_is_not_what_was_published_is_refused(run, hub):
    publish(run, to="hf://me/net")
    hub.files["config.yaml"] += b"\n"
    with pytest.raises(DataError, match=r"config\.yaml is not what was published"):
        fetched("hf://me/net")
    del hub.files["SHA256SUMS"]
    hub.files["config.yaml"] = b""


def test_other_repositories_and_addresses_are_one_line(run, hub):
    with pytest.raises(DataError, match="cannot be fetched"):
        fetched("hf://you/other")
    hub.files["weights.bin"] = b"x"
    with pytest.raises(DataError, match="not a run that mien publish wrote"):
        fetched("hf://me/net")
    for wrong in ("hf://me", "hf://me/net/more", "hf:me/net"):
        with pytest.raises(UsageError, match="no address of a run"):
            fetched(wrong)
    with pytest.raises(UsageError, match="without a revision"):
        publish(run, to="hf://me/net@main")


def test_a_published_run_explains(run, tmp_path):
    from PIL import Image

    publish(run, to=str(tmp_path / "out"))
    Image.fromarray(np.full((60, 60, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    words = ["explain", str(tmp_path / "photo.png"), "--run", str(tmp_path / "out"), "--faces", "none"]
    assert main([*words, "--out", str(tmp_path / "explained")]) == 0
