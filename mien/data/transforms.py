"""Random changes of training faces, a batch at a time on its device, with the landmarks on board."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.compat import ensure_torchvision
from mien.config import AugmentConfig
from mien.faces.landmarks import FLIP
from mien.maps import numbers
from mien.schema import PREPROCESSING, ByteArray, IntArray

IMAGENET_MEAN, IMAGENET_STD = PREPROCESSING["imagenet"].mean, PREPROCESSING["imagenet"].std
DRAWN = 14
"""Random numbers of a face, all drawn at once, so that one key of `augment` never changes what another draws."""
LUMA = (0.2989, 0.587, 0.114)
"""Of torchvision's rgb_to_grayscale."""
ERASED_AREA, ERASED_SHAPE = (0.02, 0.2), (0.3, 3.3)
"""Share of the picture and height by width of an erased box (Zhong et al. 2020, arXiv 1708.04896)."""


class Changes(NamedTuple):
    """What happens to each of B faces."""

    flip: Tensor
    """(B,) bool."""
    matrix: Tensor
    """(B, 2, 3) from places of the picture to places of the changed one, both from -1 to 1 between the outer edges (x, y)."""
    brightness: Tensor
    """(B,) factor; so are contrast and saturation."""
    contrast: Tensor
    saturation: Tensor
    grey: Tensor
    """(B,) bool."""
    box: Tensor
    """(B, 4) left, top, right and bottom of what is erased, from 0 to 1; four zeros for nothing."""


def uniform(seed: int, epoch: int, rows: IntArray) -> Tensor:
    """(B, DRAWN) numbers in [0, 1) that depend on (seed, epoch, row) alone, whatever the batch; all of them at once."""
    blocks = -(-DRAWN // 4)
    counter = np.zeros((len(rows), blocks, 4), dtype=np.uint64)
    counter[..., 0], counter[..., 1] = np.asarray(rows, dtype=np.uint64)[:, None], np.arange(blocks, dtype=np.uint64)
    key = np.random.SeedSequence((seed, epoch)).generate_state(2)
    words = philox(counter, int(key[0]), int(key[1])).reshape(len(rows), 4 * blocks)[:, :DRAWN]
    return torch.from_numpy((words >> np.uint64(8)).astype(np.float32) * np.float32(2**-24))


def philox(counter: npt.NDArray[np.uint64], key: int, second: int) -> npt.NDArray[np.uint64]:
    """Random 32-bit words (..., 4) of counters (..., 4) below 2**32 and a key of two words: Philox4x32-10.

    J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. Each word costs some products, where a generator
    of its own for every face would have to be seeded first.
    """
    low = np.uint64(0xFFFFFFFF)
    a, b, c, d = (counter[..., k] for k in range(4))
    for _ in range(10):
        one, other = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (
            (other >> np.uint64(32)) ^ b ^ np.uint64(key), other & low, (one >> np.uint64(32)) ^ d ^ np.uint64(second), one & low,
        )  # fmt: skip
        key, second = (key + 0x9E3779B9) & 0xFFFFFFFF, (second + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([a, b, c, d], -1)


def draw_changes(augment: AugmentConfig, drawn: Tensor) -> Changes | None:
    """Changes of B faces from (B, DRAWN) uniform numbers; None where `augment` changes no single face."""
    if not augment.changes_faces:
        return None
    flip, turn, right, down, zoom, *colour, grey, erase, area, shape, left, top = drawn.unbind(1)
    angle = torch.deg2rad((2 * turn - 1) * augment.rotation)
    size = 1 + (2 * zoom - 1) * augment.scale
    cos, sin = angle.cos() * size, angle.sin() * size
    shift_x, shift_y = (2 * (2 * at - 1) * augment.translate for at in (right, down))  # the frame is 2 wide
    limits = (augment.jitter, augment.jitter, augment.jitter / 2)
    brightness, contrast, saturation = (1 + (2 * at - 1) * limit for at, limit in zip(colour, limits, strict=True))
    rows = [torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)]
    return Changes(
        flip < augment.flip,
        torch.stack(rows, 1),
        brightness,
        contrast,
        saturation,
        grey < augment.grayscale,
        _boxes(area, shape, left, top) * (erase < augment.erase).unsqueeze(1),
    )


def _boxes(area: Tensor, shape: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """(B, 4) boxes inside the frame from uniform numbers (B,) of their area, shape and place."""
    share = ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])
    low, high = np.log(ERASED_SHAPE)
    ratio = torch.exp(low + shape * (high - low))
    height, width = (share * ratio).sqrt().clamp(max=1), (share / ratio).sqrt().clamp(max=1)
    left, top = right * (1 - width), down * (1 - height)
    return torch.stack([left, top, left + width, top + height], 1)


def torchvision_functions() -> Any:
    """`torchvision.transforms.v2.functional`, imported at its first use: torch's compiler comes with it, which takes a second."""
    ensure_torchvision()
    from torchvision.transforms.v2 import functional

    return functional


def resize_faces(images: Tensor, landmarks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 and (B, 68, 2) -> the same at size x size, antialiased; points measured from pixel centres."""
    height, width = images.shape[-2:]
    if (height, width) != (size, size):
        images = torchvision_functions().resize(images, [size, size], antialias=True)
    x, y = (landmarks + 0.5).unbind(-1)
    return images, torch.stack([x * (size / width), y * (size / height)], -1) - 0.5


def change_faces(images: Tensor, landmarks: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
    """(B, 3 or 1, S, S) uint8 and (B, 68, 2) pixels -> changed in the order of `Changes`; black comes in from outside.

    Each change is what torchvision's function of that name does to one picture. A flip also swaps left and right
    landmark indices. Points that leave the frame keep their coordinates; unknown points stay NaN. `changes` lie on the CPU:
    there it is decided what there is to do, so that nothing waits for the device, which gets all of them in one copy.
    """
    moves = not torch.equal(changes.matrix, torch.eye(2, 3).expand_as(changes.matrix))
    erases = bool(changes.box.any())
    there, back = _copied(changes, images.device)
    landmarks = _mirrored(landmarks, images.shape[-1], there.flip)
    if moves:  # which mirrors, too: pictures are read once
        pixels, landmarks = _moved(images.float(), landmarks, there.matrix, back)
    else:
        pixels = _flipped(images, there.flip).float() if changes.flip.any() else images.float()
    pixels = _recoloured(pixels, changes, there)
    if erases:
        pixels = pixels.masked_fill(_inside(there.box, images.shape[-1]), 0.0)
    return pixels.round_().to(torch.uint8), landmarks


def _copied(changes: Changes, device: torch.device) -> tuple[Changes, Tensor]:
    """The changes on a device, and the way back (B, 2, 3) from places of the changed picture to those of the one as it was."""
    back = _inverted(changes.matrix, changes.flip)
    parts = [part.flatten(1) if part.dim() > 1 else part[:, None] for part in (*changes, back)]
    table = torch.cat([part.float() for part in parts], 1).to(device, non_blocking=True)
    found = [
        columns.view(part.shape).to(part.dtype)
        for columns, part in zip(table.split([part.shape[1] for part in parts], 1), (*changes, back), strict=True)
    ]
    return Changes(*found[:-1]), found[-1]


def _inverted(matrix: Tensor, flip: Tensor) -> Tensor:
    """(B, 2, 3) from places of the moved picture back to those before it was flipped (B,); where `matrix` lies, the CPU."""
    inverse = torch.linalg.inv(matrix[:, :, :2])
    back = torch.cat([inverse, -inverse @ matrix[:, :, 2:]], 2)
    return torch.stack([torch.where(flip[:, None], -back[:, 0], back[:, 0]), back[:, 1]], 1)


def place_faces(images: Tensor, landmarks: Tensor, flip: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, S, S) float pictures of any normalisation and (B, 68, 2) pixels -> flipped and moved as in `Changes`.

    A flip also swaps left and right landmark indices. What comes in from outside is 0.
    """
    landmarks = _mirrored(landmarks, images.shape[-1], flip.to(images.device))
    there, back = (part.to(images.device, images.dtype) for part in (matrix, _inverted(matrix, flip)))
    return _moved(images, landmarks, there, back)


def _mirrored(landmarks: Tensor, side: int, flip: Tensor) -> Tensor:
    """Landmarks (B, 68, 2) of pictures of which some are flipped (B,)."""
    mirrored = torch.stack([side - 1 - landmarks[..., 0], landmarks[..., 1]], -1)
    return torch.where(flip.view(-1, 1, 1), mirrored.index_select(1, numbers(FLIP, landmarks, torch.int64)), landmarks)


def _flipped(images: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)


def _moved(pixels: Tensor, landmarks: Tensor, matrix: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    side = pixels.shape[-1]
    linear, shift = matrix[:, :, :2], matrix[:, :, 2:]
    moved = F.grid_sample(pixels, _grid(back, side), align_corners=False)
    places = (landmarks + 0.5) / side * 2 - 1
    places = places @ linear.transpose(1, 2) + shift.transpose(1, 2)
    return moved, (places + 1) / 2 * side - 0.5


def _grid(matrix: Tensor, side: int) -> Tensor:
    """(B, side, side, 2) places (x, y) of the centres of pixels after (B, 2, 3): `F.affine_grid` without its product of matrices."""
    centres = (2 * torch.arange(side, device=matrix.device, dtype=matrix.dtype) + 1) / side - 1
    across, down, shift = matrix[..., None].unbind(2)  # (B, 2, 1) each
    parts = torch.addcmul(shift, down, centres)[..., None] + (across * centres)[:, :, None]  # (B, 2, side, side)
    return torch.stack(parts.unbind(1), -1)


def _recoloured(pixels: Tensor, changes: Changes, there: Changes) -> Tensor:
    """Brightness, contrast and saturation one after the other, each cut to 0-255 and in place; then grey for the faces chosen.

    What there is to do is read from `changes`, how much of it from the same on the device.
    """
    bright, contrast, saturation = (part.view(-1, 1, 1, 1) for part in there[2:5])
    if (changes.brightness != 1).any() or (changes.contrast != 1).any():
        pixels.mul_(bright).clamp_(0, 255)
        torch.lerp(_mean_grey(pixels), pixels, contrast, out=pixels).clamp_(0, 255)
    if pixels.shape[1] == 3 and (changes.saturation != 1).any():
        torch.lerp(_grey(pixels), pixels, saturation, out=pixels).clamp_(0, 255)
    if changes.grey.any():
        pixels = torch.where(there.grey.view(-1, 1, 1, 1), _grey(pixels), pixels)
    return pixels


def _grey(pixels: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    return torchvision_functions().rgb_to_grayscale(pixels) if pixels.shape[1] == 3 else pixels


def _mean_grey(pixels: Tensor) -> Tensor:
    """(B, 1, 1, 1) mean of `_grey`, from the means of the channels."""
    means = pixels.mean((2, 3), keepdim=True)
    return (means * numbers(LUMA, pixels).view(1, 3, 1, 1)).sum(1, keepdim=True) if pixels.shape[1] == 3 else means


def _inside(box: Tensor, side: int) -> Tensor:
    """(B, 1, S, S) bool: pixels whose centre lies in the box (B, 4)."""
    centre = (torch.arange(side, device=box.device) + 0.5) / side
    left, top, right, bottom = (edge.unsqueeze(1) for edge in box.unbind(1))
    columns, rows = (centre >= left) & (centre < right), (centre >= top) & (centre < bottom)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def luma(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8, the ITU-R 601 luma as Pillow rounds it."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8)


def normalise(images: Tensor, preprocessing: str = "imagenet") -> Tensor:
    """(B, 3, H, W) uint8 RGB, or (B, 1, H, W) luma for grey -> (B, 3, H, W) float32 as the weights expect it, on the images' device.

    `preprocessing` is a key of schema.PREPROCESSING; its steps are (pixel / scale - mean) / std, in the order of the net's
    channels; grey is made once and seen three times. The result lies in memory channel by channel of a pixel
    (channels_last), which convolutions on a CPU are several times faster with.
    """
    steps = PREPROCESSING[preprocessing]
    pixels = (
        (images if images.shape[1] == 1 else luma(images)) if steps.grey else images.flip(1) if steps.bgr else images
    )
    pairs = list(zip(steps.mean, steps.std, strict=True))[: pixels.shape[1]]
    factor = numbers(tuple(1 / (steps.scale * deviation) for _, deviation in pairs), images, torch.float32)
    shift = numbers(tuple(-centre / deviation for centre, deviation in pairs), images, torch.float32)
    # One pass; what does not lie channel by channel of a pixel yet is put so while it is bytes.
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    result = torch.addcmul(shift, pixels.permute(0, 2, 3, 1).float(), factor).permute(0, 3, 1, 2)
    return result.contiguous(memory_format=torch.channels_last).expand(-1, 3, -1, -1)


def denormalised(images: Tensor, preprocessing: str = "imagenet") -> Tensor:
    """(B, 3, H, W) RGB in [0, 1] of what `normalise` made, up to the masking or mixing since."""
    steps = PREPROCESSING[preprocessing]
    mean, std = (numbers(values, images, torch.float32).view(1, 3, 1, 1) for values in (steps.mean, steps.std))
    pixels = (images.float() * std + mean) * (steps.scale / 255)
    return (pixels.flip(1) if steps.bgr else pixels).clamp(0, 1)


def as_pictures(images: ByteArray) -> Tensor:
    """RGB (B, H, W, 3) uint8 of a store -> (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
