"""The cfg language: grammar, types, index semantics, shapes, and every kind of mistake with its line."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest
import tiny_audet
import torch

from mien.audet.blocks import BLOCKS, Shape
from mien.audet.cfg import CfgError, convert, parse, render
from mien.audet.check import cfg_of, override_keys, read_cfg
from mien.audet.nets import Net
from mien.audet.summary import summary
from mien.errors import UsageError

FOLDER = Path(__file__).parent.parent / "recipes" / "audet"
CFGS = sorted(FOLDER.glob("*.cfg"))
TEXT = tiny_audet.TEXT


def encoder(blocks: str, channels: int = 3, size: int = 16) -> str:
    """A cfg whose encoder is `blocks`; the rest does not fit, which is not looked at here."""
    return TEXT.replace("image_size=16", f"image_size={size}").replace(
        TEXT[TEXT.index("{Encoder}") : TEXT.index("{AUPredictor}")],
        f"{{Encoder}}\n[net]\nchannels={channels}\n{blocks}\n",
    )


def spec_of(blocks: str, channels: int = 3, size: int = 16):
    """The encoder alone, whatever its joints with other nets."""
    from mien.audet.cfg import Place, Section
    from mien.audet.check import _net
    from mien.audet.joints import Report

    sections, mistakes = parse(f"{{Encoder}}\n[net]\nchannels={channels}\n{blocks}", "x.cfg")
    report = Report(mistakes, [])
    spec = _net(Section("Encoder", sections[0].blocks, Place(1, "x.cfg")), (size, size), report)
    assert not report.mistakes, list(map(str, report.mistakes))
    return spec


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(CfgError) as caught:
        cfg_of(text, "x.cfg", overrides)
    return [str(mistake) for mistake in caught.value.mistakes]


# ---- grammar


def test_types_comments_and_order():
    cfg = cfg_of(TEXT.replace("batch_size=6", "   batch_size = 6   # of faces").replace("[net]", "[net]#x", 0))
    assert cfg.training.batch_size == 6
    assert cfg.training.learning_rate_scheduler == "None"
    assert cfg.data.mean == (0.5, 0.5, 0.5)
    assert cfg.loss.gradient_loss_lambda_discr == 10.0
    assert list(cfg.nets) == ["Encoder", "AUPredictor", "Decoder", "Discriminator", "Image Discriminator"]
    assert (cfg.z1_channels, cfg.z2_channels) == (4, 8)
    assert not cfg.warnings


def test_a_hash_inside_a_value_is_no_comment():
    sections, wrong = parse("{A}\n[b]\npath=a#b # comment\n# whole line\n", "x")
    assert not wrong
    assert sections[0].blocks[0].entries["path"].value == "a#b"


@pytest.mark.parametrize("path", CFGS, ids=lambda p: p.stem)
def test_rendered_cfgs_read_the_same(path):
    sections, _ = parse(path.read_text(encoding="utf-8"), "x")
    again, wrong = parse(render(sections), "x")
    assert not wrong
    plain = [[(s.name, [(b.type, {k: e.value for k, e in b.entries.items()}) for b in s.blocks]) for s in part]
             for part in (sections, again)]  # fmt: skip
    assert plain[0] == plain[1]


def test_general_goes_by_position_and_booleans_and_lists_are_read():
    text = (
        TEXT.replace("[training_options]", "[anything]")
        .replace("[data_options]", "[b]")
        .replace("[loss_options]", "[c]")
    )
    text = text.replace("image_size=16", "image_size=16\nmean=1, 2,3e0\nregress_au_intensities=True")
    cfg = cfg_of(text)
    assert cfg.data.mean == (1.0, 2.0, 3.0)
    assert cfg.data.regress_au_intensities
    assert not cfg.cross_entropy


def test_overrides_change_the_cfg_and_its_text():
    words = [
        "--training.max_epochs",
        "7",
        "--loss.dependency=hsic",
        "--run.seed",
        "3",
        "--image_discriminator.beta1",
        "0",
    ]
    cfg = cfg_of(TEXT, "x.cfg", words)
    assert (cfg.training.max_epochs, cfg.loss.dependency, cfg.run.seed) == (7, "hsic", 3)
    assert cfg.nets["Image Discriminator"].options.beta1 == 0
    again = cfg_of(cfg.text)
    assert (again.training, again.loss, again.run) == (cfg.training, cfg.loss, cfg.run)
    assert "--data.imagesize: unknown key 'data.imagesize'. Did you mean 'data.image_size'?" in mistakes(
        TEXT, "--data.imagesize", "3"
    )
    assert "--training.batch_size: batch_size=many: expected an integer." in mistakes(
        TEXT, "--training.batch_size", "many"
    )
    assert mistakes(TEXT.replace("{Image Discriminator}", "{Discriminator2}"), "--image_discriminator.beta1", "0")[
        0
    ] == ("--image_discriminator.beta1: the cfg has no {Image Discriminator} that could be changed.")
    assert {"training.batch_size", "decoder.channels", "run.devices"} < set(override_keys())


# ---- mistakes

BAD = [
    ("batch_size=6", "batch_size 6", "is no entry; write key=value"),
    ("batch_size=6", "=6", "has no key"),
    ("batch_size=6", "batch_size=", "has no value"),
    ("batch_size=6", "batch_size=6\nbatch_size=7", "batch_size is set in line"),
    ("batch_size=6", "batchsize=6", "unknown key of the training options 'batchsize'. Did you mean 'batch_size'?"),
    ("batch_size=6", "batch_size=6.5", "expected an integer"),
    ("batch_size=6", "batch_size=1", "must be at least 2"),
    ("batch_size=6", "learning_rate_scheduler=Cosine", "expected None or Linear"),
    ("batch_size=6", "learning_rate_scheduler=linear", "Did you mean 'Linear'?"),
    ("max_epochs=2", "max_epochs=2\nlearning_rate_scheduler=Linear", "decay_lr_over_last_n_epochs is 0"),
    ("max_epochs=2", "learning_rate_scheduler=Linear\ndecay_lr_over_last_n_epochs=99", "Linear needs 1 to max_epochs"),
    ("image_size=16", "image_size=16\nbalance_dataset_with_momu=yes", "expected True or False or 1 or 0"),
    ("image_size=16", "image_size=16\nbalance_dataset_with_momu=true", "Did you mean 'True'?"),
    ("image_size=16", "image_size=16\nbalance_dataset_with_momu=True", "needs epoch_size and sampling_size"),
    ("image_size=16", "image_size=16\nbalance_dataset_with_momu=1\nepoch_size=10\nsampling_size=3", "does not divide"),
    ("image_size=16", "image_size=16\nmean=1,2", "expected 3 values separated by commas, got 2"),
    ("image_size=16", "image_size=16\nmean=1,2,x", "expected a number"),
    ("image_size=16", "image_size=16\nnoise=nan", "expected a finite number"),
    ("image_size=16", "image_size=16\naction_units=AU1, AU3", "AU3 is not one of"),
    ("image_size=16", "image_size=16\naction_units=AU1, AU1", "a unit stands twice"),
    ("image_size=16", "image_size=16\naction_units=AU1", "must end with 1x1x1"),
    ("reconstruction_loss_lambda=1", "dependency=mi", "expected wgan or logistic"),
    ("{Encoder}", "{Encoder", "no closing '}'"),
    ("{Encoder}", "{Encoder} x", "text behind '}'"),
    ("{Encoder}", "{}", "has no name"),
    ("{Encoder}", "{encoder}", "Did you mean 'Encoder'?"),
    ("{Encoder}", "{Other}\n{Encoder}", "section {Other} is empty"),
    ("{Encoder}", "{Decoder}", "section {Decoder} stands in line"),
    ("{General}", "[block]\n{General}", "outside a section"),
    ("{General}", "a=1\n{General}", "outside a section"),
    ("{General}", "{General}\na=1", "outside a block"),
    ("[loss_options]\nreconstruction_loss_lambda=1", "", "{General} has three blocks by position"),
    ("[net]\nchannels=3\n[convolutional]\nbatch_normalise=1", "[convolutional]", "its first block must be [net]"),
    ("[convolutional]\nfilters=12\nkernel_size=4", "[net]\nchannels=3", "a second [net]"),
    ("[convolutional]\nfilters=12", "[convolution]\nfilters=12", "Did you mean 'convolutional'?"),
    ("[convolutional]\nfilters=12\n", "[convolutional]\n", "[convolutional] needs the key filters"),
    ("filters=12\nkernel_size=4", "filters=12\nkernel_size=9", "a window of 9 pixels does not fit into 8x4x4"),
    ("filters=12", "filters=12\nactivation=not_implemented", "expected relu or leaky_relu"),
    ("filters=12", "filters=12\npad=True", "pad=True needs an odd kernel_size"),
    ("filters=12", "filters=12\npad=yes", "expected True or False or an integer"),
    ("filters=12", "filters=12\ninitialization=kaiming_uniform", "kaiming_uniform is for relu and leaky_relu"),
    ("[connected]\noutput_features=12", "[batch_norm]\nnum_features=5", "num_features is 5, but 4 channels come in"),
    ("[connected]\noutput_features=12", "[softmax]\ndim=0", "0 would mix faces"),
    ("[connected]\noutput_features=12", "[route]\nbranch_at_layer=0", "points from block 0 to itself"),
    ("[connected]\noutput_features=12", "[route]\nbranch_at_layer=1", "a block further down"),
    ("[connected]\noutput_features=12", "[route]\nbranch_at_layer=-2", "points before the input"),
    ("[connected]\noutput_features=12", "[route]\nbranch_at_layer=x", "expected an integer or input"),
    ("[connected]\noutput_features=12", "[combine_concat]\ncombine_layers=-1", "at least two blocks"),
    ("[connected]\noutput_features=12", "[combine_concat]\ncombine_layers=-1,-1\ndimension=4", "none of 1 (channels)"),
    ("[connected]\noutput_features=12", "[select_subset]\norigin_layer=-1\nstart_index=1\nend_index=5", "is no part of the 4"),
    ("[connected]\noutput_features=12", "[select_subset]\norigin_layer=-1\nstart_index=2\nend_index=2", "is no part of the 4"),
    ("[connected]\noutput_features=12", "[timm]\nmodel=resnet18", "needs square pictures of 3 channels"),
    ("[connected]\noutput_features=12", "[identity]\n[timm]\nmodel=resnet18", "must be the first block of its net"),
    ("[connected]\noutput_features=12", "", "has no block behind [net]"),
    ("[connected]\noutput_features=12", "[connected]\noutput_features=11", "must end with 12x1x1"),
    ("[upsample]\nscale_factor=16", "[upsample]", "give scale_factor or output_sizes"),
    ("scale_factor=16", "scale_factor=16\noutput_sizes=16,16", "give scale_factor or output_sizes"),
    ("scale_factor=16", "scale_factor=16\nmode=trilinear", "use bilinear"),
    ("scale_factor=16", "scale_factor=0.1", "leaves nothing of 12x1x1"),
    ("scale_factor=16", "scale_factor=8", "{Decoder} must end with 3x16x16; it ends with 3x8x8"),
    ("[net]\nchannels=12\n[upsample]", "[net]\nchannels=11\n[upsample]", "takes 11 channels, but {Encoder} ends with 12"),
    ("[net]\nchannels=12\n[connected]", "[net]\nchannels=11\n[connected]", "{Discriminator} takes 11 channels"),
    ("[net]\nchannels=4\n", "[net]\nchannels=13\n", "{AUPredictor} takes 13 channels, but {Encoder} ends with 12"),
    ("[net]\nchannels=3\n[convolutional]\nbatch", "[net]\nchannels=1\n[convolutional]\nbatch", "pictures of 3 channels, not 1"),
    ("[connected]\noutput_features=1\n", "[connected]\noutput_features=2\n", "must end with 1 channel, its score"),
    (TEXT[TEXT.index("{AUPredictor}") : TEXT.index("{Decoder}")], "", "the section {AUPredictor} is missing"),
    ("{AUPredictor}", "{Predictor}", "Did you mean 'AUPredictor'?"),
    (TEXT[TEXT.index("{Decoder}") : TEXT.index("{Discriminator}")], "", "{Decoder} is missing"),
    (TEXT[TEXT.index("{Discriminator}") : TEXT.index("{Image")], "", "{Discriminator} is missing: z2 has 8 channels"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "words"), BAD, ids=[f"{k}-{case[2][:30]}" for k, case in enumerate(BAD)])
def test_every_mistake_names_its_line(right, wrong, words):
    assert right in TEXT
    told = mistakes(TEXT.replace(right, wrong, 1))
    assert any(words in line for line in told), told
    assert all(re.match(r"x\.cfg:\d+: ", line) for line in told)


@pytest.mark.parametrize("right", ["image_size=16", "{General}", "{Encoder}"])
def test_one_mistake_is_told_once(right):
    """What follows from it is not."""
    wrong = {"image_size=16": "image_size=16\nflip=much", "{General}": "{General}\nx=1", "{Encoder}": "{Encodr}"}[right]
    assert len(mistakes(TEXT.replace(right, wrong, 1))) == 1


def test_lines_are_those_of_the_file():
    text = (
        TEXT.replace("filters=12", "filters=0")
        .replace("{Decoder}", "{Decodr}")
        .replace("max_epochs=2", "max_epochs=two")
    )
    told = mistakes(text)
    numbers = [int(line.split(":")[1]) for line in told]
    lines = text.splitlines()
    found = {lines[number - 1] for number in numbers}
    assert {"filters=0", "{Decodr}", "max_epochs=two"} <= found
    assert numbers == sorted(numbers)
    with pytest.raises(CfgError, match=r"^\d+ mistakes in x.cfg:\nx.cfg:"):
        cfg_of(text, "x.cfg")


def test_the_error_is_one_of_usage_and_a_missing_file_too(tmp_path):
    assert issubclass(CfgError, UsageError)
    with pytest.raises(UsageError, match="cfg not found"):
        read_cfg(tmp_path / "gone.cfg")
    assert mistakes("")[0].startswith("x.cfg:1: ")


def test_warnings():
    split = encoder(
        "[convolutional]\nfilters=6\nkernel_size=16\n[convolutional]\nfilters=6\nkernel_size=1\n"
        "[combine_concat]\ncombine_layers=0,1"
    )
    critic = split.replace("[connected]\noutput_features=1\n", "[connected]\noutput_features=1\nactivation=relu\n")
    old = critic.replace("reconstruction_loss_lambda=1", "gradient_loss_lambda=3")
    old = old.replace(
        "[connected]\noutput_features=12",
        "[batch_norm]\nnum_features=4\nbatch_norm_dim=2\n[connected]\noutput_features=12",
    )
    cfg = cfg_of(old, "x.cfg")
    assert cfg.loss.gradient_loss_lambda_discr == 3
    words = ["old key gradient_loss_lambda", "old key batch_norm_dim", "z1 is no branch of its own", "ends with relu"]
    assert all(any(word in warning for warning in cfg.warnings) for word in words), cfg.warnings
    unused = cfg_of(encoder("[convolutional]\nfilters=5\nkernel_size=3\n[route]\nbranch_at_layer=input\n"
                            "[convolutional]\nfilters=12\nkernel_size=16"), "x.cfg")  # fmt: skip
    assert "nothing takes the output of block 0" in unused.warnings[0]
    assert mistakes(TEXT, "--loss.dependency", "hsic", "--training.batch_size", "3") == [
        "--training.batch_size: batch_size is 3; dependency=hsic compares at least 4 faces."
    ]
    pixels = "[resnet50]\nend_at_layer=9\nn_out_filters=2048\n[connected]\noutput_features=12"
    assert "trained on mean=0.485" in cfg_of(encoder(pixels), "x.cfg").warnings[0]
    pixels = "[vgg-face]\nstate_dict_filepath=x.pth\n[connected]\noutput_features=12"
    face = encoder(pixels, size=32).replace("scale_factor=16", "scale_factor=32")
    assert "pixels in 0-255" in cfg_of(face, "x.cfg").warnings[0]
    off = cfg_of(TEXT, "x.cfg", ["--loss.discriminator_loss_lambda", "0"])
    assert "{Discriminator} is not used" in off.warnings[0]


# ---- blocks: the declared shape is the real one

BLOCK_CASES = {
    "convolutional": ["filters=5\nkernel_size=3\nstride=2\npad=1\nbatch_normalise=1\nactivation=relu",
                      "filters=5\nkernel_size=3\npad=True\nactivation=leaky_relu\ninitialization=kaiming_uniform",
                      "filters=2\nkernel_size=4\npad=False\nactivation=tanh", "filters=2\nkernel_size=1\nactivation=sigmoid"],
    "batch_norm": ["num_features=3\neps=1e-3"],
    "maxpool": ["pool_size=3\nstride=2"],
    "avgpool": ["pool_size=2\nstride=3"],
    "upsample": ["scale_factor=2\nmode=bilinear", "scale_factor=1.5\nmode=nearest",
                "output_sizes=5, 7\nmode=bicubic\nscale_factor=None"],
    "connected": ["output_features=4\nactivation=relu\nuse_bias=False\ninitialization=kaiming_uniform", "output_features=1"],
    "softmax": ["dim=1", "dim=3"],
    "route": ["branch_at_layer=-1", "branch_at_layer=input"],
    "combine_concat": ["combine_layers=-1, input\ndimension=1", "combine_layers=input, -1, -1\ndimension=2"],
    "combine_multiply": ["combine_layers=-1, -1"],
    "select_subset": ["origin_layer=-1\nstart_index=1\nend_index=3", "origin_layer=input\ndimension=3\nstart_index=0\nend_index=4"],
    "identity": [""],
    "resnet50": [f"end_at_layer={n}\nn_out_filters={c}\nfreeze_first_n_layers=1\nweights=random"
                 for n, c in ((1, 64), (4, 64), (9, 2048))],
    "vgg-face": ["state_dict_filepath=random\nfreeze_first_n_layers=6"],
    "timm": ["model=resnet10t", "model=resnet10t\npool=False"],
    "film": ["condition=2", "condition=3\nactivation=relu"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "keys"), [(name, keys) for name, cases in BLOCK_CASES.items() for keys in cases])
def test_declared_shapes_are_real(name, keys):
    size = 33 if name in ("resnet50", "vgg-face") else 32 if name == "timm" else 9
    spec = spec_of(f"[{name}]\n{keys}", size=size)
    net = Net(spec).eval()
    with torch.no_grad():
        assert Shape(*net(torch.rand(2, 3, size, size)).shape[1:]) == spec.output


def test_every_block_type_has_a_case():
    assert set(BLOCK_CASES) == set(BLOCKS) - {"skip"}  # of two nets; tests/test_audet_swaps.py has it


def test_zero_negative_and_input_references():
    """Block i's reference r is r itself from 0 on, else i + r; a resolved -1 is the input of the net."""
    spec = spec_of("[identity]\n[connected]\noutput_features=5\n[combine_concat]\ncombine_layers=0, -1, -3, input\n"
                   "[route]\nbranch_at_layer=0\n[select_subset]\norigin_layer=2\nstart_index=3\nend_index=8")  # fmt: skip
    assert [wired.sources for wired in spec.blocks] == [(-1,), (0,), (0, 1, -1, -1), (0,), (2,)]
    images = torch.rand(2, 3, 16, 16)
    net = Net(spec)
    assert torch.equal(net(images), net.blocks[1](images))


def test_multiply_leaves_its_inputs_alone_and_a_side_of_one_goes_with_any():
    spec = spec_of("[avgpool]\npool_size=4\n[combine_multiply]\ncombine_layers=input, 0\n[combine_concat]\ncombine_layers=1, input",
                   size=4)  # fmt: skip
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    out = Net(spec)(images)
    assert torch.allclose(out[:, :3], images * images.mean((2, 3), keepdim=True))
    assert torch.equal(out[:, 3:], images)
    out.sum().backward()


def test_frozen_layers_neither_learn_nor_move():
    net = Net(
        spec_of("[resnet50]\nend_at_layer=5\nn_out_filters=256\nfreeze_first_n_layers=2\nweights=random", size=16)
    ).train()
    before = net.blocks[0][1].running_mean.clone()
    net(torch.rand(2, 3, 16, 16)).sum().backward()
    assert torch.equal(net.blocks[0][1].running_mean, before)
    assert net.blocks[0][0].weight.grad is None
    assert net.blocks[0][4][0].conv1.weight.grad is not None


def test_vgg_face_weights_by_name(tmp_path):
    path = tmp_path / "vgg.pth"
    source = Net(spec_of("[vgg-face]\nstate_dict_filepath=random", size=32)).blocks[0]
    places = [
        f"conv{stage}_{n}" for stage, count in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)) for n in range(1, count + 1)
    ]
    layers = [layer for layer in source if hasattr(layer, "weight")]
    state = {
        f"{name}.{kind}": getattr(layer, kind).data
        for name, layer in zip(places, layers, strict=True)
        for kind in ("weight", "bias")
    }
    torch.save({**state, "fc6.weight": torch.zeros(2)}, path)
    net = Net(spec_of(f"[vgg-face]\nstate_dict_filepath={path}", size=32))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(net(images), source(images))


# ---- shipped cfgs


@pytest.mark.parametrize("path", CFGS, ids=lambda p: p.stem)
def test_shipped_cfgs_have_no_mistakes_and_no_warnings(path):
    cfg = read_cfg(path)
    assert not cfg.warnings
    head = path.read_text(encoding="utf-8").splitlines()
    assert head[0].startswith("# Promise: ")
    assert f"# mien audet train recipes/audet/{path.name} --data " in "\n".join(head[:6])


PUBLISHED = {
    "no_discriminator": (256, 0),
    "vgg_pretrain_z1_size_64": (64, 448),
    "with_attention_1_branch": (128, 448),
    "with_attention_12_AUs": (832, 448),
    "with_basic_and_image_discriminator_z1_size_64": (64, 448),
    "with_basic_discriminator": (256, 256),
    "with_basic_discriminator_z1_and_z2_size_64": (64, 64),
    "with_basic_discriminator_z1_size_12": (12, 500),
    "with_basic_discriminator_z1_size_32": (32, 480),
    "with_basic_discriminator_z1_size_64": (64, 448),
    "with_strong_discriminator_z1_size_64": (64, 448),
}
"""The eleven published architectures: channels of z1 and z2."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_splits(name):
    cfg = read_cfg(FOLDER / f"{name}.cfg")
    assert (cfg.z1_channels, cfg.z2_channels) == PUBLISHED[name]


def test_parameters_are_those_of_the_published_nets():
    """Counted in the published code."""
    from mien.audet.summary import parameters

    nets = read_cfg(FOLDER / "with_basic_and_image_discriminator_z1_size_64.cfg").nets
    counts = {name: sum(parameters(spec)) for name, spec in nets.items()}
    assert counts["Encoder"] == 8_034_240
    assert counts["AUPredictor"] == 2_624
    assert counts["Decoder"] == 2_313_411
    assert counts["Discriminator"] == 304_129
    assert counts["Image Discriminator"] == pytest.approx(44.7e6, rel=0.01)
    strong = read_cfg(FOLDER / "with_strong_discriminator_z1_size_64.cfg").nets
    assert sum(parameters(strong["Discriminator"])) == 1_222_913


def test_a_published_attention_is_told_what_it_lacks():
    text = (FOLDER / "with_attention_1_branch.cfg").read_text(encoding="utf-8")
    head, predictor = text.split("{AUPredictor}")
    with pytest.raises(CfgError, match=r"as many leading channels .* an attention that it takes counts among them"):
        cfg_of(head + "{AUPredictor}" + predictor.replace("channels=128", "channels=64", 1))


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "marked.cfg").write_text(TEXT, encoding="utf-8-sig")
    assert read_cfg(tmp_path / "marked.cfg").nets == {**cfg_of(TEXT, str(tmp_path / "marked.cfg")).nets}


def test_summary_names_nets_blocks_and_split():
    text = summary(cfg_of(TEXT))
    assert "Encoder: 3x16x16 -> 12x1x1" in text
    assert re.search(r"0 +convolutional +input +8x4x4 +400", text)
    assert "z1 4 channels, z2 8" in text
    assert "wgan" in text


def test_docs_list_every_option_with_its_default():
    import dataclasses

    from mien.audet.options import GENERAL

    page = (FOLDER.parent.parent / "docs" / "audet-cfg.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| `(.*?)` \| \S", page, re.M))
    assert set(rows) == {f"{name}.{field.name}" for name, kind in GENERAL.items() for field in dataclasses.fields(kind)}
    for name, kind in GENERAL.items():
        for field in dataclasses.fields(kind):
            text, hint = rows[f"{name}.{field.name}"], get_type_hints(kind)[field.name]
            assert convert(text, hint) == field.default, field.name
