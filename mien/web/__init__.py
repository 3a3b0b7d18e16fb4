"""`mien serve`: a page on this computer that names the expression of photos and of synthetic faces, and shows why."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mien.errors import UsageError
from mien.web.guard import is_loopback


def serve(
    *,
    run: Path | None = None,
    action_units: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    faces: str = "auto",
    landmark_model: Path | None = None,
    device: str = "auto",
    calibration: str | None = None,
    classes: str | None = None,
    max_mb: float = 10.0,
    rate: int = 600,
    origin: str = "",
) -> None:
    """Open the page and answer until Ctrl-C. It keeps no file and asks no other computer for anything.

    Without a model that finds faces, photos are refused, and the page says how to get one; synthetic faces work.

    Args:
        run: run folder of mien train; by default the bundled model. Also an ONNX file, or FILE.py:FUNCTION whose call returns a
            wrapped model (docs/compare.md).
        action_units: run folder of mien audet train; adds what it reads off the face.
        host: address to listen at; only this computer can reach the default.
        port: port to listen at.
        faces: mediapipe, dlib, none (whole pictures are faces), or auto: mediapipe, and no photos where it is not installed.
        landmark_model: model file of the face provider; found by itself where the provider is installed.
        device: auto, cpu, cuda or cuda:1.
        calibration: file of mien calibrate, or the name of one in the run folder; by default the run's calibration.json.
        classes: names of the classes of an ONNX file that does not bring them, separated by commas, in the order of the answers.
        max_mb: largest photo in megabytes.
        rate: requests a minute that one address may send.
        origin: https://NAME under which a proxy offers the page; other names than its own address are refused.

    """
    if not 0 < max_mb <= 1000 or not 10 <= rate <= 1_000_000:
        raise UsageError(f"--max-mb {max_mb} must lie above 0 and be at most 1000, --rate {rate} be 10 to 1000000.")
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is no port; give 0 (any free one) to 65535.")
    if origin and not re.fullmatch(r"https?://[^/\s]+", origin):
        raise UsageError(f"--origin {origin} must read https://NAME, as a browser shows it, without a path.")
    from mien.web.page import open_model, run_page

    run_page(
        open_model(run, action_units, faces, landmark_model, device, calibration, classes),
        host, port, max_bytes=int(max_mb * 1e6), rate=rate, origin=origin, warn=lambda: warn_of(host),
    )  # fmt: skip


def warn_of(host: str) -> None:
    """One line on standard error where others can reach the page."""
    if not is_loopback(host):
        print(
            f"mien: WARNING: --host {host} lets every computer that reaches this one use the page, without a password and "
            "unencrypted; photos of people pass through it.",
            file=sys.stderr,
        )
