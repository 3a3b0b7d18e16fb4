"""Gradients in channels_last are those of the contiguous net. Each case runs in a process of its own: the fault that it
was written for (torch 2.13 on CPU) crashes the process, hangs it, or gives wrong numbers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mien.models.memory_format import StridedPointwise, is_unsafe

ROOT = Path(__file__).parent.parent

CONVOLUTIONS = """
import torch
from torch import nn
from mien.models.memory_format import to_channels_last

def gradient(conv, images, prepare, memory_format):
    net = nn.Sequential(nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride, conv.padding))
    net.load_state_dict({f"0.{name}": value for name, value in conv.state_dict().items()})
    prepare(net)
    out = net(images.contiguous(memory_format=memory_format))
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return [out.detach(), *(p.grad for p in net.parameters())]

torch.manual_seed(0)
for channels in range(1, 9):
    for stride in (2, 3, (2, 1), 4):
        for padding in (0, 1):
            conv = nn.Conv2d(channels, 12, 1, stride, padding)
            images = torch.randn(4, channels, 17, 16)
            plain = gradient(conv, images, lambda net: None, torch.contiguous_format)
            for one, two in zip(plain, gradient(conv, images, to_channels_last, torch.channels_last), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
"""

STEP = """
import sys
import torch
from mien.config import ModelConfig
from mien.models import create_model
from mien.models.memory_format import is_unsafe

name, size, head, options = sys.argv[1], int(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
grey = name == "simple_cnn"
model = create_model(ModelConfig(name, size=size, head=head, preprocessing="grey" if grey else "imagenet", **options), 7)
assert not any(map(is_unsafe, model.modules()))
torch.manual_seed(0)
images = torch.randn(2, 1 if grey else 3, size, size)
found, state = [], {key: value.clone() for key, value in model.state_dict().items()}
for memory_format in (torch.channels_last, torch.contiguous_format):
    model.load_state_dict(state)
    model.to(memory_format=memory_format)
    model.eval()  # the same numbers twice: no drop-out, no batch statistics
    model.zero_grad()
    model(images.contiguous(memory_format=memory_format)).logits.square().sum().backward()
    found.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    model.train()
    model(images.contiguous(memory_format=memory_format)).logits.square().sum().backward()
for key, one in found[0].items():
    scale = float(found[1][key].abs().max())
    torch.testing.assert_close(one, found[1][key], rtol=1e-3, atol=1e-3 * scale + 1e-6, msg=key)
"""

NARROW_APVIT = (
    "{'backbone_options': {'embed_dim': 24, 'depth': 4, 'num_heads': 2, 'trunk_layers': 18, 'trunk_width': 4}}"
)


def run(code: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-2000:]}"


def test_strided_pointwise_convolutions():
    run(CONVOLUTIONS)


def test_what_is_replaced():
    assert is_unsafe(nn.Conv2d(3, 48, 1, 2))
    assert not is_unsafe(nn.Conv2d(8, 48, 1, 2))
    assert not is_unsafe(nn.Conv2d(3, 48, 1))
    assert not is_unsafe(nn.Conv2d(3, 48, 3, 2))
    conv = nn.Conv2d(3, 4, 1, 2, bias=False)
    assert StridedPointwise(conv).state_dict().keys() == conv.state_dict().keys()
    images = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(StridedPointwise(conv)(images), conv(images))


@pytest.mark.slow
def test_nets_of_the_kind_train():
    run(STEP, "repvgg_a0", "64", "gap", "{}")
    run(STEP, "apvit", "112", "cls", NARROW_APVIT)


NETS = [
    "mobileone_s0", "fastvit_t8", "resnet10t", "resnet18", "resnet34", "resnet50", "resnet101", "vgg11", "vgg16", "inception_v3",
    "efficientnet_b0", "densenet121", "convnext_atto", "convnext_tiny", "mobilenetv3_small_050", "mobilenetv4_conv_small",
    "regnetx_002", "regnety_016", "seresnet18", "ghostnet_050", "edgenext_xx_small", "poolformer_s12", "simple_cnn",
    "test_resnet", "swin_tiny_patch4_window7_224", "mambaout_femto", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224",
]  # fmt: skip
"""One or more of every family that recipes and documents name."""
TOKEN_NETS = [
    "deit_tiny_patch16_224", "deit_small_patch16_224", "deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_backbone_trains_in_both_formats(name):
    size = {"inception_v3": "128", "simple_cnn": "40", "eva02_tiny_patch14_224": "56"}.get(name, "64")
    run(STEP, name, size, "flat" if name == "simple_cnn" else "gap", "{}")


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKEN_NETS)
def test_every_token_net_trains_in_both_formats(name):
    run(STEP, name, "224", "cls", "{}")
