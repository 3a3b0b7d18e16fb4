"""`mien.guide`: the guided loss in somebody else's loop."""

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from other_nets import WORDS, Flat, Small, vit

import mien
from mien import maps
from mien.compat import ensure_torchvision
from mien.config import AugmentConfig
from mien.cues import CueConfig, render_cue
from mien.errors import DataError, UsageError
from mien.faces.landmarks import FLIP

NAMES = ("Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise")
IN_SCHEME = {"Neutral": 0, "Happiness": 1, "Surprise": 2, "Fear": 3, "Anger": 4, "Disgust": 5, "Sadness": 6}


def batch(side: int = 32):
    rng = np.random.default_rng(0)
    points = np.stack([tiny.points(side) + rng.normal(0, 1, 2) for _ in range(7)]).astype(np.float32)
    points[6] = np.nan
    images = torch.rand(7, 3, side, side, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(7), torch.from_numpy(points)


def test_the_term_is_one_minus_the_cosine_over_faces_with_a_cue():
    torch.manual_seed(0)
    net = Small().train()
    guide = mien.guide(net, WORDS, layer="second", weight=3.0)
    images, labels, landmarks = batch()
    answer, extra = guide(images, labels, landmarks)
    torch.testing.assert_close(answer, net(images))
    grid = net.second(net.act(net.first(images)))
    total, count = 0.0, 0
    for k in range(7):  # a loop, face by face
        label = torch.tensor([IN_SCHEME[NAMES[k]]])
        cue = render_cue(CueConfig(), landmarks[k : k + 1], label, image_size=(32, 32), size=(8, 8))
        if cue.valid:
            total, count = total + 1 - maps.cosine(grid[k : k + 1].mean(1, keepdim=True), cue.maps).item(), count + 1
    assert count == 5, "Neutral has no cue, the last face no landmarks"
    assert extra.item() == pytest.approx(3 * total / count, abs=1e-5)
    assert (guide.guided, guide.seen) == (5, 7)


@pytest.mark.parametrize("make", [Small, vit])
def test_training_raises_the_alignment(make):
    torch.manual_seed(0)
    net = make()
    guide = mien.guide(net, WORDS)
    images, labels, landmarks = batch()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    terms = []
    for _ in range(15):
        answer, extra = guide(images, labels, landmarks)
        optimizer.zero_grad()
        (F.cross_entropy(answer, labels) + extra).backward()
        optimizer.step()
        terms.append(extra.item())
    assert terms[-1] < 0.9 * terms[0]
    assert net.training
    assert not any("forward" in part.__dict__ for part in net.modules())


def test_tuples_and_a_call_of_ones_own_and_soft_labels():
    images, labels, landmarks = batch()
    net = Small("dict")
    answer, extra = mien.guide(net, WORDS, call=lambda x: net(x))(images, labels, landmarks)
    assert set(answer) == {"features", "logits"}
    soft = mien.guide(net, WORDS)(images, F.one_hot(labels, 7).float(), landmarks)[1]
    torch.testing.assert_close(extra, soft)


def test_flips_and_crops_carry_the_landmarks():
    """Bright dots on the landmarks stay under them; a flip swaps left and right points."""
    side = 64
    images, landmarks = torch.zeros(4, 1, side, side), torch.from_numpy(np.stack([tiny.points(side)] * 4))
    for x, y in landmarks[0, 36:48].round().long():
        images[:, 0, y, x] = 1.0
    guide = mien.guide(Small(channels=1), WORDS)
    moved, points = guide.change(images, landmarks, generator=torch.Generator().manual_seed(3))
    for picture, own in zip(moved[:, 0], points, strict=True):
        near = [
            picture[int(y.round()) - 1 : int(y.round()) + 2, int(x.round()) - 1 : int(x.round()) + 2].max()
            for x, y in own[36:48]
        ]
        assert min(near) > 0.15
    flipped, points = guide.change(images, landmarks, AugmentConfig(flip=1.0, rotation=0.0, translate=0.0, scale=0.0))
    torch.testing.assert_close(flipped, images.flip(-1))
    torch.testing.assert_close(points[0, 36, 0], side - 1 - landmarks[0, FLIP[36], 0])


def test_mistakes_are_one_line():
    images, labels, landmarks = batch()
    with pytest.raises(UsageError, match="this net cannot be guided"):
        mien.guide(Flat(), WORDS)(images, labels, landmarks)
    with pytest.raises(DataError, match=r"expected \(7, 68, 2\)"):
        mien.guide(Small(), WORDS)(images, labels, landmarks[:, :5])
    with pytest.raises(DataError, match="label 7 is beyond the 7 classes"):
        mien.guide(Small(), WORDS)(images, labels + 1, landmarks)
    with pytest.raises(UsageError, match="unknown layer 'fourth'"):
        mien.guide(Small(), WORDS, layer="fourth")
    with pytest.raises(UsageError, match="needs more than landmarks"):
        mien.guide(Small(), WORDS, cue=CueConfig(kind="saliency"))


def test_labels_and_landmarks_in_other_forms():
    images, labels, landmarks = batch()
    torch.manual_seed(0)
    net = Small()
    expected = mien.guide(net, WORDS)(images, labels, landmarks)[1]
    for same in (labels[:, None], labels.int(), labels.float(), labels.tolist(), labels.numpy()):
        torch.testing.assert_close(mien.guide(net, WORDS)(images, same, landmarks)[1], expected)
    torch.testing.assert_close(mien.guide(net, WORDS)(images, labels, landmarks.double().numpy())[1], expected)
    moved, points = mien.guide(net, WORDS).change(images, landmarks.double())
    assert moved.dtype == points.dtype == torch.float32
    for wrong in (labels[:3], labels + 0.5, F.one_hot(labels, 9)):
        with pytest.raises(DataError, match="labels have shape"):
            mien.guide(net, WORDS)(images, wrong, landmarks)
    with pytest.raises(DataError, match="uint8"):
        mien.guide(net, WORDS).change((255 * images).byte(), landmarks)
    with pytest.raises(UsageError, match="unknown similarity"):
        mien.guide(net, WORDS, similarity="sine")
    with pytest.raises(UsageError, match="weight is -1"):
        mien.guide(net, WORDS, weight=-1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_validation_step_may_come_first(mode):
    net = Small()
    guide = mien.guide(net, WORDS)
    with mode():
        before = guide(*batch())[1]
    torch.testing.assert_close(guide(*batch())[1], before)


def test_lightning(tmp_path):
    ensure_torchvision()
    lightning = pytest.importorskip("pytorch_lightning")
    images, labels, landmarks = batch()

    class Guided(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Small()
            self.guide = mien.guide(self.net, WORDS)

        def training_step(self, batch, index):
            answer, extra = self.guide(*batch)
            return F.cross_entropy(answer, batch[1]) + extra

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = Guided()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels, landmarks), batch_size=4)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **quiet).fit(model, loader)
    assert model.guide.guided == 5


def test_the_trainer_of_hugging_face(tmp_path):
    ensure_torchvision()
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    images, labels, landmarks = batch()
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        id2label=dict(enumerate(WORDS)),
    )  # fmt: skip
    net = transformers.ViTForImageClassification(config)

    class Guided(transformers.Trainer):
        guide = mien.guide(net, config.id2label, call=lambda x: net(pixel_values=x))

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            answer, extra = self.guide(inputs["pixel_values"], inputs["labels"], inputs["landmarks"])
            loss = F.cross_entropy(answer.logits, inputs["labels"]) + extra
            return (loss, answer) if return_outputs else loss

    rows = [{"pixel_values": i, "labels": k, "landmarks": p} for i, k, p in zip(images, labels, landmarks, strict=True)]
    settings = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=7, report_to="none", remove_unused_columns=False,
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    Guided(net, settings, train_dataset=rows).train()
    assert Guided.guide.guided == 10
    model = mien.wrap(net)
    assert model.size == 32
    assert model.classes == NAMES
    assert model.layer.endswith("layernorm_before") or "norm" in model.layer
