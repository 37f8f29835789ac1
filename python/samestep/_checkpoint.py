"""A training run in a file: parameters, optimizer state and everything that the next step depends on."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, comm, safetensors_io
from ._core import CheckpointError

if TYPE_CHECKING:
    from ._compile import Plan
    from .trainer import Trainer

FORMAT = "samestep-training-1"


def _trained(plan: Plan) -> list[str]:
    return [name for name, item in plan._stored.items() if getattr(item, "requires_grad", False)]


def slots_of(plan: Plan) -> dict[str, np.ndarray[Any, Any]]:
    """The optimizer's state, under "slot.parameter". Collective."""
    if plan._model is None:
        return {}
    if plan._central:
        plan.model.central_gather(True)
    else:
        plan._sessions[plan._last][0].gather_slots()
    state = {
        f"{slot}.{name}": plan.model.get_slot(slot, name) for slot in plan.model.slots() for name in _trained(plan)
    }
    return {name: value for name, value in state.items() if value.size}  # not every parameter has an "extra"


def put_slots(plan: Plan, state: dict[str, np.ndarray[Any, Any]], step: int) -> None:
    """The opposite of slots_of."""
    for slot in plan.model.slots():
        for name in _trained(plan):
            if f"{slot}.{name}" in state:
                plan.model.set_slot(slot, name, state[f"{slot}.{name}"])
    plan.model.step = step


def kept_of(plan: Plan) -> dict[str, np.ndarray[Any, Any]]:
    """What this rank alone keeps, under "kind.parameter": errors of compression, and the optimizer's state in local
    training."""
    if plan._model is None:
        return {}
    kept: dict[str, np.ndarray[Any, Any]] = {}
    compression = plan.parallel.compression
    if compression is not None and plan.comm.size > 1:
        for kind in ("residual", "owed", "compressor") if compression.feedback else ("compressor",):
            for name in _trained(plan):
                with contextlib.suppress(KeyError):  # not every compressor keeps every kind
                    kept[f"{kind}.{name}"] = plan.model.get_kept(kind, name)
    if plan._local:
        kept |= slots_of(plan)
    return kept


def put_kept(plan: Plan, everyone: list[dict[str, np.ndarray[Any, Any]]]) -> None:
    """Puts in place what each rank of a run kept. Where this run has another number of ranks, errors of compression are
    spread evenly, and optimizer states dealt out in turn."""
    if not everyone:
        return
    ranks, rank = plan.comm.size, plan.comm.rank
    mine = everyone[rank % len(everyone)]
    for key, value in mine.items():
        kind, _, name = key.partition(".")
        if kind in ("residual", "owed", "compressor"):
            if len(everyone) != ranks and kind != "compressor":
                share = 1 / ranks if kind == "residual" else 1.0  # of what is owed a rank keeps its own pieces
                value = np.float32(share) * np.sum([kept[key] for kept in everyone], axis=0, dtype=np.float32)
            with contextlib.suppress(KeyError):  # this run compresses otherwise, or not at all
                plan.model.set_kept(kind, name, value)
    if plan._local:
        put_slots(plan, mine, plan.model.step)


def outer_of(plan: Plan) -> dict[str, np.ndarray[Any, Any]]:
    """The velocity of local training's outer optimizer. Collective."""
    if plan._model is None or not plan._local or plan._local.outer is None:
        return {}
    plan.model.gather_velocity()
    return {name: plan.model.velocity(name) for name in _trained(plan)}


def put_outer(plan: Plan, velocities: dict[str, np.ndarray[Any, Any]]) -> None:
    """The opposite of outer_of."""
    if plan._local and plan._local.outer is not None:
        for name, value in velocities.items():
            plan.model.velocity(name, value)


def _callback_states(trainer: Trainer) -> list[list[Any]]:
    """Kind and state of each callback."""
    return [
        [type(item).__name__, item.state_dict() if hasattr(item, "state_dict") else {}] for item in trainer.callbacks
    ]


def save(path: str, trainer: Trainer, order: tuple[Any, ...], note: str) -> None:
    """Rank 0 writes the file in one move; an error reaches every rank. Collective."""
    plan = trainer.plan
    if plan._swapped:
        raise RuntimeError(
            "a checkpoint cannot be saved inside `with plan.averaged()`: weights and averages are exchanged"
        )
    plan.synchronize()
    slots, outer = slots_of(plan), outer_of(plan)
    special = plan.parallel.compression is not None or plan._alone
    everyone = comm.allgather(kept_of(plan), plan.comm) if special else []
    steps = comm.allgather(plan.model.step, plan.comm) if special else []

    def write() -> None:
        if plan.comm.rank != 0:
            return
        tensors = {f"model.{name}": value for name, value in trainer.net.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in slots.items()}
        tensors |= {f"outer.{name}": value for name, value in outer.items()}
        tensors |= {f"rank{r}.{name}": value for r, kept in enumerate(everyone) for name, value in kept.items()}
        state = {
            "format": FORMAT,
            "samestep": _core.build_info()["version"],
            "order_version": _core.ORDER_VERSION,
            "step": plan.model.step,
            "epoch": trainer.epoch,
            "epoch_step": trainer._epoch_step,
            "epoch_sums": trainer._epoch_sums,
            "seed": trainer.seed,
            "lanes": plan.lanes,
            "ranks": len(everyone),
            "steps": steps,
            "samples": order[0],
            "batch_size": order[1],
            "shuffle": order[2],
            "optimizer": type(plan.optimizer).__name__,
            "hypers": plan.optimizer.hypers(),
            "schedule": {} if trainer.schedule is None else trainer.schedule.state_dict(),
            "callbacks": _callback_states(trainer),
            "history": trainer.history.to_dict(),
            "note": note,
        }
        safetensors_io.write(path, tensors, {"samestep": json.dumps(state)})

    comm.together(plan.comm, write)


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load(path: str, trainer: Trainer, order: tuple[Any, ...]) -> bool:
    """Puts a saved run back in place. False when there is no file yet. Raises CheckpointError that names what does not
    fit. Collective."""
    plan = trainer.plan
    # Rank 0's view of the file system decides, and its bytes are the ones that count.
    content: Any = None

    def read() -> Any:
        if plan.comm.rank != 0 or not os.path.exists(path):
            return None
        tensors, metadata = safetensors_io.read(path)
        return tensors, metadata

    content = comm.broadcast(comm.together(plan.comm, read), 0, plan.comm)
    if content is None:
        return False
    tensors, metadata = content
    try:
        state = json.loads(metadata["samestep"])
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {state['format']!r}")
        wanted = {
            "order_version": _core.ORDER_VERSION,
            "lanes": plan.lanes,
            "seed": trainer.seed,
            "batch_size": order[1],
            "optimizer": type(plan.optimizer).__name__,
        }
        if plan._alone:  # each rank has lanes of its own, whose number follows from that of the ranks
            del wanted["lanes"]
        for name, value in wanted.items():
            if state[name] != value:
                why = (
                    "sums would be taken in another order"
                    if name in ("order_version", "lanes")
                    else "the run would not go on as it began"
                )
                raise CheckpointError(f"{path} was written with {name}={state[name]!r}, this run has {value!r}: {why}")
        if state["epoch_step"]:
            for name, value in (("samples", order[0]), ("shuffle", order[2])):
                if state[name] != value:
                    raise CheckpointError(
                        f"{path} was written in the middle of an epoch with {name}={state[name]!r}, this run has {value!r}"
                    )
        numbers = {name: int(state[name]) for name in ("step", "epoch", "epoch_step")}
        sums = [[float(value) for value in row] for row in state["epoch_sums"]]
        columns = {str(name): [float(value) for value in values] for name, values in state["history"].items()}
        # Whatever does not fit is refused here, before anything is put in place.
        if not all(0 <= number < 2**63 for number in numbers.values()):
            raise ValueError(f"step, epoch and epoch_step are {list(numbers.values())}")
        if len(sums) != numbers["epoch_step"] or any(len(row) != 2 * len(plan.result_names) for row in sums):
            raise ValueError(
                f"it holds sums of {len(sums)} steps of an epoch, of which {numbers['epoch_step']} were made, "
                f"and this run measures {', '.join(plan.result_names)}"
            )
        if numbers["epoch_step"] > -(-int(order[0]) // int(order[1])):
            raise ValueError(f"epoch_step is {numbers['epoch_step']}, more than an epoch has")
        if len({len(column) for column in columns.values()}) > 1:
            raise ValueError("the columns of its history differ in length")
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of samestep: {error!r}") from None
    slots = {name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")}
    for slot in plan.model.slots():
        for name in _trained(plan):
            value = slots.get(f"{slot}.{name}")
            held = plan.model.get_slot(slot, name)
            if held.size and (value is None or value.shape != held.shape):
                raise CheckpointError(f"{path} has no '{slot}' of the optimizer for '{name}' that fits")
    try:
        trainer.net.load_state_dict(
            {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    put_slots(plan, slots, numbers["step"])
    put_kept(plan, [_part(tensors, f"rank{r}.") for r in range(int(state.get("ranks", 0)))])
    put_outer(plan, _part(tensors, "outer."))
    if plan._local:
        plan.model.begin_meetings()  # the parameters that were loaded are the new start
        plan._taken = plan.model.step
    if plan._central:
        plan.model.central_begin()
    steps = state.get("steps", [])
    if plan._alone and len(steps) == plan.comm.size:  # workers and servers count their own
        plan.model.step = int(steps[plan.comm.rank])
    counters = {name: value for name, value in tensors.items() if name.endswith("num_batches_tracked")}
    trainer.net.load_state_dict({name.removeprefix("model."): value for name, value in counters.items()}, strict=False)
    if trainer.schedule is not None and state.get("schedule"):
        trainer.schedule.load_state_dict(state["schedule"])
    kept = list(state.get("callbacks", []))
    for callback, (kind, values) in zip(trainer.callbacks, kept, strict=False):
        if kind == type(callback).__name__ and values and hasattr(callback, "load_state_dict"):
            callback.load_state_dict(values)
    trainer.epoch, trainer._epoch_step, trainer._epoch_sums = numbers["epoch"], numbers["epoch_step"], sums
    trainer.history._columns = columns
    return True
