"""Run folders and checkpoints: one safetensors file each, written atomically, read without unpickling."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn

from mien import __version__
from mien.config import Recipe, as_dict, load_recipe
from mien.errors import DataError, UsageError
from mien.files import read_json, weights_file
from mien.files import write_atomic as write_atomic
from mien.models.packed import unpack
from mien.plugins import used
from mien.schema import scheme_classes

if TYPE_CHECKING:
    from mien.models import Classifier

RUN_VERSION = 1


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """One safetensors file with JSON metadata, written atomically."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    kept = {"run_version": RUN_VERSION, **meta, "sha256": _digest(plain)}
    write_atomic(path, save(plain, metadata={"mien": json.dumps(kept)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of `save_tensors`, unpacked; one clear line for a missing, damaged or foreign file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("mien", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; train the run first (`mien train`).") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run `mien train` again.") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path} was not written by mien.")
    if meta.pop("sha256", None) not in (None, _digest(tensors)):  # files from before this was kept pass
        raise DataError(f"{path} is damaged (its numbers are not those that were written); delete it and train again.")
    return unpack(tensors), meta


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes: a flipped bit in a weight would otherwise change answers in silence."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """sha256 over names, shapes and values of a model's weights: two runs with the same are one net."""
    values = {name: value for name, value in _plain(model.state_dict()).items() if isinstance(value, Tensor)}
    return _digest({name: tensor.detach().cpu().contiguous() for name, tensor in values.items()})


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a state, packed weights of quantised layers as the tensors that they hold."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        parts = value if isinstance(value, tuple) else (value,)
        for k, one in enumerate(parts):
            found[f"{name}.{k}" if len(parts) > 1 else name] = (
                one.dequantize() if isinstance(one, Tensor) and one.is_quantized else one
            )
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as named tensors; settings are left out, the recipe has them."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer/{i}/{k}": torch.as_tensor(v) for i, s in state.items() for k, v in s.items() if v is not None}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` saved."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == weight.shape:  # files are contiguous; fused Adam on a CPU takes strides for equal unasked
                values[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def resume(
    out: Path, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> dict[str, Any]:
    """Load `last.ckpt` where there is one; the state says which epoch was finished last and which was best.

    `scaler` is that of the loss under 16-mixed, {} without one.
    """
    path = out / "last.ckpt"
    if not path.exists():
        return {"epoch": 0, "best_epoch": 0, "best_score": -1.0, "scaler": {}}
    tensors, meta = load_tensors(path)
    if meta.get("run_version") != RUN_VERSION:
        raise DataError(f"{path} was written by another version of mien; choose another --out.")
    refuse_not_finite(tensors, path)
    refuse_unbound(path, meta, recipe, read_json(out / "environment.json", "choose another --out"))
    with resuming(path):
        model.load_state_dict(_part(tensors, "model/"))
        restore_optimizer(optimizer, tensors)
        if average is not None:
            average.load_state_dict(_part(tensors, "average/"))
        return {
            "epoch": int(meta["epoch"]),
            "best_epoch": int(meta["best_epoch"]),
            "best_score": float(meta["best_score"]),
            "scaler": dict(meta.get("scaler", {})),
        }


@contextmanager
def resuming(path: Path) -> Iterator[None]:
    """DataError of one line where `path` holds other tensors or another state than a training needs."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = (str(error).splitlines() or ["empty"])[-1].strip()
        raise DataError(f"{path} cannot be resumed from ({reason}); delete the folder and train again.") from error


def refuse_not_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """DataError that names the first tensor with a number that is infinite or none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{path} holds numbers that are not finite ({name}); train again, or take another run.")


def trim_log(out: Path, epochs: int) -> None:
    """Drop log lines beyond the last finished epoch: those of a run that was stopped between log and checkpoint."""
    log = out / "log.jsonl"
    lines = log.read_bytes().splitlines() if log.exists() else []
    if len(lines) > epochs:
        write_atomic(log, b"".join(line + b"\n" for line in lines[:epochs]))


def read_log(file: Path) -> list[dict[str, Any]]:
    """The numbers of every epoch, none where there is no log; DataError that names a damaged line."""
    if not file.is_file():
        return []
    lines = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):  # one broken byte is one line
        try:
            lines.append({str(key): value + 0 for key, value in json.loads(line).items()})  # numbers alone
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{file} line {number} is damaged ({error}); delete that line.") from error
    return lines


def log_line(out: Path, line: Mapping[str, Any]) -> None:
    """Append the numbers of an epoch, its number among them, to log.jsonl and to TensorBoard's files."""
    from torch.utils.tensorboard.writer import SummaryWriter

    try:
        with open(out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        with SummaryWriter(str(out / "tensorboard"), purge_step=line["epoch"]) as board:
            for name, value in line.items():
                board.add_scalar(name, value, line["epoch"])
    except OSError as error:
        raise DataError(f"cannot write the log of {out}: {error}; free space, the same command resumes.") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def versions() -> dict[str, Any]:
    """Of this program, of Python and of the packages that results depend on."""
    packages = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "pyarrow")
    return {
        "run_version": RUN_VERSION,
        "mien": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        **({"plugins": used()} if used() else {}),
    }


def environment(recipe: Recipe, fingerprint: str, device: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What a run depends on beside its recipe: versions, data fingerprint, device."""
    return {
        **versions(),
        "device": device,
        "seed": recipe.run.seed,
        "store_fingerprint": fingerprint,
        "classes": list(scheme_classes(recipe.data.scheme)),
        **extra,
    }


def results_suffix(split: str, other: Path | None = None) -> str:
    """Ends the names of what `mien evaluate` writes: of a split, and of another store than that of the training.

    "" for the test faces of the run's own store, -valid, -on-NAME and -valid-on-NAME otherwise.
    """
    part = "" if split == "test" else f"-{split}"
    return part if other is None else f"{part}-on-{other.resolve().name}"


def open_run(out: Path, recipe: Recipe) -> None:
    """Create a run folder, or check that an existing one holds the same recipe so that it can be resumed."""
    config = out / "config.yaml"
    if config.exists():
        old, _ = read_run(out)
        before, now = _flat(as_dict(old)), _flat(as_dict(recipe))
        harmless = {"run.workers", "run.accelerator", "run.in_memory", "run.compile", "data.store"}
        changed = [key for key in now if before[key] != now[key] and key not in harmless]
        if changed and set(changed) <= PROCESSES:
            refuse_other_step(out, old, recipe)
            changed = []
        if changed:
            first = changed[0]
            raise UsageError(
                f"{out} holds a run with other settings ({first}: {before[first]} there, {now[first]} here); "
                "choose another --out, or delete the folder."
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {out}: {error}.") from error
    write_atomic(config, yaml.safe_dump(as_dict(recipe), sort_keys=False))


PROCESSES = {"run.devices", "run.num_nodes", "run.strategy", "optim.batch"}
"""Keys that may change when a run is resumed, as long as a step takes as many faces: the order of the faces stays the same."""


def step_faces(recipe: Recipe) -> int:
    """Faces of one training step, of all processes."""
    return recipe.optim.batch * recipe.run.devices * recipe.run.num_nodes


def refuse_other_step(out: Path, before: Recipe, now: Recipe) -> None:
    """UsageError where a run would go on with more or fewer faces a step; a line where it goes on with other processes."""
    there, here = (recipe.run.devices * recipe.run.num_nodes for recipe in (before, now))
    faces = step_faces(before)
    if step_faces(now) != faces:
        remedy = f"give --optim.batch {faces // here}" if faces % here == 0 else f"{here} processes cannot share them"
        raise UsageError(
            f"{out} was trained with {faces} faces a step ({there} x optim.batch {before.optim.batch}), now it is "
            f"{step_faces(now)} ({here} x {now.optim.batch}), which is another training; {remedy}, or choose another --out."
        )
    if there != here:
        print(
            f"{out} goes on with {here} x {now.optim.batch} faces a step in place of {there} x {before.optim.batch}: the same "
            "faces in the same order. Dropout and random controls are drawn otherwise, and batch norms without "
            "run.sync_batchnorm see other batches."
        )


def read_run(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """Recipe and environment of a run folder; one clear line for a wrong folder or another version."""
    if not (path / "config.yaml").is_file():
        raise DataError(f"{path} is not a run folder (no config.yaml); give the folder that `mien train` wrote.")
    file = path / "environment.json"
    env: dict[str, Any] = {}
    if file.is_file():
        env = read_json(file, "train again")
        if env.get("run_version") != RUN_VERSION:
            raise DataError(
                f"{path} was written by a mien with run version {env.get('run_version')}; this one reads {RUN_VERSION}. "
                f"Install mien {env.get('mien', '?')} or train again."
            )
    return load_recipe(path / "config.yaml"), env


def settings_sha256(recipe: Recipe) -> str:
    """Digest of what weights need in order to mean the same: net, preprocessing, transformer, cue, scheme, target.

    Where weights came from (model.pretrained, weights, initial) is left out: a packed run has lost it.
    """
    tree = as_dict(recipe)
    start = ("pretrained", "weights", "initial", "initial_head")
    model = {key: value for key, value in tree["model"].items() if key not in start}
    parts = [model, tree["transformer"], tree["cue"], tree["data"]["scheme"], tree["data"]["targets"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def environment_sha256(env: Mapping[str, Any]) -> str:
    """Digest of what weights need of an environment.json: how faces lie in their pictures, and the names of the classes."""
    return hashlib.sha256(json.dumps([env.get("framing"), env.get("classes")], sort_keys=True).encode()).hexdigest()


def bound_to(recipe: Recipe, env: Mapping[str, Any]) -> dict[str, str]:
    """What a checkpoint says of the settings that its weights need; `refuse_unbound` compares it."""
    return {"settings": settings_sha256(recipe), "environment": environment_sha256(env)}


def refuse_unbound(path: Path, meta: Mapping[str, Any], recipe: Recipe, env: Mapping[str, Any]) -> None:
    """DataError where the weights of a run folder were trained under other settings than lie beside them.

    Checkpoints from before this was kept pass.
    """
    now = bound_to(recipe, env)
    if meta.get("settings", now["settings"]) != now["settings"]:
        raise DataError(
            f"{path} was trained with other settings of model, transformer, cue or scheme than its config.yaml says; bring "
            "back the config.yaml that was written beside it."
        )
    if meta.get("environment", now["environment"]) != now["environment"]:
        raise DataError(
            f"{path} was trained with another framing or other classes than its environment.json says; bring back the "
            "environment.json that was written beside it."
        )


def load_model(path: Path, which: str = "best") -> tuple[Classifier, Recipe, dict[str, Any]]:
    """Model of a run folder in evaluation mode, its recipe and its environment. Weights come from `best.ckpt`."""
    from dataclasses import replace

    from mien.models import create_model

    recipe, env = read_run(path)
    if recipe.data.folds and recipe.data.fold is None:
        raise DataError(f"{path} gathers the folds of a cross-validation; name one of them, e.g. {path / 'fold-0'}.")
    if not env:
        raise DataError(
            f"{path / 'environment.json'} is missing, which says how faces are cut out; bring it back, or train again."
        )
    if "wrapped" in env.get("checkpoint", {}):
        raise DataError(
            f"{path} holds scores of a model that mien did not train, not its weights; give the model itself."
        )
    file = weights_file(path) if which == "best" else path / f"{which}.ckpt"
    tensors, meta = load_tensors(file)
    refuse_not_finite(tensors, file)
    refuse_unbound(file, meta, recipe, env)
    plain = replace(recipe.model, pretrained=False, weights=None, initial=None)
    classes = scheme_classes(recipe.data.scheme)
    two_heads = recipe.data.targets == "both"
    model = create_model(plain, len(classes), recipe.guidance.layers, recipe.transformer, two_heads)
    weights = {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{path}/{which}.ckpt does not fit its config.yaml: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval(), recipe, {**env, "checkpoint": meta}


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, content in tree.items() for key, value in content.items()}
