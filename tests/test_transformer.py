"""Spatial transformers: published sizes, names and numbers, the identity at the start, theta's options, closed form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien import maps
from mien.config import ModelConfig, TransformerConfig
from mien.errors import DataError, UsageError
from mien.faces.align import similarity
from mien.models import Classifier, create_model
from mien.models.transformer import sample, similarity_theta, start_of, theta_of, to_unit

SIMPLE = ModelConfig(backbone="simple_cnn", head="flat", size=48, preprocessing="grey", drop=0.5)
KINDS = ("image", "guide", "masked", "channel", "landmarks")


def model_of(kind: str = "guide", classes: int = 3, **options) -> Classifier:
    torch.manual_seed(0)
    return create_model(SIMPLE, classes, transformer=TransformerConfig(kind=kind, **options))


def pictures(count: int = 2, size: int = 48) -> Tensor:
    grey = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return grey.expand(-1, 3, -1, -1)


def guides(count: int = 2, size: int = 48) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(2))


def stirred(model: Classifier) -> Classifier:
    """With a localisation net that has left its start."""
    nn.init.normal_(model.transformer.fc_loc[2].weight, std=0.05, generator=torch.Generator().manual_seed(3))
    return model


class Published(nn.Module):
    """The published net, layer by layer: guide and image of (B, 1, 48, 48)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 3), nn.Conv2d(10, 10, 3)
        self.conv3, self.conv4 = nn.Conv2d(10, 10, 3), nn.Conv2d(10, 10, 3)
        self.norm = nn.BatchNorm2d(10)
        self.fc1, self.fc2 = nn.Linear(810, 50), nn.Linear(50, 3)
        self.localization = nn.Sequential(
            nn.Conv2d(1, 8, 7),
            nn.MaxPool2d(2, 2),
            nn.ReLU(True),
            nn.Conv2d(8, 10, 5),
            nn.MaxPool2d(2, 2),
            nn.ReLU(True),
        )
        self.fc_loc = nn.Sequential(nn.Linear(640, 32), nn.ReLU(True), nn.Linear(32, 6))

    def forward(self, image: Tensor, guide: Tensor) -> Tensor:
        theta = self.fc_loc(self.localization(guide).view(-1, 640)).view(-1, 2, 3)
        grid = F.affine_grid(theta, image.size(), align_corners=False)
        out = F.relu(self.conv1(F.grid_sample(image, grid, align_corners=False)))
        out = F.relu(F.max_pool2d(self.conv2(out), 2))
        out = F.relu(self.conv3(out))
        out = F.relu(F.max_pool2d(self.norm(self.conv4(out)), 2))
        out = F.dropout(out, 0.5, self.training).view(-1, 810)
        return self.fc2(F.relu(self.fc1(out)))


@pytest.mark.parametrize(
    ("kind", "count"), [("none", 43553), ("image", 66673), ("guide", 66673), ("masked", 66673), ("landmarks", 43553)]
)
def test_published_number_of_parameters(kind, count):
    assert sum(p.numel() for p in model_of(kind).parameters()) == count


def test_other_sizes_and_classes():
    config = ModelConfig(backbone="simple_cnn", head="flat", size=64, preprocessing="grey", head_options={"hidden": 20})
    model = create_model(config, 7, transformer=TransformerConfig(kind="guide"))
    output = model.eval()(pictures(size=64), guide=guides(size=64))
    assert output.logits.shape == (2, 7)
    assert [layer.shape[-1] for layer in output.features] == [62, 30, 28, 13]


def test_published_weights_give_published_logits(tmp_path):
    net = Published().eval()
    nn.init.normal_(net.fc_loc[2].weight, std=0.05)
    net.norm.running_mean.uniform_(-1, 1)
    torch.save(net.state_dict(), tmp_path / "published.pt")
    config = ModelConfig(**{**vars(SIMPLE), "initial": tmp_path / "published.pt"})
    model = create_model(config, 3, transformer=TransformerConfig(kind="guide")).eval()
    images, guide = pictures(), guides()
    with torch.no_grad():
        assert torch.allclose(model(images, guide=guide).logits, net(images[:, :1], 2 * guide - 1), atol=1e-5)
    assert {
        name.split(".", 2)[-1] if name.startswith("backbone") else name.split(".", 1)[1] for name in model.state_dict()
    } == {*net.state_dict()}


class Harmful:
    def __reduce__(self):
        return print, ("code ran",)


def test_code_in_a_weight_file_is_not_run(tmp_path, capsys):
    torch.save({"conv1.weight": Harmful()}, tmp_path / "bad.pt")
    config = ModelConfig(**{**vars(SIMPLE), "initial": tmp_path / "bad.pt"})
    with pytest.raises(DataError, match="cannot read weights"):
        create_model(config, 3)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("shape", ["affine", "similarity"])
@pytest.mark.parametrize("limit", [0.0, 0.3])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_starts_as_the_identity(shape, limit, padding):
    model = model_of("guide", shape=shape, limit=limit, padding=padding)
    images = pictures()
    placed, theta = model.transformer(images, guides())
    assert torch.equal(theta, torch.eye(2, 3).repeat(2, 1, 1))
    assert torch.allclose(placed, images[:, :1], atol=1e-5)


def test_a_similarity_turns_scales_and_shifts():
    config = TransformerConfig(kind="guide", shape="similarity")
    theta = theta_of(torch.tensor([[0.8, 0.2, 0.1, -0.3]]), config)[0]
    assert torch.allclose(theta, torch.tensor([[0.8, -0.2, 0.1], [0.2, 0.8, -0.3]]))


@pytest.mark.parametrize("shape", ["affine", "similarity"])
def test_a_limit_holds_and_is_not_felt_at_the_start(shape):
    config = TransformerConfig(kind="guide", shape=shape, limit=0.2)
    start = start_of(config)
    far = theta_of((start + 50).repeat(2, 1) * torch.tensor([[1.0], [-1.0]]), config)
    assert (far - torch.eye(2, 3)).abs().max() <= 0.2 + 1e-6
    numbers = start[None].clone().requires_grad_()
    theta_of(numbers, config)[0, 0].sum().backward()
    free = start[None].clone().requires_grad_()
    theta_of(free, TransformerConfig(kind="guide", shape=shape))[0, 0].sum().backward()
    assert torch.allclose(numbers.grad, free.grad)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_sampling_twin(padding):
    """Pixel by pixel: place, four neighbours, weights."""
    image = torch.rand(1, 1, 5, 5)
    theta = torch.tensor([[[0.9, 0.2, 0.3], [-0.1, 1.2, -0.2]]])
    found = sample(image, theta, padding)[0, 0]
    for row in range(5):
        for column in range(5):
            place = theta[0] @ torch.tensor([(2 * column + 1) / 5 - 1, (2 * row + 1) / 5 - 1, 1.0])
            x, y = (((v + 1) * 5 - 1) / 2 for v in place.tolist())
            if padding == "border":
                x, y = (min(max(v, 0.0), 4.0) for v in (x, y))
            total = 0.0
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < 5 and 0 <= j < 5:
                        total += (1 - abs(x - j)) * (1 - abs(y - i)) * float(image[0, 0, i, j])
            assert abs(float(found[row, column]) - total) < 1e-5


def test_the_first_step_teaches_the_last_layer_of_the_localisation_alone():
    model = model_of("guide").train()
    F.cross_entropy(model(pictures(), guide=guides()).logits, torch.tensor([0, 2])).backward()
    transformer = model.transformer
    assert transformer.fc_loc[2].weight.grad.abs().sum() > 0
    assert all(
        not p.grad.any() for part in (transformer.localization, transformer.fc_loc[0]) for p in part.parameters()
    )


def test_the_guide_speaks_through_theta_alone():
    model = model_of("guide").eval()
    images = pictures()
    with torch.no_grad():
        first, second = (model(images, guide=g).logits for g in (guides(), 1 - guides()))
        assert torch.equal(first, second)
        first, second = (stirred(model)(images, guide=g) for g in (guides(), 1 - guides()))
    assert not torch.allclose(first.theta, second.theta)
    assert not torch.allclose(first.logits, second.logits)


def test_patches_twin():
    """Guide times image in pixels; the published files truncate to whole numbers, which is a level at most."""
    model = model_of("masked").eval()
    images, guide = pictures(), guides()
    placed, _ = model.transformer(images, guide)
    pixels = (images[:, :1] + 1) / 2 * 255
    published = (guide * 255 / 255 * pixels / 255 * 255).to(torch.uint8)
    assert ((placed + 1) / 2 * 255 - published).abs().max() <= 1 + 1e-3


def test_masked_pictures_are_black_under_any_preprocessing():
    config = ModelConfig(backbone="resnet10t", size=48, channels=[8, 8, 8, 8], preprocessing="vggface")
    model = create_model(config, 3, transformer=TransformerConfig(kind="masked"))
    from mien.data.transforms import normalise

    black = normalise(torch.zeros(1, 3, 48, 48), "vggface")
    placed, _ = model.transformer(torch.randn(1, 3, 48, 48) * 50, torch.zeros(1, 1, 48, 48))
    assert torch.allclose(placed, black, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_any_net_of_timm_stands_behind(kind):
    config = ModelConfig(backbone="resnet10t", size=48, channels=[8, 8, 8, 8])
    model = create_model(config, 7, transformer=TransformerConfig(kind=kind)).train()
    images = torch.randn(3, 3, 48, 48)
    output = model(images, guide=model.blank_guide(images))
    output.logits.sum().backward()
    assert output.logits.shape == (3, 7)
    assert (output.theta is None) == (kind == "channel")


WRONG = {
    "guide": (torch.zeros(2, 1, 40, 40), r"needs a guide \(2, 1, 48, 48\) beside the images, got \(2, 1, 40, 40\)"),
    "masked": (None, r"needs a guide .* got none"),
    "channel": (torch.zeros(2, 3, 48, 48), r"got \(2, 3, 48, 48\)"),
    "landmarks": (torch.zeros(2, 5, 2), r"needs landmarks \(2, 68, 2\) as guide, got \(2, 5, 2\)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_guide_that_does_not_fit_is_one_clear_line(kind):
    guide, words = WRONG[kind]
    with pytest.raises(UsageError, match=words) as caught:
        model_of(kind)(pictures(), guide=guide)
    assert "\n" not in str(caught.value)


REFUSED = {
    "too small": (ModelConfig(size=16), TransformerConfig(kind="image"), "model.size of at least 18"),
    "segmentation": (ModelConfig(segmentation=True), TransformerConfig(kind="guide"), "model.segmentation"),
    "colours": (ModelConfig(backbone="simple_cnn", size=48), TransformerConfig(), "model.preprocessing grey"),
    "adl": (ModelConfig(**{**vars(SIMPLE), "adl": 0.5}), TransformerConfig(), "needs a CNN of timm"),
    "channel": (ModelConfig(backbone="apvit", head="cls"), TransformerConfig(kind="channel"), "room for a channel"),
    "options": (ModelConfig(**{**vars(SIMPLE), "output_stride": 8}), TransformerConfig(), "output_stride"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    config, transformer, words = REFUSED[case]
    with pytest.raises(UsageError, match=words):
        create_model(config, 3, transformer=transformer)


def test_dropout_is_off_in_evaluation():
    model, images = model_of("image"), pictures()
    assert torch.equal(model.eval()(images).logits, model(images).logits)
    assert not torch.equal(model.train()(images).logits, model(images).logits)


def test_the_flat_head_has_a_closed_form():
    model = model_of("none").eval()
    output = model(pictures())
    chain = model.head.chain(output.features[-1])
    hidden = F.linear(output.features[-1].flatten(1), chain.weights[0], chain.biases[0]).relu()
    assert torch.allclose(F.linear(hidden, chain.weights[1], chain.biases[1]), output.logits, atol=1e-6)
    assert model.train().head.chain(output.features[-1]) is None


def face(count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(68, 2, generator=draws) * 2 - 1, torch.rand(count, 68, 2, generator=draws) * 2 - 1


def test_closed_form_is_the_least_squares_similarity():
    shape, points = face()
    theta = similarity_theta(shape, points)
    for k in range(3):
        assert np.allclose(theta[k], similarity(shape.numpy(), points[k].numpy()), atol=1e-5)


def test_closed_form_finds_a_known_placing_from_the_points_that_are_known():
    shape, _ = face()
    wanted = torch.tensor([[0.7, -0.2, 0.1], [0.2, 0.7, -0.3]])
    points = (shape @ wanted[:, :2].T + wanted[:, 2])[None].repeat(3, 1, 1)
    points[1, :40] = float("nan")
    points[2] = float("nan")
    shape[60:] = float("nan")
    theta = similarity_theta(shape, points)
    assert torch.allclose(theta[:2], wanted.expand(2, 2, 3), atol=1e-5)
    assert torch.equal(theta[2], torch.eye(2, 3))


def test_closed_form_is_finite_for_coinciding_points():
    theta = similarity_theta(face()[0], torch.full((1, 68, 2), 0.4))
    assert torch.equal(theta[0], torch.eye(2, 3))


@pytest.mark.parametrize(
    "moves", [("turn",), ("scale",), ("shift",), ("turn", "shift"), ("scale", "shift"), ("turn", "scale")]
)
def test_parts_of_the_closed_form_by_angle_and_size(moves):
    """Twin from angle, size and centres of the whole similarity."""
    shape = face()[0]
    angle, size = torch.tensor(0.4), 1.3
    turn = size * torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    points = shape @ turn.T + torch.tensor([0.2, -0.1])
    kept = (angle if "turn" in moves else torch.tensor(0.0), size if "scale" in moves else 1.0)
    part = kept[1] * torch.tensor([[kept[0].cos(), -kept[0].sin()], [kept[0].sin(), kept[0].cos()]])
    shift = points.mean(0) - part @ shape.mean(0) if "shift" in moves else torch.zeros(2)
    theta = similarity_theta(shape, points[None], moves)[0]
    torch.testing.assert_close(theta, torch.cat((part, shift[:, None]), 1), atol=1e-5, rtol=0)


def test_stable_points_do_not_see_the_mouth():
    model = model_of("landmarks", points="stable")
    shape = face()[0]
    model.transformer.mean_shape.copy_(shape)
    images, points = torch.zeros(1, 3, 48, 48), ((shape + 1) * 48 - 1) / 2
    open_mouth = points.clone()
    open_mouth[48:] += 9
    open_mouth[:17] += 5
    _, theta = model.transformer(images, open_mouth[None])
    torch.testing.assert_close(theta[0], torch.eye(2, 3), atol=1e-5, rtol=0)
    moved = model_of("landmarks").transformer
    moved.mean_shape.copy_(shape)
    assert (moved(images, open_mouth[None])[1][0] - torch.eye(2, 3)).abs().max() > 0.05


def test_nothing_to_move_is_refused():
    with pytest.raises(UsageError, match=r"transformer\.moves is empty"):
        TransformerConfig(kind="landmarks", moves=[])


def test_landmarks_place_the_face_onto_the_mean_shape():
    """A bright pixel on a landmark comes to lie where that landmark is in the mean shape."""
    model = model_of("landmarks")
    turn = torch.tensor([[0.9, -0.3], [0.3, 0.9]])
    points = torch.randint(10, 38, (68, 2), generator=torch.Generator().manual_seed(0)).float()
    model.transformer.mean_shape.copy_((to_unit(points, (48, 48)) - 0.05) @ torch.linalg.inv(turn).T)
    images = torch.full((1, 3, 48, 48), -1.0)
    x, y = points[0].long().tolist()
    images[:, :, y - 1 : y + 2, x - 1 : x + 2] = 1
    placed, _ = model.transformer(images, points[None])
    row, column = divmod(int(placed[0, 0].argmax()), 48)
    assert (
        to_unit(torch.tensor([float(column), float(row)]), (48, 48)) - model.transformer.mean_shape[0]
    ).abs().max() < 0.06


def test_maps_come_back_to_the_input_picture():
    theta = torch.tensor([[[0.6, -0.2, 0.2], [0.2, 0.6, -0.1]]])
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    blob = torch.exp(-((rows - 24) ** 2 + (columns - 40) ** 2) / 50)[None, None]
    back = maps.to_input(sample(blob, theta, "zeros"), theta)
    assert divmod(int(back.argmax()), 64) == (24, 40)
    assert (back - blob).abs().max() < 0.05


def test_what_the_net_did_not_see_is_zero_and_a_shift_is_exact():
    theta = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    back = maps.to_input(torch.ones(1, 1, 4, 4), theta)
    assert torch.equal(back[0, 0, 0], torch.tensor([0.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize("theta", [torch.zeros(1, 2, 3), torch.tensor([[[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]])])
def test_a_theta_without_inverse_gives_finite_maps(theta):
    assert maps.to_input(torch.rand(1, 2, 4, 4), theta).isfinite().all()


def test_identity_and_no_transformer_leave_maps_alone():
    some = torch.rand(2, 3, 5, 5)
    assert maps.to_input(some, None) is some
    assert torch.allclose(maps.to_input(some, torch.eye(2, 3).repeat(2, 1, 1)), some, atol=1e-5)
