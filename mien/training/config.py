"""Settings of the optimiser and of the machine. Imports no torch, so that recipes and `--help` stay light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mien.errors import UsageError


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, schedule and when to stop."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (Nesterov momentum) or adamw."""
    lr: float = 0.05
    """Highest learning rate."""
    head_lr: float = 1.0
    """Factor of the learning rate of everything after the backbone."""
    transformer_lr: float = 1.0
    """Factor of the learning rate of the spatial transformer's localisation net."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 5e-4
    """Not of biases and norms."""
    epochs: int = 30
    """Passes over the training faces."""
    sizes: list[list[float]] = field(default_factory=list)
    """Smaller pictures first: [side, share of the epochs] in order, e.g. [[32, 0.5], [40, 0.25]]; the rest at model.size."""
    batch: int = 64
    """Faces in a step, on each device; a smaller last batch is left out."""
    schedule: Literal["cosine", "step"] = "cosine"
    """cosine: linear warm-up then cosine to zero, per step; step: lr * gamma every step_size epochs."""
    warmup: float = 0.1
    """Share of all steps with linear warm-up (cosine only)."""
    step_size: int = 4
    """Schedule step: epochs between two falls of the learning rate."""
    gamma: float = 0.9
    """Schedule step: factor of each fall."""
    label_smoothing: float = 0.0
    """Share of the label that is spread over all classes."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated; 0 for none."""
    patience: int = 0
    """Stop after this many epochs without a better validation score; 0 never stops early."""
    select: Literal["accuracy", "balanced_accuracy", "macro_f1", "last"] = "accuracy"
    """Validation score that selects the best epoch; last: no selection, the last epoch is kept."""

    def __post_init__(self) -> None:
        if self.select == "last" and self.patience:
            raise UsageError("optim.patience stops when a score no longer rises, but optim.select last looks at none.")


@dataclass(frozen=True)
class RunConfig:
    """Where and on what it runs."""

    seed: int = 0
    """Of weights, order, augmentation and the validation split."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """lightning-fabric accelerator: auto, cpu, gpu (cuda is the same word), mps."""
    devices: int = 1
    """Processes on this machine, one a device."""
    strategy: Literal["auto", "ddp"] = "auto"
    """lightning-fabric strategy: auto, ddp."""
    num_nodes: int = 1
    """Machines, each with run.devices processes; torchrun or SLURM starts them."""
    sync_batchnorm: bool = False
    """Batch norms take their statistics over the faces of all processes, not of each alone."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """auto: bf16-mixed where the device is faster in bfloat16, else 32-true; or lightning-fabric's 32-true, bf16-mixed, 16-mixed."""
    workers: int = 0
    """Loader processes; results do not depend on their number."""
    compile: bool = False
    """Compile the backbone with torch.compile at the start, which takes minutes; 1.14 times slower where it was measured, on a CPU."""
    in_memory: bool = False
    """Keep all pictures of the store on the device, at model.size; augmentation works on it there."""
