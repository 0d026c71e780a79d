"""Finds operations for which the host would wait for the device, on a machine without one."""

import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::_unique2",
        "aten::equal",
        "aten::is_nonzero",
        "aten::item",
        "aten::masked_scatter_backward",
        "aten::masked_select",
        "aten::nonzero",
        "aten::unique_consecutive",
        "aten::unique_dim",
    }
)
"""Operations whose result, or its shape, the host reads from the tensors' values."""


class WaitingOperationError(AssertionError):
    """The host would have waited for the device."""


def _indexes_by_truth(name: str, arguments: Iterable[Any]) -> bool:
    """Return whether a tensor is indexed by a mask, which is made a list of indices first."""
    if name not in {"aten::index", "aten::index_put", "aten::index_put_"}:
        return False
    indices = list(arguments)[1]
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices)


class _NoLists(TorchFunctionMode):
    """Refuses what reads values of a tensor without any operation."""

    def __init__(self, refuse: Callable[[str], None]) -> None:
        super().__init__()
        self._refuse = refuse

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.Tensor.tolist, torch.Tensor.numpy):
            self._refuse(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


class NoWaiting(TorchDispatchMode):
    """Refuses operations that read values, for tensors of any device.

    Args:
        is_allowed: called with the innermost lines of the stack, ``file:function``; for code whose
            tensors stay on the host.
    """

    def __init__(self, is_allowed: Callable[[list[str]], bool] = lambda _: False) -> None:
        super().__init__()
        self._is_allowed = is_allowed
        self._lists = _NoLists(self._refuse)
        self.operations = 0

    def __enter__(self) -> "NoWaiting":
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def _refuse(self, name: str) -> None:
        frames = traceback.extract_stack()
        lines = [f"{frame.filename}:{frame.name}" for frame in reversed(frames)]
        if not self._is_allowed(lines):
            shown = [f"{frame.filename}:{frame.lineno}" for frame in reversed(frames)][2:10]
            raise WaitingOperationError(f"{name} waits for the device, at {shown}")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, or refuse it."""
        name = func._schema.name
        self.operations += 1
        if name in WAITS or _indexes_by_truth(name, args):
            self._refuse(name)
        return func(*args, **(kwargs or {}))
