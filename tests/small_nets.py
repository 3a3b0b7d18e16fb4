"""A two-layer net in float64 with heads of every kind of gradient: small enough for finite differences."""

import torch
from torch import Tensor, nn

from mien.models import Classifier
from mien.models.heads import GapHead
from mien.schema import HeadOutput, Layers, LinearChain

CLASSES, SIDE = 3, 8
LABELS = torch.tensor([0, 2, 1, 2])


class Stack(nn.Module):
    """Two convolutions: layers of 4 channels 8x8 and 5 channels 4x4."""

    channels, sides = (4, 5), (SIDE, SIDE // 2)

    def __init__(self, inplace: bool = False, smooth: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.act = nn.Tanh() if smooth else nn.ReLU(inplace)

    def forward(self, images: Tensor) -> Layers:
        one = self.act(self.first(images))
        return Layers((one, self.act(self.second(one))))


class Mlp(nn.Module):
    """Linear, ReLU, linear on pooled or flattened features."""

    def __init__(self, pooled: bool = False, act: nn.Module | None = None, drop: float = 0.0) -> None:
        super().__init__()
        self.pooled, self.act, self.drop = pooled, act or nn.ReLU(), nn.Dropout(drop)
        self.hidden, self.last = nn.Linear(5 if pooled else 80, 12), nn.Linear(12, CLASSES)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        x = layers.features[-1]
        x = x.mean((2, 3)) if self.pooled else x.flatten(1)
        return HeadOutput(self.last(self.drop(self.act(self.hidden(x)))), None)

    def chain(self, features: Tensor) -> LinearChain | None:
        if not isinstance(self.act, nn.ReLU) or (self.training and self.drop.p):
            return None
        both = (self.hidden, self.last)
        return LinearChain(self.pooled, tuple(m.weight for m in both), tuple(m.bias for m in both))


def model_of(head: nn.Module, seed: int = 0, **options: bool) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier(Stack(**options), head).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


HEADS = {"gap": lambda: GapHead(5, CLASSES), "mlp": lambda: Mlp(), "pooled mlp": lambda: Mlp(pooled=True)}


def pictures(seed: int = 1) -> Tensor:
    return torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
