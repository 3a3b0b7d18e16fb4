import copy

import pytest
import torch
from torch import Tensor, nn

from mien.compat import ensure_torchvision
from mien.config import ModelConfig
from mien.errors import UsageError
from mien.explain import (
    CAM_FAMILY,
    EXPLAINERS,
    GRADIENT_MAPS,
    LAYERLESS,
    PERTURBATION_MAPS,
    TOKEN_MAPS,
    Sampling,
    cam,
    cam_family,
    evidence,
    explain,
    explain_with_output,
    fitting,
    gap_weight,
    gradients,
    method_names,
)
from mien.explain.builtin import SAME_AS
from mien.maps import min_max
from mien.models import HEADS, Classifier, create_model
from mien.schema import Output

ensure_torchvision()
import timm  # noqa: E402

BACKBONES = ("test_resnet", "test_efficientnet", "test_convnext", "test_vit")


class Tiny(nn.Module):
    """timm features, mean, linear: the model contract without the rest of the package."""

    def __init__(self, backbone: str = "test_resnet", classes: int = 7, seed: int = 0, mlp: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = timm.create_model(backbone, num_classes=0, global_pool="")
        self.channels = self.backbone.num_features
        self.mlp = nn.Sequential(nn.Linear(self.channels, self.channels), nn.Tanh()) if mlp else None
        self.head = nn.Linear(self.channels, classes)

    def forward(self, images: Tensor) -> Output:
        final, layers = self.backbone.forward_intermediates(images)
        if final.dim() == 3:
            h, w = layers[-1].shape[-2:]
            final = final[:, final.shape[1] - h * w :].transpose(1, 2).unflatten(2, (h, w))
        pooled = final.mean(dim=(2, 3))
        logits = self.head(pooled if self.mlp is None else self.mlp(pooled))
        maps = torch.einsum("kc,bchw->bkhw", self.head.weight, final) if self.mlp is None else None
        return Output(logits, (*layers[:-1], final), maps)


class Logits(nn.Module):
    def __init__(self, model: Tiny) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def size_of(backbone: str) -> int:
    return 160 if "vit" in backbone else 96


def setup(backbone: str = "test_resnet", batch: int = 3) -> tuple[Tiny, Tensor, Tensor]:
    model = Tiny(backbone).eval()
    images = torch.randn(batch, 3, size_of(backbone), size_of(backbone), generator=torch.Generator().manual_seed(1))
    return model, images, torch.arange(batch) % 7


def alike(first: Tensor, second: Tensor, tolerance: float = 1e-5) -> None:
    scale = second.abs().amax().clamp_min(1e-12)
    assert ((first - second).abs().amax() / scale).item() < tolerance


# twins: loops, written from the papers


def twin(name: str, features: Tensor, gradient: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    result = torch.zeros(batch, 1, height, width, dtype=features.dtype)
    for b in range(batch):
        for k in range(channels):
            f, g = features[b, k], gradient[b, k]
            weight = 0.0
            for y in range(height):
                for x in range(width):
                    if name == "grad_cam":
                        weight += g[y, x] / (height * width)
                    elif name == "grad_cam_pp" and g[y, x] != 0:
                        alpha = g[y, x] ** 2 / (2 * g[y, x] ** 2 + f.sum() * g[y, x] ** 3)
                        weight += alpha * max(g[y, x], 0)
                    elif name == "grad_cam_pp_as_coded":
                        weight += g[y, x] ** 2 * max(g[y, x], 0)
                    elif name == "xgrad_cam":
                        weight += g[y, x] * f[y, x] / f.sum()
            for y in range(height):
                for x in range(width):
                    by_place = {"layer_cam": max(g[y, x], 0), "hires_cam": g[y, x]}
                    w = by_place.get(name, weight)
                    if name == "grad_input":
                        result[b, 0, y, x] += abs(g[y, x] * f[y, x]) / channels
                    else:
                        result[b, 0, y, x] += w * f[y, x]
    return result


@pytest.mark.parametrize("name", GRADIENT_MAPS)
def test_loop_twin(name):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    gradient = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    gradient[0, 1] = 0
    torch.testing.assert_close(GRADIENT_MAPS[name](features, gradient), twin(name, features, gradient))


def test_by_hand():
    """2 channels of 1x2, W = (2, -1): answers computable on paper."""
    features = torch.tensor([[[[1.0, 3.0]], [[4.0, 0.0]]]])
    output = Output(torch.zeros(1, 1), (features,), None)
    maps = cam_family(output, torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
    assert maps["cam"].flatten().tolist() == [-2, 6]
    assert maps["grad_cam"].flatten().tolist() == [-1, 3]
    assert maps["layer_cam"].flatten().tolist() == [1, 3]
    torch.testing.assert_close(maps["grad_cam_pp"].flatten(), torch.tensor([1.0, 3.0]) * 2 / (2 + 2 * 2))


# closed form == autograd


@pytest.mark.parametrize("backbone", BACKBONES)
def test_closed_form_is_autograd(backbone):
    model, images, target = setup(backbone)
    output = model(images)
    gradient = gradients(output.logits.gather(1, target[:, None]), output.features[-1])
    closed = cam_family(output, model.head.weight, target)
    assert tuple(closed) == CAM_FAMILY
    ours = explain(model, images, target, ("cam", *GRADIENT_MAPS, "smooth_grad_cam_pp"))
    for name, function in GRADIENT_MAPS.items():
        assert ours[name].shape == (3, 1, *output.features[-1].shape[-2:])
        tolerance = 1e-3 if name == "xgrad_cam" else 1e-5  # divides by sums that nearly cancel in a net without ReLU
        alike(ours[name], function(output.features[-1], gradient), tolerance)
        if name != "grad_input":
            assert torch.equal(ours[name], closed[SAME_AS.get(name, name)])
    alike(ours["cam"], cam(output, target))
    assert torch.equal(ours["smooth_grad_cam_pp"], closed["grad_cam_pp"])


def test_general_route_with_another_head():
    """A head with a hidden layer: no closed form, autograd takes over; layers below too."""
    model = Tiny(mlp=True).eval()
    _, images, target = setup()
    output = model(images)
    assert gap_weight(model, output) is None
    for layer, feature in ((-1, output.features[-1]), (2, output.features[1])):
        maps = explain(model, images, target, tuple(GRADIENT_MAPS), layer)
        gradient = gradients(output.logits.gather(1, target[:, None]), feature)
        for name, function in GRADIENT_MAPS.items():
            alike(maps[name], function(feature, gradient))
    with pytest.raises(UsageError, match="no class activation maps"):
        explain(model, images, target, ("cam",))


def test_closed_form_is_refused_where_it_does_not_hold():
    model, images, _ = setup()
    output = model(images)
    assert gap_weight(model, output) is model.head.weight
    assert gap_weight(model, output._replace(logits=output.logits + 1)) is None


# other libraries


@pytest.mark.parametrize("layer", [-1, -2])
def test_captum(layer):
    from captum.attr import LayerGradCam, LayerGradientXActivation

    model, images, target = setup()
    wrapped = Logits(model)
    module = model.backbone.layer4 if layer == -1 else model.backbone.layer3
    ours = explain(model, images, target, ("grad_cam", "hires_cam", "grad_input"), layer)
    alike(ours["grad_cam"], LayerGradCam(wrapped, module).attribute(images, target).detach())
    product = LayerGradientXActivation(wrapped, module).attribute(images, target).detach()
    alike(ours["hires_cam"], product.sum(1, keepdim=True))
    alike(ours["grad_input"], product.abs().mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("grad_cam", "GradCAM"),
        ("grad_cam_pp_as_coded", "GradCAMpp"),
        ("layer_cam", "LayerCAM"),
        ("xgrad_cam", "XGradCAM"),
    ],
)
def test_torchcam(name, theirs):
    """torch-cam 0.5.0 loses the denominator of Grad-CAM++ (it divides an indexed copy), like the published FER code."""
    import torchcam.methods

    model, images, target = setup()
    wrapped = Logits(model).eval()
    with getattr(torchcam.methods, theirs)(wrapped, "model.backbone.layer4") as extractor:
        scores = wrapped(images)
        other = extractor(target.tolist(), scores, normalized=False)[0].unsqueeze(1)
    ours = explain(model, images, target, (name,))[name].relu()
    alike(min_max(ours), min_max(other.relu()), 1e-4)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("grad_cam", "GradCAM"),
        ("grad_cam_pp", "GradCAMPlusPlus"),
        ("layer_cam", "LayerCAM"),
        ("xgrad_cam", "XGradCAM"),
        ("hires_cam", "HiResCAM"),
    ],
)
def test_pytorch_grad_cam(name, theirs):
    """Their raw map (`get_cam_image`) before ReLU, min-max and resize; logits are enlarged so that their fixed epsilon
    1e-6, which is as large as g^2 itself at ordinary scales, does not decide the answer.
    """
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images, target = setup()
    with torch.no_grad():
        model.head.weight.mul_(100)
    wrapped = Logits(model).eval()
    with getattr(pytorch_grad_cam, theirs)(wrapped, [model.backbone.layer4]) as extractor:
        targets = [ClassifierOutputTarget(int(k)) for k in target]
        extractor(images, targets)
        store = extractor.activations_and_grads
        arrays = [store.activations[0].detach().cpu().numpy(), store.gradients[0].cpu().numpy()]
        other = torch.from_numpy(extractor.get_cam_image(images, None, targets, *arrays, False)).unsqueeze(1)
    alike(explain(model, images, target, (name,))[name], other, 1e-3)


# properties of the whole table


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name not in TOKEN_MAPS])
@pytest.mark.parametrize("mlp", [False, True])
def test_properties(name, mlp):
    if mlp and name == "cam":
        return
    model = Tiny(mlp=mlp).eval()
    _, images, target = setup()
    model.backbone = timm.create_model("test_resnet", num_classes=0, global_pool="", channels=(4, 4, 6, 8))
    model.mlp, model.head = (nn.Linear(8, 8) if mlp else None), nn.Linear(8, 7)
    model.eval()
    sampling = Sampling(samples=2, chunk=5)
    maps = explain(model, images, target, (name,), sampling=sampling)[name]
    assert maps.shape[:2] == (3, 1)
    assert maps.isfinite().all()
    assert not maps.requires_grad
    one = [explain(model, images[i : i + 1], target[i : i + 1], (name,), sampling=sampling)[name] for i in range(3)]
    alike(maps, torch.cat(one))
    with torch.inference_mode():
        alike(explain(model, images.clone(), target, (name,), sampling=Sampling(2, chunk=64))[name], maps)
    assert (evidence(name, maps) == maps).all() or (EXPLAINERS[name].kind != "output" and maps.min() < 0)


def test_model_is_left_as_found():
    for mlp in (False, True):
        model = Tiny(mlp=mlp).train()
        model.backbone.layer4.eval()
        model.head.weight.requires_grad_(False)
        model.head.bias.grad = torch.full_like(model.head.bias, 3.0)
        before = copy.deepcopy(model.state_dict())
        modes = [m.training for m in model.modules()]
        flags = [p.requires_grad for p in model.parameters()]
        _, images, _ = setup()
        methods = (*GRADIENT_MAPS, "smooth_grad_cam_pp")
        explain(model, images, None, methods)
        with pytest.raises(UsageError):
            explain(model, images, 99, methods)
        assert [m.training for m in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == flags
        assert all(p.grad is None for n, p in model.named_parameters() if n != "head.bias")
        assert model.head.bias.grad.eq(3).all()
        assert not images.requires_grad
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_frozen_model_still_explains():
    model = Tiny(mlp=True).eval().requires_grad_(False)
    _, images, target = setup()
    assert explain(model, images, target, ("layer_cam",), 1)["layer_cam"].abs().sum() > 0


def test_one_pass_forward_and_one_back(monkeypatch):
    """All gradient maps and the output share a single forward and a single backward pass."""
    passes = {"forward": 0, "backward": 0}
    plain = torch.autograd.grad

    def counted(*args, **options):
        passes["backward"] += 1
        return plain(*args, **options)

    class Counting(Tiny):
        def forward(self, images: Tensor) -> Output:
            passes["forward"] += 1
            return super().forward(images)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    _, images, target = setup()
    model = Counting().eval()
    explain(model, images, target, ("cam", *GRADIENT_MAPS))
    assert passes == {"forward": 1, "backward": 0}
    model = Counting(mlp=True).eval()
    model.head = nn.Sequential(model.head)  # no linear head to be seen: the first pass already keeps its graph
    passes.update(forward=0, backward=0)
    output, maps = explain_with_output(model, images, target, tuple(GRADIENT_MAPS))
    assert passes == {"forward": 1, "backward": 1}
    assert not any(tensor.requires_grad for tensor in (output.logits, *output.features))
    assert set(maps) == set(GRADIENT_MAPS)


def test_what_fits_and_what_does_not():
    _, images, _ = setup()
    assert fitting(Tiny().eval(), images[:1]) == ["cam", "grad_cam", "grad_cam_pp", "layer_cam"]
    assert fitting(Tiny(mlp=True).eval(), images[:1]) == ["grad_cam", "grad_cam_pp", "layer_cam"]
    assert method_names(" cam, layer_cam,cam") == ["cam", "layer_cam"]
    with pytest.raises(UsageError, match="Did you mean 'xgrad_cam'"):
        method_names("cam,xgradcam")


CONVOLUTIONAL = [name for name in HEADS if name not in ("ts_cam", "cls")]


def whole(head: str, transformer: bool) -> Classifier:
    torch.manual_seed(0)
    if transformer:
        options: dict[str, bool | int | float] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8}
        config = ModelConfig(backbone="deit_tiny_patch16_224", backbone_options=options, head=head, size=32)
    else:
        net = {"backbone": "resnet10t", "stem_pool": False, "output_stride": 8, "channels": [8, 8, 8, 8]}
        narrow = {"acol": {"width": 8}, "mlp": {"hidden1": 8, "hidden2": 8}}.get(head, {})
        config = ModelConfig(head=head, size=32, head_options=narrow, **net)
    return create_model(config, 7)


@pytest.mark.parametrize(
    ("head", "transformer"), [*((h, False) for h in CONVOLUTIONAL), ("gap", True), ("ts_cam", True), ("cls", True)]
)
def test_every_head_with_every_method(head, transformer):
    """A method gives a finite map of the label's class at every head, or one line that says why not."""
    model = whole(head, transformer)
    images, sampling = torch.randn(2, 3, 32, 32), Sampling(samples=1)
    last = model.eval()(images).features[-1]
    missing = {name for name in EXPLAINERS if name not in fitting(model, images[:1], tuple(EXPLAINERS))}
    for name in EXPLAINERS:
        if name in missing:
            with pytest.raises(UsageError) as caught:
                explain(model, images, torch.tensor([1, 4]), (name,), sampling=sampling)
            assert "\n" not in str(caught.value)
        else:
            maps = explain(model, images, torch.tensor([1, 4]), (name,), sampling=sampling)[name]
            assert maps.shape == (2, 1, *((1, 1) if name in LAYERLESS else last.shape[-2:]))  # one sample: one cell
            assert maps.isfinite().all()
    expected = set() if transformer else set(TOKEN_MAPS)
    if head in ("mlp", "flat", "cls"):  # no class maps
        expected |= {"cam", "ts_cam"}
    if head == "cls":  # the last patch tokens lie beside the path
        expected |= {*GRADIENT_MAPS, "smooth_grad_cam_pp"}
    assert missing == expected


def test_the_layer_below_a_class_token():
    model, images = whole("cls", transformer=True), torch.randn(2, 3, 32, 32)
    maps = explain(model, images, 1, (*GRADIENT_MAPS, *PERTURBATION_MAPS), -2, Sampling(samples=1))
    maps.pop("occlusion")  # it asks no layer
    assert all(map_.shape == (2, 1, 4, 4) and map_.abs().sum() > 0 for map_ in maps.values())
    with pytest.raises(UsageError, match="-2 or lower where the head sees a class token alone"):
        explain(model, images, 1, ("layer_cam",))


def test_target():
    model, images, _ = setup()
    predicted = model(images).logits.argmax(1)
    alike(explain(model, images)["cam"], explain(model, images, predicted)["cam"])
    alike(explain(model, images, 2)["cam"], explain(model, images, torch.full((3,), 2))["cam"])
    for bad in (7, -1, torch.tensor([0, 1]), torch.tensor([0, 1, 9])):
        with pytest.raises(UsageError, match="target"):
            explain(model, images, bad)


def test_bad_input():
    model, images, _ = setup()
    with pytest.raises(UsageError, match="Did you mean 'grad_cam'"):
        explain(model, images, 0, ("gradcam",))
    with pytest.raises(UsageError, match="last layer only"):
        explain(model, images, 0, ("cam",), 1)
    for layer in (0, 6, -6):
        with pytest.raises(UsageError, match=f"layer: {layer} is not a layer of this backbone; it has 1 to 5"):
            explain(model, images, 0, ("grad_cam",), layer)
    for sampling in (Sampling(samples=0), Sampling(chunk=0)):
        with pytest.raises(UsageError, match="at least 1"):
            explain(model, images, 0, ("score_cam",), sampling=sampling)
    with torch.no_grad():
        output = model(images)
    with pytest.raises(UsageError, match="no gradient reaches"):
        gradients(output.logits[:, 0], output.features[-1])


def test_zero_denominator_is_finite():
    """W mean(F) = -2 exactly: alpha is 0 by decision, in both routes."""
    features = torch.full((1, 1, 2, 2), -1.0)
    closed = cam_family(Output(torch.zeros(1, 1), (features,), None), torch.tensor([[2.0]]), torch.tensor([0]))
    assert closed["grad_cam_pp"].abs().sum() == 0
    assert GRADIENT_MAPS["grad_cam_pp"](features, torch.full_like(features, 0.5)).abs().sum() == 0


def test_all_zero_features():
    output = Output(torch.zeros(2, 3), (torch.zeros(2, 4, 3, 3),), None)
    assert all(m.abs().sum() == 0 for m in cam_family(output, torch.randn(3, 4), torch.tensor([0, 1])).values())
