"""Images that one core trains in a second of its own time, in float32 and in bfloat16: what `run.precision auto` decides by.

    python benchmarks/precision.py

Random pictures, one thread, CPU time of this process (other work on the machine hardly counts), the two in turns.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F

from mien.config import ModelConfig, load_recipe
from mien.models import create_model
from mien.models.precision import bfloat16_here

RECIPES = Path(__file__).parent.parent / "recipes"
NETS = {
    "recipes/fer2013/guided.yaml, 48 px, batch 64": (load_recipe(RECIPES / "fer2013" / "guided.yaml").model, 64),
    "resnet18, 112 px, batch 8": (ModelConfig("resnet18", size=112), 8),
    "convnext_tiny, 112 px, batch 8": (ModelConfig("convnext_tiny", size=112), 8),
    "recipes/fer2013-polarity/simple_cnn.yaml, 48 px, batch 128": (
        load_recipe(RECIPES / "fer2013-polarity" / "simple_cnn.yaml").model, 128,
    ),
}  # fmt: skip
"""What -> net and batch."""


def speed(config: ModelConfig, batch: int, bfloat16: bool, steps: int) -> float:
    """Images a CPU second, forward, backward and step of the optimiser."""
    torch.manual_seed(0)
    model = create_model(config, 7).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(batch, 3, config.size, config.size), torch.randint(0, 7, (batch,))
    images = images.contiguous(memory_format=torch.channels_last)
    for step in range(steps + 1):
        if step == 1:
            began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = model(images, labels)
        F.cross_entropy(output.logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return batch * steps / (time.process_time() - began)


def main() -> None:
    torch.set_num_threads(1)
    print(f"by its flags this processor trains in bfloat16: {bfloat16_here()}\n")
    print("| training | float32, images a CPU second | bfloat16 | float32 is faster by |\n| --- | ---: | ---: | ---: |")
    for name, (config, batch) in NETS.items():
        full, half = speed(config, batch, False, 4), speed(config, batch, True, 1)
        print(f"| {name} | {full:.1f} | {half:.1f} | {full / half:.2f} |", flush=True)


if __name__ == "__main__":
    main()
