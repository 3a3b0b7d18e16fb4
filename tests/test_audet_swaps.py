"""Nets that swap: blocks of film and skip, the mask of where a face acts, and the terms on twins and swapped faces."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tiny_audet
import tiny_twins
import torch
from PIL import Image
from tiny_twins import TEXT, cfg

from mien.audet import audet
from mien.audet.cfg import CfgError
from mien.audet.check import read_cfg
from mien.audet.nets import AudetNet
from mien.audet.regions import BOXES, CORNERS, corners_of, inactive
from mien.audet.run import load_audet
from mien.audet.swap import bytes_of, swap_audet
from mien.audet.swap_terms import group_means, partners, regression_share, weighted_l1, within_share
from mien.audet.train import fit, train_audet
from mien.data.store import open_store
from mien.errors import DataError, UsageError


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    return tiny_twins.store(tmp_path_factory.mktemp("twins") / "store").path


def test_partners_are_of_the_group_and_another_face():
    groups, away = torch.tensor([0, 0, 1, 1, -1, 2, 0]), torch.tensor([5, 6, 7, 7, 8, 9, 6])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([partners(groups, away, 1.0, generator) for _ in range(50)])
    for row, taken in enumerate(drawn.T):
        others = [k for k in range(7) if k != row and groups[k] == groups[row] >= 0 and away[k] != away[row]]
        assert set(taken.tolist()) == set(others or [row])
    assert torch.equal(partners(groups, away, 0.0, generator), torch.arange(7))


def test_terms_are_what_their_words_say():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 2, 3, 4, 4, generator=generator)
    weights = torch.rand(2, 1, 4, 4, generator=generator) + 0.1
    total = norm = 0.0
    for b in range(2):
        for y in range(4):
            for x in range(4):
                total += (
                    float(weights[b, 0, y, x])
                    * sum(abs(float(one[b, c, y, x] - other[b, c, y, x])) for c in range(3))
                    / 3
                )
                norm += float(weights[b, 0, y, x])
    assert float(weighted_l1(one, other, weights)) == pytest.approx(total / norm, rel=1e-5)
    z, groups = torch.randn(7, 3, generator=generator), [0, 0, 1, 1, 1, 2, -1]
    kept = [k for k in range(7) if groups.count(groups[k]) > 1 and groups[k] >= 0]
    inside = outside = 0.0
    for d in range(3):
        mean = sum(float(z[k, d]) for k in kept) / len(kept)
        for k in kept:
            mine = [float(z[j, d]) for j in kept if groups[j] == groups[k]]
            inside += (float(z[k, d]) - sum(mine) / len(mine)) ** 2
            outside += (float(z[k, d]) - mean) ** 2
    assert float(within_share(z, group_means(torch.tensor(groups)))) == pytest.approx(inside / outside, rel=1e-5)
    assert float(within_share(10 * z, group_means(torch.tensor(groups)))) == pytest.approx(inside / outside, rel=1e-5)
    for alone in (torch.full((7,), -1), torch.tensor([3, 3, 3, 0, 1, 2, -1])):
        assert float(within_share(z, group_means(alone))) == 0
    wanted = z + torch.randn(7, 3, generator=generator)
    error = sum(float(z[k, d] - wanted[k, d]) ** 2 for k in range(7) for d in range(3))
    spread = sum(float(wanted[k, d] - wanted[:, d].mean()) ** 2 for k in range(7) for d in range(3))
    assert float(regression_share(z, wanted)) == pytest.approx(error / spread, rel=1e-5)
    assert float(regression_share(wanted.mean(0).expand(7, 3), wanted)) == pytest.approx(1)


def test_the_mask_turns_with_the_eyes():
    points = torch.full((1, 68, 2), float("nan"))
    points[0, list(CORNERS)] = torch.tensor([[10.0, 12], [14, 16], [18, 20], [22, 24]])  # a head tilted by 45 degrees
    mask = inactive(corners_of(points, 40), 40)[0, 0]
    middle, length = (16.5, 18.5), math.hypot(8, 8)
    for y in range(40):
        for x in range(40):
            away = (x + 0.5 - middle[0], y + 0.5 - middle[1])
            along, down = (away[0] + away[1]) / math.sqrt(2) / length, (away[1] - away[0]) / math.sqrt(2) / length
            inside = any(box[0] <= along <= box[1] and box[2] <= down <= box[3] for box in BOXES)
            near = any(abs(along - box[k]) < 1e-4 or abs(down - box[2 + k]) < 1e-4 for box in BOXES for k in (0, 1))
            assert near or bool(mask[y, x] == 0) == inside


def test_film_and_skip_do_what_they_say():
    torch.manual_seed(0)
    net = AudetNet(cfg()).eval()
    images = torch.rand(3, 3, 16, 16)
    corners = torch.tensor([[4.5, 6.5], [6.5, 6.5], [9.5, 6.5], [11.5, 6.5]]).expand(3, 4, 2) / 16
    output = net(net.standardise(images, corners))
    assert [tuple(skip.shape[1:]) for skip in output.skips] == [(3, 16, 16), (5, 4, 4)]
    torch.testing.assert_close(net.decode(output.z1, output.z2, output.skips), output.reconstruction)
    mixed = net(net.standardise(images, corners), True, torch.tensor([1, 2, 0]), torch.tensor([0, 1, 2]))
    again = net.decode(output.z1[[1, 2, 0]], output.z2, output.skips)
    torch.testing.assert_close(mixed.reconstruction, again)
    film = net.decoder.blocks[1]
    values, given = torch.rand(3, 6, 4, 4), torch.cat([output.z1, output.z2], 1)
    numbers = given[:, :4].mean((2, 3)) @ film.linear.weight.T + film.linear.bias
    for c in range(6):
        scale, shift = numbers[:, c, None, None], numbers[:, 6 + c, None, None]
        torch.testing.assert_close(film(values, given)[:, c], (values[:, c] * (1 + scale) + shift).relu())
    with pytest.raises(ValueError, match="takes 2 skips, not 0"):
        net.decode(output.z1, output.z2)


def test_z2_and_skips_know_nothing_of_where_a_face_acts():
    net = AudetNet(cfg()).eval()
    corners = torch.tensor([[4.5, 6.5], [6.5, 6.5], [9.5, 6.5], [11.5, 6.5]])[None] / 16
    images = torch.rand(1, 3, 16, 16)
    other = torch.where(inactive(corners, 16) == 0, torch.rand(1, 3, 16, 16), images)
    one, two = net(net.standardise(images, corners)), net(net.standardise(other, corners))
    assert not torch.equal(one.z1, two.z1)
    assert torch.equal(one.z2, two.z2)
    assert all(torch.equal(a, b) for a, b in zip(one.skips, two.skips, strict=True))


@pytest.fixture(scope="module")
def run(blocks, tmp_path_factory):
    """Two epochs with every term."""
    folder = tmp_path_factory.mktemp("swap")
    words = ["--loss.reader", str(folder / "reader"), "--loss.reader_loss_lambda", "0.1", "--training.max_epochs", "2"]
    fit(tiny_audet.cfg("--training.max_epochs", "1"), blocks, folder / "reader")
    fit(cfg(*words), blocks, folder / "run")
    return folder / "run"


def test_training_on_twins_has_every_term(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    terms = ("au", "reconstruction", "actions", "twins", "reader", "consistency", "latent")
    assert all(math.isfinite(line[f"train_{name}"]) for name in terms for line in lines)
    assert all(line["valid_swap"] > 0 for line in lines)
    net = load_audet(run, "last")
    torch.testing.assert_close(net.corners[0], torch.tensor([4.5, 6.5]) / 16)


def test_the_last_line_says_what_chose_the_epoch(run, blocks, capsys):
    words = ["--loss.reader", str(run.parent / "reader"), "--loss.reader_loss_lambda", "0.1"]
    train_audet(cfg(*words, "--training.max_epochs", "2"), blocks, run)
    best = min(json.loads(line)["valid_swap"] for line in (run / "log.jsonl").read_text().splitlines())
    assert f"error of swapped validation faces {best:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "precision"), [("swap", "32-true"), ("swap_masked", "32-true"), ("swap", "bf16-mixed")]
)
def test_the_recipe_takes_a_step(name, precision, blocks, tmp_path):
    recipe = Path(__file__).parent.parent / "recipes" / "audet" / f"{name}.cfg"
    words = ["--training.batch_size", "8", "--training.max_epochs", "1", "--training.decay_lr_over_last_n_epochs", "1"]
    words += ["--loss.reader", "None", "--loss.reader_loss_lambda", "0", "--run.precision", precision]
    fit(read_cfg(recipe, words), blocks, tmp_path / "run")
    net = load_audet(tmp_path / "run")
    z = net.encode(torch.zeros(1, 3, 64, 64))
    assert z.shape == (1, net.z1_channels + net.z2_channels, 4, 4)


def read_film(path):
    """Number of frames and (width, height) of the first."""
    film = cv2.VideoCapture(str(path))
    frames = []
    while (found := film.read())[0]:
        frames.append(found[1])
    return len(frames), frames[0].shape[1::-1]


def test_two_photos_swap(run, blocks, tmp_path):
    store, files = open_store(blocks), [tmp_path / "a.png", tmp_path / "b.png"]
    for file, row in zip(files, (0, 6), strict=True):
        Image.fromarray(store.image(row)).save(file)
    audet("swap", *files, run=run, out=tmp_path / "out", finder="none", steps=3)
    made = json.loads((tmp_path / "out" / "swap.json").read_text())
    assert [len(strip) for strip in made["units"]] == [3, 3]
    with Image.open(tmp_path / "out" / "swap.gif") as film:
        assert film.n_frames == 4  # there and back
    assert read_film(tmp_path / "out" / "swap.mp4") == (3 * 4, (576, 288))
    net = load_audet(run).eval()
    pixels = torch.from_numpy(np.stack([store.image(row) for row in (0, 6)])).permute(0, 3, 1, 2)
    seen = net(net.from_pixels(pixels))
    other = net.decode(seen.z1[[1, 0]], seen.z2, seen.skips)
    found = swap_audet(run, *files, tmp_path / "out", "none", 3)
    for k in (0, 1):
        assert np.abs(found.strips[k][-1].astype(int) - bytes_of(other[k].detach())).max() <= 1
        assert np.abs(found.strips[k][0].astype(int) - bytes_of(seen.reconstruction[k].detach())).max() <= 1


@pytest.mark.parametrize(("words", "error", "told"), [
    ({"steps": 1}, UsageError, "--steps 1"),
    ({"run": None}, UsageError, "needs two photos and --run"),
    ({"split": "test"}, UsageError, "takes no --split"),
    ({"other": Path("nowhere.png")}, DataError, "photo not found: nowhere.png"),
])  # fmt: skip
def test_swaps_that_cannot_be_are_told(words, error, told, run, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    given = {"other": tmp_path / "a.png", "run": run, "finder": "none", "out": tmp_path / "out", **words}
    with pytest.raises(error, match=told):
        audet("swap", tmp_path / "a.png", **given)


def test_a_net_that_cannot_swap_says_so(blocks, tmp_path):
    plain = tiny_audet.TEXT[: tiny_audet.TEXT.index("{Decoder}")].replace("loss_lambda=1", "loss_lambda=0")
    settings = tiny_audet.cfg("--training.max_epochs", "1", "--loss.discriminator_loss_lambda", "0", text=plain)
    fit(settings, blocks, tmp_path / "run")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="its net has no decoder, so it cannot swap"):
        swap_audet(tmp_path / "run", *[tmp_path / "a.png"] * 2, tmp_path / "out", "none")


def test_a_term_that_is_switched_off_leaves_no_trace(blocks, tmp_path):
    off = [word for key in ("twin_targets", "swap_consistency_lambda", "latent_regression_lambda", "twin_loss_lambda",
           "action_loss_lambda") for word in (f"--loss.{key}", "0")]  # fmt: skip
    fit(cfg(*off, "--data.twins", "0"), blocks, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert {key for key in line if key.startswith("train_")} == {
        "train_au",
        "train_z1_variance",
        "train_reconstruction",
    }


@pytest.mark.parametrize(("right", "wrong", "words"), [
    ("twins=2", "twins=3", "twins is 3, blocks of 9 faces, and batch_size 8"),
    ("twins=2\n", "", "twin_targets needs batches of twins"),
    ("twin_loss_lambda=0.1", "reader_loss_lambda=0.1", "reader and reader_loss_lambda go together"),
    ("condition=4", "condition=10", "condition is 10, but the net's input has 9 channels"),
    ("encoder_layer=5", "encoder_layer=7", "encoder_layer is 7, but the {Encoder} has the blocks 0 to 6"),
    ("encoder_layer=5", "encoder_layer=0", "3x16x16 of encoder block 0 cannot stand beside 6x4x4"),
    ("[upsample]\nscale_factor=4\n[select", "[skip]\nencoder_layer=0\n[select", "which only the {Decoder} can"),
])  # fmt: skip
def test_mistakes_of_swaps_are_told(right, wrong, words):
    assert right in TEXT
    with pytest.raises(CfgError) as caught:
        cfg(text=TEXT.replace(right, wrong, 1))
    assert words in str(caught.value)


def test_the_page_swaps_two_photos_of_one_body(run, blocks):
    from mien.audet.photos import open_reader
    from mien.predict.units import NetUnits
    from mien.web.swap import strips, swapper_of

    model = SimpleNamespace(units=NetUnits(open_reader(run), "mien", ()), provider=None)
    store, sent = open_store(blocks), []
    for row in (0, 6):
        sent.append(io.BytesIO())
        Image.fromarray(store.image(row)).save(sent[-1], "PNG")
    bodies = [bytearray(one.getvalue()) for one in sent]

    def read(half):
        return np.asarray(Image.open(io.BytesIO(half)).convert("RGB"))

    found = strips(model, bodies[0] + bodies[1], len(bodies[0]), read)["strips"]
    assert [len(strip) for strip in found] == [9, 9]
    assert found[0][0]["picture"].startswith("data:image/")
    assert set(found[0][0]["units"]) <= set(load_audet(run).action_units)
    for first in (0, len(bodies[0] + bodies[1]), 1.5):
        with pytest.raises(UsageError, match="two photos, one behind the other"):
            strips(model, bodies[0] + bodies[1], first, read)
    assert swapper_of(SimpleNamespace(units=None)) is None
    with pytest.raises(UsageError, match="swaps need --action-units RUN"):
        strips(SimpleNamespace(units=None), bodies[0], 1, read)


def test_a_net_without_swaps_decodes_the_embedding_itself():
    """Not z1 and z2 put together again: sums of gradients would differ in their last digits from those of earlier runs."""
    torch.manual_seed(0)
    net, seen = AudetNet(tiny_audet.cfg()).train(), []
    net.decoder.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    net.encoder.register_forward_hook(lambda *_: seen.append(None))
    output = net(torch.rand(4, 3, 16, 16))
    z = next(value for value in seen if value is not None)
    assert output.z1._base is z
    assert output.z2._base is z
