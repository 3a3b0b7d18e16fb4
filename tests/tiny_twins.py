"""A store of twins and a cfg of a net that swaps, which trains on them in a second."""

from pathlib import Path

import numpy as np
import tiny_audet

from mien.audet.check import cfg_of
from mien.audet.regions import CORNERS
from mien.data.store import Store, write_store

TEXT = """
{General}
[training]
batch_size=8
max_epochs=1
[data]
image_size=16
valid_fraction=0.2
twins=2
[loss]
discriminator_loss_lambda=0
twin_targets=0.9
region_weight=3
swap_consistency_lambda=0.1
latent_regression_lambda=0.1
twin_loss_lambda=0.1
action_loss_lambda=0.1

{Encoder}
[net]
channels=4
[select_subset]
origin_layer=input
start_index=0
end_index=3
[convolutional]
filters=4
kernel_size=16
stride=16
[upsample]
scale_factor=4
[select_subset]
origin_layer=input
start_index=3
end_index=4
[combine_multiply]
combine_layers=0, 3
[convolutional]
batch_normalise=1
filters=5
kernel_size=4
stride=4
[combine_concat]
combine_layers=2, 5

{AUPredictor}
[net]
channels=4
[avgpool]
pool_size=4
[connected]
output_features=12

{Decoder}
[net]
channels=9
[convolutional]
filters=6
kernel_size=3
pad=1
[film]
condition=4
activation=relu
[skip]
encoder_layer=5
[upsample]
scale_factor=4
mode=bilinear
[skip]
encoder_layer=4
[convolutional]
filters=3
kernel_size=3
pad=1
activation=tanh
"""


def cfg(*overrides, text=TEXT):
    return cfg_of(text, "swap.cfg", ["--run.accelerator", "cpu", *overrides])


def store(out: Path) -> Store:
    """Eight blocks of two people with two sets of actions each."""
    made = []
    for n, record in enumerate(tiny_audet.records(faces=32)):
        block, person, actions = n // 4, n // 2 % 2, n % 2
        points = np.full((68, 2), 8, np.float32)
        points[list(CORNERS)] = [[4, 6], [6, 6], [9, 6], [11, 6]]
        who = f"b{block}p{person}"
        split = "train" if block < 6 else "valid" if block < 7 else "test"
        made.append(
            record._replace(
                landmarks=points, subject=who, split=split, same_person=who, same_actions=f"b{block}a{actions}"
            )
        )
    return write_store(made, out, dataset="toy", size=16)
