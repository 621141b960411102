"""A device that is none: it computes on the CPU, but tensors must be brought there and back.

A GPU refuses what mixes its tensors with those of the CPU, and numpy cannot read them. So does this
device, which needs no GPU. It is named ``meta``, since torch takes that name on every machine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "meta"
aten = torch.ops.aten
BETWEEN = {aten.copy_.default, aten._to_copy.default}
INDEXING = {  # with an index on the CPU, as a GPU takes it
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class Held(torch.Tensor):
    """A tensor on the device; ``held`` has its values on the CPU."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Held:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=NAME,
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class PretendDevice(TorchDispatchMode):
    """In this block tensors can be made on the device and moved there.

    Attributes:
        n_bytes: What was brought there and back, by the device that it went to.
    """

    def __init__(self):
        super().__init__()
        self.n_bytes = {NAME: 0, "cpu": 0}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = _compute(function, args, kwargs or {})
        tensors = [value for value in (*args[:1], result) if isinstance(value, torch.Tensor)]
        if len({tensor.device for tensor in tensors}) > 1:
            self.n_bytes[result.device.type] += result.numel() * result.element_size()
        return result


def _compute(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if function is aten._has_compatible_shallow_copy_type.default:  # asked when modules move
        return isinstance(args[0], Held) == isinstance(args[1], Held)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Held)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Held) and tensor.dim() > 0]
    indexed = function in INDEXING and isinstance(args[0], Held)
    if there and here and function not in BETWEEN and not indexed:
        raise RuntimeError(f"{function}: tensors on two devices, {NAME} and cpu")
    if function is aten.copy_.default:
        goes_there = isinstance(args[0], Held)
    elif kwargs.get("device") is not None:
        goes_there = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    else:
        goes_there = bool(there)
    known = {id(tensor.held): tensor for tensor in there}
    args, kwargs = tree_map_only(Held, lambda tensor: tensor.held, (args, kwargs))
    result = function(*args, **kwargs)
    if not goes_there:
        return result
    return tree_map_only(
        torch.Tensor,
        lambda tensor: known[id(tensor)] if id(tensor) in known else Held(tensor),
        result,
    )
