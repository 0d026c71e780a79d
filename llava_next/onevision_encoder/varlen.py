"""The attention backend ``varlen``: one kernel for all segments, without flash-attn.

``torch.nn.attention.varlen.varlen_attn`` came with torch 2.10 and runs on CUDA devices from compute
capability 8.0 on, in float16 and bfloat16, without dropout. Where one of these does not hold, and
where no bounds are given, this backend does the same work by the library's ``sdpa``, one call for
neighbours of one length: the name is valid on every device. Where no backend is asked for, models
on a machine that runs the kernel take this one.

Axis letters: B samples, L tokens of a row, P tokens of a packed row, N heads, M heads of keys and
values (M divides N), K width of a head, S segments.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

VARLEN = "varlen"
_KERNEL_DTYPES = (torch.float16, torch.bfloat16)
_MAX_HEAD_DIM = 256
_HEAD_DIM_MULTIPLE = 8
_LOWEST_CAPABILITY = (8, 0)


@lru_cache(maxsize=1)
def varlen_kernel() -> Callable[..., Any] | None:
    """Return torch's kernel, None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


class Machine(NamedTuple):
    """What decides whether the kernel can run.

    Attributes:
        has_kernel: whether this torch has ``varlen_attn``.
        device_type: ``cuda`` where there is an NVIDIA device.
        capability: compute capability of the device.
    """

    has_kernel: bool
    device_type: str
    capability: tuple[int, int] = (0, 0)


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Look at this machine, once."""
    has_kernel = varlen_kernel() is not None
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return Machine(has_kernel, "cpu")
    return Machine(has_kernel, "cuda", torch.cuda.get_device_capability())


def runs_kernel(machine: Machine) -> bool:
    """Return whether the kernel runs on a machine."""
    return (
        machine.has_kernel
        and machine.device_type == "cuda"
        and machine.capability >= _LOWEST_CAPABILITY
    )


@torch.compiler.assume_constant_result  # compiled blocks need not look at the machine
def is_varlen_available() -> bool:
    """Return whether this machine has a device that runs the kernel, and a torch with it."""
    return runs_kernel(this_machine())


def is_varlen_default(machine: Machine, head_dim: int, dropout: float = 0.0) -> bool:
    """Return whether a model takes this backend where none is asked for.

    In float32, and on the CPU, the backend does what the library's default does.

    Args:
        machine: the machine that the model is built on.
        head_dim: width of a head.
        dropout: dropout of the attention probabilities, which the kernel does not have.
    """
    return runs_kernel(machine) and _fits_heads(head_dim) and dropout == 0.0


def _fits_heads(head_dim: int) -> bool:
    return head_dim <= _MAX_HEAD_DIM and head_dim % _HEAD_DIM_MULTIPLE == 0


@lru_cache(maxsize=8)
def _parameters(kernel: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(kernel).parameters)


def call_kernel(
    kernel: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    *,
    scaling: float,
    is_causal: bool,
) -> Tensor:
    """Call the kernel with the arguments that the installed torch takes.

    torch 2.10 takes ``is_causal`` and has neither ``enable_gqa`` nor ``window_size``.

    Args:
        kernel: ``varlen_attn``.
        query: (P, N, K).
        key: (P, M, K).
        value: (P, M, K).
        bounds: int32 (S + 1,), from 0 to P.
        longest: tokens of the longest segment.
        scaling: factor of the scores.
        is_causal: whether a token sees only those before it.

    Returns:
        (P, N, K).
    """
    names = _parameters(kernel)
    options: dict[str, Any] = {}
    if "window_size" in names:
        options["window_size"] = (-1, 0) if is_causal else (-1, -1)
    else:
        options["is_causal"] = is_causal
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in names:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    if "scale" in names:
        options["scale"] = scaling
    else:
        query = query * (scaling * query.shape[-1] ** 0.5)
    return kernel(query, key, value, bounds, bounds, longest, longest, **options)


def _fits_kernel(query: Tensor, dtype: torch.dtype, dropout: float) -> bool:
    # On the device meta the kernel's shapes are checked, and nothing is computed.
    has_kernel = is_varlen_available() if query.is_cuda else query.is_meta and varlen_kernel()
    return (
        bool(has_kernel)
        and dtype in _KERNEL_DTYPES
        and dropout == 0.0
        and _fits_heads(query.shape[-1])
    )


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sample_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each segment of a packed row; the library's ``sdpa`` for any other input.

    Args:
        module: module of the attention; says whether it is causal where ``is_causal`` is None.
        query: (B, N, L, K), B = 1 where there are bounds.
        key: (B, M, L, K).
        value: (B, M, L, K).
        attention_mask: mask of the library for rows without bounds.
        scaling: factor of the scores; None is 1 / sqrt(K).
        dropout: dropout of the probabilities.
        is_causal: whether a token sees only those before it.
        cu_seq_lens_q: int32 (S + 1,), bounds of the segments, on the device.
        max_length_q: tokens of the longest segment.
        sample_lengths: tokens of each segment, on the host, for the way without the kernel.
        **kwargs: further arguments of the library's function.

    Returns:
        (B, L, N, K) and None.
    """
    for name in ("cu_seq_lens_k", "max_length_k"):
        kwargs.pop(name, None)
    options = {"scaling": scaling, "dropout": dropout, "is_causal": is_causal, **kwargs}
    if cu_seq_lens_q is None or max_length_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    dtype = query.dtype
    if dtype == torch.float32 and query.is_cuda and torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
    if _fits_kernel(query, dtype, dropout):
        kernel: Any = varlen_kernel()
        query, key, value = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
        mixed = call_kernel(
            kernel,
            query,
            key,
            value,
            cu_seq_lens_q,
            max_length_q,
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            is_causal=bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal,
        )
        return mixed[None], None
    lengths = cu_seq_lens_q.diff().tolist() if sample_lengths is None else sample_lengths
    return attend_by_length(sdpa_attention_forward, module, query, key, value, lengths, **options)


def attend_by_length(
    attention: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    **options: Any,
) -> tuple[Tensor, None]:
    """Return attention within each segment of one packed row, (1, L, N, K), and None.

    Neighbours of one length are the rows of one call.

    Args:
        attention: an attention function of the library.
        module: the layer that it belongs to.
        query: (1, N, L, K).
        key: (1, M, L, K).
        value: (1, M, L, K).
        lengths: tokens of each segment, L in all.
        **options: further arguments of the function.
    """
    runs = [(len(list(run)), length) for length, run in groupby(lengths)]
    sizes = [count * length for count, length in runs]
    parts = zip(*(x[0].split(sizes, dim=1) for x in (query, key, value)), strict=True)
    mixed: list[Tensor] = []
    for run, part in zip(runs, parts, strict=True):
        q, k, v = (x.unflatten(1, run).transpose(0, 1) for x in part)
        mixed.append(attention(module, q, k, v, None, **options)[0].flatten(0, 1))
    return torch.cat(mixed)[None], None


ALL_ATTENTION_FUNCTIONS.register(VARLEN, varlen_attention)
