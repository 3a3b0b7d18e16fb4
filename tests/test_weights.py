"""Weights under the names that publishers use, and pictures as those weights expect them."""

import re
import typing
from pathlib import Path

import narrow_nets
import numpy as np
import pytest
import tiny
import torch

from mien.config import ModelConfig
from mien.data.loader import Loader
from mien.data.store import open_store
from mien.data.transforms import normalise
from mien.errors import DataError, UsageError
from mien.models import create_model
from mien.models.weights import load_initial
from mien.schema import PREPROCESSING
from mien.training.loop import fit

assert narrow_nets
ROOT = Path(__file__).parent.parent
RESNET = ModelConfig(backbone="resnet10t", size=32, channels=[8, 8, 8, 8])


def donor_of(config: ModelConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return dict(create_model(config, 7).backbone.net.state_dict())


def loads(config: ModelConfig, state: object, path: Path, donor: dict[str, torch.Tensor]) -> bool:
    torch.save(state, path)
    torch.manual_seed(8)
    model = create_model(ModelConfig(config.backbone, size=config.size, channels=config.channels, weights=path), 7)
    return all(torch.equal(value, donor[name]) for name, value in model.backbone.net.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_resnet_names_with_any_prefix_wrapper_and_classifier(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    donor = donor_of(RESNET)
    state = {f"{prefix}{name}": value for name, value in donor.items() if not name.endswith("num_batches_tracked")}
    state |= {f"{prefix}fc.weight": torch.zeros(1000, 8), f"{prefix}fc.bias": torch.zeros(1000)}
    whole = {"epoch": 3, wrapper: state} if wrapper else state
    assert loads(RESNET, whole, tmp_path / "w.pth", donor)


@pytest.mark.parametrize("style", ["features.{k}", "conv{b}_{n}", "conv_{b}_{n}.0", "module.conv{b}_{n}"])
def test_vgg_names(style: str, tmp_path: Path) -> None:
    """torchvision's features.0 and VGGFace's conv1_1; the dense layers of the file are ignored."""
    config = ModelConfig(backbone="narrow_vgg", size=32)
    donor = donor_of(config)
    places = {(1, 1): 0, (2, 1): 3, (3, 1): 6, (3, 2): 8, (4, 1): 11, (4, 2): 13, (5, 1): 16, (5, 2): 18}
    state = {"fc6.weight": torch.zeros(8, 8), "classifier.0.weight": torch.zeros(8, 8)}
    for (block, number), k in places.items():
        for kind in ("weight", "bias"):
            state[f"{style.format(k=k, b=block, n=number)}.{kind}"] = donor[f"features.{k}.{kind}"]
    assert loads(config, state, tmp_path / "w.pth", donor)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16"])
def test_torchvision_names_and_features_are_the_same(name: str, tmp_path: Path) -> None:
    import torchvision

    theirs = getattr(torchvision.models, name)().eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = create_model(ModelConfig(backbone=name, size=64, weights=tmp_path / "w.pth"), 7).eval()
    images = torch.randn(1, 3, 64, 64)
    body = theirs.features[:-1] if name == "vgg16" else torch.nn.Sequential(*list(theirs.children())[:-2])
    assert torch.allclose(model(images).features[-1], body(images), atol=1e-4)


def test_weights_of_a_run(tmp_path: Path) -> None:
    """Train on one data set, start on the next from its best checkpoint."""
    recipe = tiny.recipe(tiny.store(tmp_path / "s", each=3).path, optim={"epochs": 1})
    fit(recipe, tmp_path / "run")
    again = tiny.recipe(tmp_path / "s", model={"weights": tmp_path / "run" / "best.ckpt"}).model
    from mien.training.checkpoint import load_model

    trained = load_model(tmp_path / "run")[0].backbone.state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in create_model(again, 7).backbone.state_dict().items())


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([1, 2], "list"),
        ({"conv1.weight": torch.zeros(1)}, "of another shape (conv1.weight)"),
        ({"features.0.weight": torch.zeros(1)}, "tensors missing"),
        ({"state_dict": {}}, "tensors missing"),
    ],
)
def test_files_that_do_not_fit(state: object, words: str, tmp_path: Path) -> None:
    config = ModelConfig(backbone="resnet10t", size=32)
    donor = create_model(config, 7).backbone.net.state_dict()
    first = next(iter(donor))
    if isinstance(state, dict) and "conv1.weight" in state:
        state, words = {**donor, first: torch.zeros(1)}, f"1 of another shape ({first})"
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        create_model(ModelConfig(backbone="resnet10t", size=32, weights=tmp_path / "w.pth"), 7)
    assert "w.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pretrained_without_network_says_what_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*arguments, **options):
        raise FileNotFoundError("cannot reach the hub\nsecond line")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DataError) as caught:
        create_model(ModelConfig(backbone="resnet50", pretrained=True), 7)
    message = str(caught.value)
    assert "\n" not in message
    assert all(words in message for words in ("timm/resnet50", "model.safetensors", "--model.weights"))


def test_pretrained_weights_are_fed_what_they_expect() -> None:
    with pytest.raises(UsageError, match=r"expect model\.preprocessing half, not imagenet"):
        create_model(ModelConfig(backbone="inception_v3", size=112, pretrained=True), 7)
    with pytest.raises(UsageError, match=r"expect model\.preprocessing imagenet, not half"):
        create_model(ModelConfig(backbone="resnet50", pretrained=True, preprocessing="half"), 7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet", [(100 / 255 - 0.485) / 0.229, (150 / 255 - 0.456) / 0.224, (200 / 255 - 0.406) / 0.225]),
        ("vggface2", [100 - 131.0912, 150 - 103.8827, 200 - 91.4953]),
        ("vggface", [200 - 93.5940, 150 - 104.7624, 100 - 129.1863]),
        ("half", [100 / 127.5 - 1, 150 / 127.5 - 1, 200 / 127.5 - 1]),
    ],
)
def test_preprocessing_of_one_pixel(name: str, expected: list[float]) -> None:
    pixel = torch.tensor([100, 150, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(pixel, name).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_config_names_every_preprocessing() -> None:
    assert typing.get_args(typing.get_type_hints(ModelConfig)["preprocessing"]) == tuple(PREPROCESSING)


def test_every_way_to_a_model_uses_the_preprocessing_of_the_run(tmp_path: Path) -> None:
    """Loader passes it on, and no call in the package forgets it."""
    store = open_store(tiny.store(tmp_path / "s", each=1).path)
    labels = np.zeros(len(store), np.int64)
    batches = {
        name: next(iter(Loader(store, np.arange(2), labels, size=32, batch=2, device=torch.device("cpu"),
                               preprocessing=name))) for name in PREPROCESSING
    }  # fmt: skip
    pixels = torch.from_numpy(store.images(np.arange(2))).permute(0, 3, 1, 2)
    assert all(torch.equal(batch.images, normalise(pixels, name)) for name, batch in batches.items())
    for path in (ROOT / "mien").rglob("*.py"):
        text = path.read_text()
        for call in re.findall(r"\b(?:Loader|normalise)\((?:[^()]|\([^()]*\))*\)", text):
            assert "preprocessing" in call or "images: Tensor" in call, f"{path.name}: {call}"


def test_a_packed_net_is_unpacked_before_it_is_a_start(tmp_path):
    """The bundled nets hold a byte a weight and a scale a channel; read as they are, logits were hundreds of times too large."""
    import tiny

    from mien.models import create_model
    from mien.models.packed import pack
    from mien.training import checkpoint

    recipe = tiny.recipe(tmp_path)
    one, other = create_model(recipe.model, 7), create_model(recipe.model, 7)
    state = {f"model/{name}": value for name, value in one.state_dict().items()}
    checkpoint.save_tensors(tmp_path / "packed.ckpt", pack(state), {})
    load_initial(other, tmp_path / "packed.ckpt", "keep")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name].float(), value.float(), rtol=0.01, atol=0.01, msg=name)
