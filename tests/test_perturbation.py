"""Maps from masked and noisy images: loop twins from the papers, other libraries, and no trace of batching."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.compat import ensure_torchvision
from mien.errors import UsageError
from mien.explain import Sampling, explain
from mien.explain.gradient import grad_cam_pp
from mien.explain.perturbation import IS_SAMPLES, PERTURBATION_MAPS, SMOOTH_STD, SS_STD
from mien.schema import Output

ensure_torchvision()


class Toy(nn.Module):
    """Features as large as the image, so that libraries which normalise before or after resizing agree."""

    def __init__(self, stride: int = 1, hidden: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3, stride, 1), nn.Tanh(), nn.Conv2d(5, 4, 3, 1, 1), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(4, 6), nn.Tanh() if hidden else nn.Identity(), nn.Linear(6, 3))
        nn.init.normal_(self.top[2].weight, std=5)

    def forward(self, images: Tensor) -> Output:
        features = self.body(images)
        return Output(self.top(features.mean(dim=(2, 3))), (features,), None)


class Logits(nn.Module):
    def __init__(self, model: Toy) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


TARGET = torch.tensor([0, 2, 1])


def pictures(size: int = 8) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def maps(name: str, model: Toy, images: Tensor, **options: int) -> Tensor:
    return explain(model, images, TARGET, (name,), sampling=Sampling(**options))[name]


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def twin(name: str, model: Toy, images: Tensor, samples: int) -> Tensor:
    """One image, one channel, one picture at a time."""
    result = []
    for image, target in zip(images, TARGET, strict=True):
        features = model(image[None]).features[0][0]
        scores = []
        for channel in features:
            mask = F.interpolate(channel[None, None], image.shape[-2:], mode="bilinear")[0]
            spread = mask.max() - mask.min()
            mask = (mask - mask.min()) / spread if spread > 0 else torch.zeros_like(mask)
            draws = noise((samples, 1, *image.shape[-2:])) * SS_STD
            total = torch.zeros(())
            for i in range(samples):
                seen = {"score_cam": mask, "ss_cam": mask + draws[i], "is_cam": mask * (i + 1) / samples}[name]
                total = total + model((seen * image)[None]).logits[0, target]
            scores.append(total / samples)
        weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        result.append(sum(w * f for w, f in zip(weights, features, strict=True))[None])
    return torch.stack(result)


@pytest.mark.parametrize(("name", "samples"), [("score_cam", 1), ("ss_cam", 3), ("is_cam", 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_loop_twin(name, samples, stride):
    model = Toy(stride)
    torch.testing.assert_close(
        maps(name, model, pictures(), samples=samples), twin(name, model, pictures(), samples), atol=1e-5, rtol=1e-4
    )


def test_smooth_grad_cam_pp_loop_twin():
    model, images, samples = Toy(), pictures(), 3
    draws = noise((samples, *images.shape[1:])) * SMOOTH_STD
    for b in range(3):
        features = model(images[b : b + 1]).features[0][0].detach()
        slopes = []
        for draw in draws:
            output = model((images[b] + draw)[None])
            (gradient,) = torch.autograd.grad(output.logits[0, TARGET[b]], output.features[0])
            slopes.append(gradient[0])
        first, second, third = (sum(g**p for g in slopes) / samples for p in (1, 2, 3))
        expected = torch.zeros_like(features[0])
        for k, channel in enumerate(features):
            weight = 0.0
            for y in range(8):
                for x in range(8):
                    if second[k, y, x] > 0:
                        alpha = second[k, y, x] / (2 * second[k, y, x] + channel.sum() * third[k, y, x])
                        weight += alpha * max(first[k, y, x], 0)
            expected += weight * channel
        torch.testing.assert_close(
            maps("smooth_grad_cam_pp", model, images, samples=samples)[b, 0], expected, atol=1e-6, rtol=1e-4
        )


def test_smooth_grad_cam_pp_without_noise_is_grad_cam_pp(monkeypatch):
    monkeypatch.setattr("mien.explain.perturbation.SMOOTH_STD", 0.0)
    model, images = Toy(), pictures()
    output = model(images)
    (gradient,) = torch.autograd.grad(output.logits.gather(1, TARGET[:, None]).sum(), output.features[0])
    torch.testing.assert_close(
        maps("smooth_grad_cam_pp", model, images), grad_cam_pp(output.features[0], gradient).detach()
    )


def test_is_cam_ends_at_score_cam():
    model, images = Toy(), pictures()
    assert torch.equal(maps("is_cam", model, images, samples=1), maps("score_cam", model, images))
    assert torch.equal(maps("is_cam", model, images), maps("is_cam", model, images, samples=IS_SAMPLES))


def test_occlusion_is_captums():
    """Cells of 2 x 2 pixels over the picture's mean colour, side by side."""
    from captum.attr import Occlusion

    model, images = Toy(2), pictures()
    found = maps("occlusion", model, images, samples=4)
    theirs = Occlusion(Logits(model).eval()).attribute(
        images,
        (3, 2, 2),
        strides=(3, 2, 2),
        target=TARGET,
        baselines=images.mean((2, 3), keepdim=True).expand_as(images),
    )
    assert found.shape == (3, 1, 4, 4)
    torch.testing.assert_close(found, theirs[:, :1, ::2, ::2], atol=1e-5, rtol=1e-4)


def test_occlusion_needs_answers_alone():
    class Answers(nn.Module):
        def forward(self, images):
            return Output(images.mean((2, 3)), (), None)

    assert explain(Answers(), pictures(), 0, ("occlusion",))["occlusion"].shape == (3, 1, 8, 8)
    for name in ("grad_cam", "score_cam", "cam"):
        with pytest.raises(UsageError, match=f"{name}: of this model only answers are known"):
            explain(Answers(), pictures(), 0, (name,))


@pytest.mark.parametrize("name", PERTURBATION_MAPS)
def test_neither_batch_nor_chunk_nor_a_second_call_matters(name):
    model, images = Toy(2), pictures()
    whole = maps(name, model, images, samples=3)
    for chunk in (1, 5, 1000):
        torch.testing.assert_close(maps(name, model, images, samples=3, chunk=chunk), whole)
    alone = explain(model, images[1:2], 2, (name,), sampling=Sampling(samples=3))[name]
    torch.testing.assert_close(alone, whole[1:2])
    if name in ("smooth_grad_cam_pp", "ss_cam"):
        assert not torch.allclose(maps(name, model, images, samples=3, seed=1), whole)


@pytest.mark.parametrize("name", PERTURBATION_MAPS)
def test_constant_and_dead_channels_are_finite(name):
    model = Toy()
    nn.init.zeros_(model.body[2].weight[:2])
    nn.init.constant_(model.body[2].bias[:1], 1.0)
    nn.init.constant_(model.body[2].bias[1:2], -1.0)
    assert maps(name, model, pictures(), samples=2).isfinite().all()
    assert maps(name, model, torch.zeros(3, 3, 8, 8), samples=2).isfinite().all()


@pytest.mark.parametrize(("name", "theirs"), [("score_cam", "ScoreCAM"), ("is_cam", "ISCAM")])
def test_torchcam(name, theirs):
    """torch-cam normalises before resizing, the paper after it: the same where nothing is resized. One step of IS-CAM
    is Score-CAM in both; with more, torch-cam 0.5.0 adds the steps up to 5.5 times the mask.
    """
    import torchcam.methods

    model, images = Toy(), pictures()
    options = {"num_samples": 1} if name == "is_cam" else {}
    with getattr(torchcam.methods, theirs)(
        Logits(model).eval(), "model.body", input_shape=(3, 8, 8), **options
    ) as extractor:
        with torch.no_grad():
            extractor.model(images)
        other = extractor(TARGET.tolist(), normalized=False)[0].unsqueeze(1)
    torch.testing.assert_close(maps(name, model, images, samples=1).relu(), other, atol=1e-5, rtol=1e-4)


def test_torchcam_smooth(monkeypatch):
    """Its weights, for one noisy image, whose gradient is the last and the mean one. Its map, unlike the paper's, then
    multiplies them with the activations of the noisy image, which stayed in its hook.
    """
    import torchcam.methods

    model, images = Toy(), pictures()
    with torchcam.methods.SmoothGradCAMpp(
        Logits(model).eval(), "model.body", num_samples=1, input_shape=(3, 8, 8)
    ) as extractor:
        draw = noise(tuple(images.shape[1:])) * SMOOTH_STD
        monkeypatch.setattr(extractor._distrib, "sample", lambda shape: draw.expand(shape))
        extractor.model(images)
        weights = extractor._get_weights(TARGET.tolist())[0][..., None, None]
    ours = maps("smooth_grad_cam_pp", model, images, samples=1)
    features = model(images).features[0].detach()
    torch.testing.assert_close(ours, (weights * features).sum(1, keepdim=True), atol=1e-4, rtol=1e-3)


def test_torchcam_ss(monkeypatch):
    import torchcam.methods

    model, images = Toy(), pictures()
    with torchcam.methods.SSCAM(Logits(model).eval(), "model.body", num_samples=2, input_shape=(3, 8, 8)) as extractor:
        draws = iter(noise((2, 1, 8, 8)) * SS_STD)
        monkeypatch.setattr(extractor._distrib, "sample", lambda shape: next(draws).expand(shape))
        with torch.no_grad():
            extractor.model(images)
        other = extractor(TARGET.tolist(), normalized=False)[0].unsqueeze(1)
    torch.testing.assert_close(maps("ss_cam", model, images, samples=2).relu(), other, atol=1e-5, rtol=1e-4)


def test_pytorch_grad_cam_score():
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = Toy(), pictures()
    targets = [ClassifierOutputTarget(int(k)) for k in TARGET]
    with ScoreCAM(Logits(model).eval(), [model.body]) as extractor:
        features = model(images).features[0].detach().numpy()
        weights = torch.from_numpy(extractor.get_cam_weights(images, None, targets, features, None))
    other = (weights[..., None, None] * torch.from_numpy(features)).sum(1, keepdim=True)
    torch.testing.assert_close(maps("score_cam", model, images), other, atol=1e-5, rtol=1e-4)
