"""Where a picture draws the eye, without landmarks: spectral residual (no weights), or MSI-Net with published weights."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.cues.config import CueConfig
from mien.cues.msi_net import MsiNet, saliency_map
from mien.cues.msi_net_weights import read_msi_net
from mien.errors import UsageError
from mien.maps import min_max, numbers, resize

SIDE = 64
"""Scale at which the spectrum is taken (Hou and Zhang 2007)."""
BLUR = 2.5
"""Standard deviation of the last blur, pixels at that scale."""
FLAT = 1 / 255
"""A picture whose grey levels all lie closer than this is salient nowhere."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601."""


def draw_saliency(config: CueConfig, images: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Saliency (B, 1, h, w) in [0, 1] of pictures (B, 3, H, W) in [0, 1], and validity (B,): False for a flat picture.

    Raises:
        UsageError: without pictures, from which this cue is drawn.

    """
    if images is None:
        raise UsageError("cue 'saliency' is drawn from pictures; landmarks alone do not make one.")
    pictures = images.float()
    if config.saliency == "spectral_residual":
        maps = spectral_residual(pictures)
    else:
        maps = saliency_map(_msi_net(config.saliency, pictures.device), pictures)
    return resize(maps, size).clamp(0, 1), has_contrast(pictures)


def has_contrast(images: Tensor) -> Tensor:
    """Whether a picture (B, 3, H, W) in [0, 1] is salient anywhere, (B,) bool: its grey levels are not all alike."""
    levels = luma(images.float()).flatten(1)
    return levels.amax(1) - levels.amin(1) >= FLAT


@lru_cache(maxsize=2)
def _msi_net(path: str, device: torch.device) -> MsiNet:
    return read_msi_net(Path(path)).to(device)


def luma(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W) -> grey (B, 1, H, W), ITU-R 601."""
    return (images * numbers(LUMA, images).view(1, 3, 1, 1)).sum(1, keepdim=True)


def spectral_residual(images: Tensor) -> Tensor:
    """Spectral-residual saliency (Hou and Zhang, CVPR 2007, doi 10.1109/CVPR.2007.383267), (B, 1, 64, 64) in [0, 1].

    With F the Fourier transform of the grey picture at 64 x 64, L = log |F| and its phase P:
    S = g * |F^-1 exp(L - h * L + i P)|^2, where h is a 3 x 3 mean and g a Gaussian; then min-max per picture.

    It knows nothing of faces: what stands out are edges and spots that the rest of the picture does not repeat.
    """
    spectrum = torch.fft.fft2(resize(luma(images), (SIDE, SIDE)))
    log = spectrum.abs().clamp_min(1e-8).log()
    mean = F.avg_pool2d(F.pad(log, (1, 1, 1, 1), mode="replicate"), 3, 1)
    residual = torch.polar((log - mean).exp(), spectrum.angle())
    energy = torch.fft.ifft2(residual).abs().square()
    return min_max(_blurred(energy))


def _blurred(maps: Tensor) -> Tensor:
    reach = math.ceil(3 * BLUR)
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / BLUR).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
