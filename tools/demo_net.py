"""Make the unguided net that `mien demo` starts from, mien/weights/demo: synthetic faces of other identities, no guidance.

    python tools/demo_net.py [--work demo-net] [--faces 5250] [--epochs 22]

About 15 minutes of one AVX2 core. The faces are those of seed 1009, of which the demo's (seed 0, or what --seed says) share no
identity.
"""

import argparse
import json
from pathlib import Path

from mien.config import AugmentConfig, DataConfig, GuidanceConfig, ModelConfig, OptimConfig, Recipe, RunConfig
from mien.demo import demo_recipe
from mien.files import write_atomic
from mien.models.packed import pack
from mien.models.weights import SHIPPED
from mien.synthetic.synthesize import synthesize
from mien.training import checkpoint
from mien.training.loop import fit

SEED, PEOPLE = 1009, 350
START = SHIPPED["demo"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("demo-net"))
    parser.add_argument("--faces", type=int, default=5250)
    parser.add_argument("--epochs", type=int, default=22)
    options = parser.parse_args()
    store, run = options.work / "faces", options.work / "run"
    synthesize(out=store, faces=options.faces, subjects=PEOPLE, size=48, seed=SEED)
    like = demo_recipe(store, size=48, epochs=options.epochs, seed=0, weight=0.0)
    model = ModelConfig(
        backbone=like.model.backbone, size=48, stem_pool=False, output_stride=8, channels=like.model.channels,
        backbone_options=like.model.backbone_options,
    )  # fmt: skip
    recipe = Recipe(
        data=DataConfig(store=store), augment=AugmentConfig(rotation=6.0, translate=0.05, scale=0.06, jitter=0.15), model=model,
        guidance=GuidanceConfig(weight=0.0), optim=OptimConfig(name="adamw", epochs=options.epochs, batch=12, lr=7e-4),
        run=RunConfig(in_memory=True),
    )  # fmt: skip
    fit(recipe, run)
    tensors, meta = checkpoint.load_tensors(run / "best.ckpt")
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("model/")}
    START.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_tensors(START, pack(weights), meta)
    line = [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()][meta["epoch"] - 1]
    facts = {
        "made_by": "tools/demo_net.py", "faces": options.faces, "people": PEOPLE, "seed": SEED, "guidance": 0,
        "epoch": meta["epoch"], "valid_accuracy": line["valid_accuracy"], "valid_att_cos": line["valid_att_cos"],
    }  # fmt: skip
    write_atomic(START.with_name("about.json"), json.dumps(facts, indent=1) + "\n")
    print(f"{START}: {START.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
