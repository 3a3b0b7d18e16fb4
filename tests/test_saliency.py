"""Saliency cues: the spectral residual against a loop, MSI-Net layer by layer and with weights in TensorFlow's forms."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from mien.cues import CueConfig, mean_cue, per_class_maps, render_cue
from mien.cues.msi_net import FRAME, MEAN, MsiNet, doubled, pool_in_place, saliency_map
from mien.cues.msi_net_weights import from_tensorflow, graph_constants, read_msi_net
from mien.cues.saliency import luma, spectral_residual
from mien.data.store import write_store
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.report.pictures import Faces
from mien.report.runs import load_run
from mien.training.loop import fit

PARAMETERS = 24_934_209


def pictures(count=3, size=48, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def draw(images, size=12, **options):
    points = torch.full((len(images), 68, 2), torch.nan)
    labels = torch.zeros(len(images), dtype=torch.int64)
    sizes = {"image_size": tuple(images.shape[-2:]), "size": (size, size)}
    return render_cue(CueConfig("saliency", **options), points, labels, images=images, **sizes)


# --- spectral residual ---


def test_spectral_residual_twin():
    """Hou and Zhang's steps in numpy and OpenCV on a 64 px picture."""
    image = pictures(1, 64)[0]
    grey = (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]).numpy().astype(np.float64)
    spectrum = np.fft.fft2(grey)
    log = np.log(np.abs(spectrum))
    mean = cv2.blur(log, (3, 3), borderType=cv2.BORDER_REPLICATE)
    energy = np.abs(np.fft.ifft2(np.exp(log - mean + 1j * np.angle(spectrum)))) ** 2
    smooth = cv2.GaussianBlur(energy, (17, 17), 2.5, borderType=cv2.BORDER_REPLICATE)
    twin = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    assert np.abs(spectral_residual(image[None])[0, 0].numpy() - twin).max() < 1e-3


def test_spectral_residual_finds_the_odd_one_out():
    """A field of equal stripes with one spot: the spot."""
    stripes = (torch.arange(64) % 8 < 4).float().expand(64, 64) * 0.5 + 0.2
    image = stripes.expand(3, 64, 64).clone()
    image[:, 40:45, 20:25] = 0.9
    place = spectral_residual(image[None])[0, 0].flatten().argmax()
    assert abs(int(place) // 64 - 42) < 5
    assert abs(int(place) % 64 - 22) < 5


def test_contrast_does_not_matter():
    images = pictures()
    assert torch.allclose(spectral_residual(images), spectral_residual(0.4 * images), atol=2e-3)


def test_saliency_as_a_cue():
    images = pictures()
    images[1] = 0.4  # flat: nothing stands out
    cue = draw(images)
    assert cue.maps.shape == (3, 1, 12, 12)
    assert cue.valid.tolist() == [True, False, True]
    assert cue.maps[1].abs().max() == 0
    assert 0 <= cue.maps.min() <= cue.maps.max() <= 1
    assert torch.allclose(draw(images[2:]).maps[0], cue.maps[2], atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(draw(images).maps, cue.maps)
    with pytest.raises(UsageError, match="drawn from pictures"):
        render_cue(CueConfig("saliency"), torch.zeros(1, 68, 2), torch.zeros(1), image_size=(8, 8), size=(4, 4))


def test_controls_and_means_of_saliency():
    images, config = pictures(), CueConfig("saliency")
    points, labels = torch.full((3, 68, 2), torch.nan), torch.tensor([0, 1, 1])
    sizes = {"image_size": (48, 48), "size": (12, 12)}
    plain = draw(images).maps
    inverted = render_cue(replace(config, control="inverted"), points, labels, images=images, **sizes)
    assert torch.allclose(inverted.maps, 1 - plain)
    overall, per_class = mean_cue(config, [(points, labels, images)], **sizes)
    assert torch.allclose(overall[0], plain.mean(0), atol=1e-6)
    assert torch.allclose(per_class[1], plain[1:].mean(0), atol=1e-6)
    maps = per_class_maps(config, points, scheme="polarity-3", images=images, **sizes)
    assert torch.equal(maps, plain.expand(-1, 3, -1, -1))


def test_luma_is_pillows():
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    mine = luma(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0, 0] * 255
    assert np.abs(mine.numpy() - np.asarray(Image.fromarray(image).convert("L"))).max() <= 0.51


# --- MSI-Net ---


@pytest.fixture(scope="module")
def variables():
    """Made-up weights under TensorFlow's names, kernels (h, w, in, out), small enough to stay finite."""
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        state = MsiNet().state_dict()
    made = {}
    for name, value in state.items():
        layer, kind = name.removeprefix("layers.").rsplit(".", 1)
        shape = tuple(value.shape) if kind == "bias" else tuple(value.permute(2, 3, 1, 0).shape)
        scale = 0.02 if kind == "bias" else 1.4 / float(np.prod(shape[:3])) ** 0.5
        made[f"{layer}/{'kernel' if kind == 'weight' else 'bias'}"] = scale * rng.standard_normal(shape, np.float32)
    return made


def net_of(variables):
    with torch.device("meta"):
        net = MsiNet()
    net.load_state_dict(from_tensorflow(variables), assign=True)
    return net.eval()


def test_parameters_and_names(variables):
    with torch.device("meta"):
        net = MsiNet()
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS == sum(v.size for v in variables.values())
    parts = {"conv": 0, "aspp": 0, "decoder": 0}
    for name, value in variables.items():
        parts[next(part for part in parts if name.startswith(part))] += value.size
    assert parts == {"conv": 14_714_688, "aspp": 9_831_936, "decoder": 387_585}
    assert "conv5/conv5_3/kernel" in variables
    assert "aspp/conv1_5/bias" in variables


def test_pool_keeps_the_size_and_pads_at_the_end():
    x = torch.tensor([[[[1.0, -2.0], [-3.0, -4.0]]]])
    assert pool_in_place(x)[0, 0].tolist() == [[1, -2], [-3, -4]]
    wide = torch.randn(1, 1, 5, 4)
    twin = [[max(wide[0, 0, y : y + 2, x : x + 2].flatten().tolist()) for x in range(4)] for y in range(5)]
    assert pool_in_place(wide)[0, 0].tolist() == twin


def test_doubled_is_the_old_grid():
    """Source place of p is p / 2, cells beyond the end repeat the last."""
    x = torch.randn(2, 3, 4, 5)
    twin = torch.empty(2, 3, 8, 10)
    for row in range(8):
        for column in range(10):
            y, u = row // 2, column // 2
            ys, us = (y, min(y + 1, 3)), (u, min(u + 1, 4))
            wy, wu = (row % 2) / 2, (column % 2) / 2
            twin[..., row, column] = sum(
                (wy if i else 1 - wy) * (wu if j else 1 - wu) * x[..., ys[i], us[j]] for i in (0, 1) for j in (0, 1)
            )
    assert torch.allclose(doubled(x), twin, atol=1e-6)


def test_first_convolution_by_loops(variables):
    """TensorFlow's kernel order, "same" padding and the means in their odd order."""
    pixels = torch.rand(1, 3, 8, 8) * 255
    net = net_of(variables)
    found = net.layers["conv1/conv1_1"](pixels - torch.tensor(MEAN).view(1, 3, 1, 1))
    kernel, bias = variables["conv1/conv1_1/kernel"], variables["conv1/conv1_1/bias"]
    for y, x, out in ((0, 0, 3), (4, 7, 60)):
        total = float(bias[out])
        for i in range(3):
            for j in range(3):
                if 0 <= y + i - 1 < 8 and 0 <= x + j - 1 < 8:
                    for c in range(3):
                        total += float(kernel[i, j, c, out]) * (float(pixels[0, c, y + i - 1, x + j - 1]) - MEAN[c])
        assert float(found[0, out, y, x].detach()) == pytest.approx(total, rel=1e-4)


def test_forward_by_hand(variables):
    """The whole graph once more, written as a list of steps on the kernels as they are."""
    pixels = torch.rand(2, 3, 8, 16) * 255
    kernels = {name: torch.from_numpy(value) for name, value in variables.items()}

    def conv(x, name, dilation=1):
        kernel = kernels[f"{name}/kernel"].permute(3, 2, 0, 1)
        pad = dilation * (kernel.shape[-1] // 2)
        return torch.nn.functional.conv2d(x, kernel, kernels[f"{name}/bias"], padding=pad, dilation=dilation)

    pool = torch.nn.functional.max_pool2d
    x = pixels - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    x = pool(conv(conv(x, "conv1/conv1_1").relu(), "conv1/conv1_2").relu(), 2)
    x = pool(conv(conv(x, "conv2/conv2_1").relu(), "conv2/conv2_2").relu(), 2)
    for n in (1, 2, 3):
        x = conv(x, f"conv3/conv3_{n}").relu()
    a = x = pool(x, 2)
    for n in (1, 2, 3):
        x = conv(x, f"conv4/conv4_{n}").relu()
    b = x = pool_in_place(x)
    for n in (1, 2, 3):
        x = conv(x, f"conv5/conv5_{n}", 2).relu()
    x = torch.cat([a, b, pool_in_place(x)], 1)
    branches = [conv(x, f"aspp/conv1_{n}", d).relu() for n, d in ((1, 1), (2, 4), (3, 8), (4, 12))]
    whole = conv(x.mean((2, 3), keepdim=True), "aspp/conv1_5").relu().expand(-1, -1, 1, 2)
    x = conv(torch.cat([*branches, whole], 1), "aspp/conv2").relu()
    for n in (1, 2, 3):
        x = conv(doubled(x), f"decoder/conv{n}").relu()
    x = conv(x, "decoder/conv4")
    x = x - x.amin((1, 2, 3), keepdim=True)
    with torch.no_grad():
        found = net_of(variables)(pixels)
    assert found.shape == (2, 1, 8, 16)
    assert torch.allclose(found, x / (x.amax((1, 2, 3), keepdim=True) + 1e-7), atol=1e-4)


class Recorder(torch.nn.Module):
    """Stands for the net: keeps what it was shown, answers with the place of each column."""

    def forward(self, pixels):
        self.seen = pixels
        return torch.arange(pixels.shape[-1]).expand(len(pixels), 1, *pixels.shape[-2:]) / pixels.shape[-1]


@pytest.mark.parametrize(
    ("size", "inner"),
    [((48, 48), (240, 240)), ((240, 320), (240, 320)), ((480, 480), (240, 240)), ((30, 80), (120, 320))],
)
def test_frame_keeps_proportions(size, inner):
    recorder = Recorder()
    maps = saliency_map(recorder, torch.zeros(1, 3, *size))
    assert maps.shape[-2:] == inner
    assert recorder.seen.shape[-2:] == FRAME
    assert int((recorder.seen[0, 0] == 0).sum()) == inner[0] * inner[1]
    assert set(recorder.seen.unique().tolist()) <= {0.0, 126.0}
    assert float(maps[0, 0, 0, 0]) == pytest.approx((FRAME[1] - inner[1]) // 2 / FRAME[1])  # the padding is cut off


def graph_file(path, variables):
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = GraphDef()
    graph.node.add(name="input", op="Placeholder")
    graph.node.add(name="dims", op="Const").attr["value"].tensor.dtype = 3  # an integer constant is passed over
    for name, value in variables.items():
        tensor = graph.node.add(name=name, op="Const").attr["value"].tensor
        tensor.dtype = 1
        for side in value.shape:
            tensor.tensor_shape.dim.add(size=side)
        if value.size == 1:  # TensorFlow writes a single number so
            tensor.float_val.append(float(value.reshape(-1)[0]))
        else:
            tensor.tensor_content = value.tobytes()
    path.write_bytes(graph.SerializeToString())
    return path


def test_weights_name_the_net_that_draws(monkeypatch):
    asked = []
    monkeypatch.setattr("mien.cues.saliency.read_msi_net", lambda path: asked.append(path) or Recorder())
    cue = draw(pictures(2, 24), saliency="some/weights.safetensors")
    assert [str(path) for path in asked] == ["some/weights.safetensors"]
    assert cue.valid.all()
    assert cue.maps[0, 0, 0, 0] < cue.maps[0, 0, 0, 11]


@pytest.mark.slow
def test_weights_in_every_form_give_one_map(variables, tmp_path):
    np.savez(tmp_path / "w.npz", **{f"model/{name}:0": value for name, value in variables.items()})
    graph_file(tmp_path / "w.pb", variables)
    save_file(from_tensorflow(variables), tmp_path / "w.safetensors")
    nets = [read_msi_net(tmp_path / f"w.{form}") for form in ("npz", "pb", "safetensors")]
    pixels = torch.rand(1, 3, 16, 16) * 255
    first, *others = (net(pixels) for net in nets)
    assert all(torch.equal(first, other) for other in others)
    assert not any(p.requires_grad for p in nets[0].parameters())
    cue = draw(pictures(1, 24), saliency=str(tmp_path / "w.safetensors"))
    assert cue.maps.shape == (1, 1, 12, 12)
    assert cue.valid.all()


def test_constants_of_a_graph(tmp_path):
    values = {"a/kernel": np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3), "a/bias": np.float32([7.0])}
    found = dict(graph_constants(graph_file(tmp_path / "g.pb", values).read_bytes()))
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[name], values[name]) for name in values)


def test_weights_that_do_not_fit(tmp_path):
    def refuse(path, message):
        with pytest.raises(DataError, match=message) as caught:
            read_msi_net(path)
        assert "\n" not in str(caught.value)

    for form in ("safetensors", "npz", "pb"):
        refuse(tmp_path / f"none.{form}", "not found|is missing")
        (tmp_path / f"bad.{form}").write_bytes(b"\x0a\xff\xffnothing of the kind")
        refuse(tmp_path / f"bad.{form}", "cannot be read|no readable|is damaged")
    np.savez(tmp_path / "few.npz", **{"conv1/conv1_1/kernel": np.zeros((3, 3, 3, 8), np.float32)})
    refuse(tmp_path / "few.npz", r"45 of 46 tensors missing .* 1 of another shape \(layers\.conv1/conv1_1\.weight")
    np.savez(tmp_path / "objects.npz", kernel=np.array([{}], dtype=object))
    refuse(tmp_path / "objects.npz", "never read")


def test_training_and_scoring_with_a_cue_from_pictures(tmp_path):
    """Faces without landmarks train, are scored and are drawn in the report."""
    rows = [record._replace(landmarks=None) for record in tiny.records(each=2)]
    write_store(rows, tmp_path / "s", dataset="toy", size=tiny.SIZE)
    changes = {
        "cue": {"kind": "saliency"},
        "guidance": {"weight": 1.0},
        "optim": {"epochs": 1},
        "augment": {"cutmix": 1.0},
    }
    fit(tiny.recipe(tmp_path / "s", **changes), tmp_path / "run")
    results = evaluate(tmp_path / "run", methods="cam")
    assert results["alignment"]["baseline:mean"]["cosine"]["class_mean"] > 0
    assert results["alignment"]["mismatched:same_class"]["pearson"]["class_mean"] < 0.99
    faces = Faces(load_run(tmp_path / "run", "run"))
    images = faces.images(np.arange(3))
    drawn = draw(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, tiny.SIZE)
    assert np.allclose(faces.cues(np.arange(3)), drawn.maps[:, 0].numpy(), atol=1e-6)
