"""A pretend GPU: tensors that say `cuda:0` and compute on the CPU, watched by a dispatch mode.

It needs no card and no driver. An operator that mixes devices fails as on a card. Host syncs,
copies, kernel launches and convolutions in NCHW are counted with the line of the project that
caused them, so a budget that is exceeded names the culprit.

What it cannot do: CUDA's autograd engine asks for a driver. So `pretend_step` counts a whole
training step with tensors that say `cpu`, while the code takes the GPU's paths
(`sddusr.model.tuning`): forward, backward and the optimizer dispatch the operators of a GPU.

With `shapes_only` nothing is computed, so networks and images of any size are counted in seconds:
values are unknown, a mask keeps half of its cells, and what the host reads is zero.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from sddusr.model.tuning import GPU, TUNINGS

CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")
GIGABYTE = 2**30
CARD_BYTES = 80 * GIGABYTE
ROOT = Path(__file__).resolve().parents[1]

aten = torch.ops.aten
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

NO_KERNEL = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.lift_fresh.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten.detach.default,
    aten.is_pinned.default,
    aten._pin_memory.default,
    aten.set_.source_Tensor,
    aten._local_scalar_dense.default,
    aten._fused_sdp_choice.default,
    aten.sym_size.int,
    aten.sym_numel.default,
    aten.is_same_size.default,
    torch.ops.prim.device.default,
}
"""Operators that launch nothing, besides views."""

WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten.equal.default,
    aten.repeat_interleave.Tensor,
    aten.segment_reduce.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
}
"""Operators that wait for the device, since the host has to know a result."""

INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
           aten._unsafe_index.Tensor, aten._index_put_impl_.default,
           aten._unsafe_index_put.default}  # fmt: skip
"""Operators that wait where a mask of booleans is among their indices."""

CONVOLUTIONS = {aten.convolution.default, aten._convolution.default, aten.conv2d.default,
                aten.convolution_backward.default, aten.conv2d.padding}  # fmt: skip

COPIES = {aten._to_copy.default, aten.copy_.default}

KEPT_WHOLE = {aten.scaled_dot_product_attention.default, aten.conv2d.default, aten.linear.default}
"""Composite operators that CUDA runs as one kernel or two."""

NONDETERMINISTIC = {
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "_upsample_bilinear2d_aa_backward",
    "upsample_bicubic2d_backward",
    "_upsample_bicubic2d_aa_backward",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "replication_pad1d_backward",
    "replication_pad2d_backward",
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "max_unpool2d",
    "nll_loss2d_forward",
    "put_",
    "histc",
    "kthvalue",
    "deform_conv2d_backward",
    "_deform_conv2d_backward",
}
"""Operators whose CUDA kernels add in no fixed order: those that `use_deterministic_algorithms`
refuses, and torchvision's deformable backward. Where torch has an ordered kernel of the same
operator (`index_put` and `index_add`, `scatter_add`), its switch takes that one."""


THEIR_FORWARDS = {
    "grid_sampler_2d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "reflection_pad2d",
    "replication_pad2d",
    "_adaptive_avg_pool2d",
    "deform_conv2d",
}
"""What has such a backward; counted where a gradient is asked for."""


class MixedDevicesError(RuntimeError):
    """An operator met tensors of the card and of the CPU."""


class PretendTensor(torch.Tensor):
    """Says that it lies on `cuda:0`; `on_cpu` is what it holds."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device = CUDA) -> "PretendTensor":
        outer = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
            requires_grad=False,
        )
        outer.on_cpu = inner
        return outer

    __torch_function__ = torch._C._disabled_torch_function_impl

    is_cuda, is_cpu = True, False  # by which torch picks what is ordered under its switch

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.on_cpu!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} met a tensor of the pretend GPU outside of its mode")


class Counts:
    """What happened on the card."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        """By line of the project and kind."""
        self.copies: Counter[str] = Counter()
        self.nchw: Counter[str] = Counter()
        self.casts: Counter[str] = Counter()
        """Of a weight to another format."""
        self.nondeterministic: Counter[str] = Counter()
        self.convolutions = 0
        self.views = 0
        self.copied_bytes = 0

    @property
    def num_launches(self) -> int:
        return self.launches.total()

    @property
    def num_syncs(self) -> int:
        return self.syncs.total()

    def explain(self, what: Counter[str], most: int = 12) -> str:
        """The lines that cause most of it."""
        return "; ".join(f"{num} x {line}" for line, num in what.most_common(most))


class PretendGpu(TorchDispatchMode):
    """While active, `cuda` names a card whose work is counted.

    Args:
        device: what the tensors say; with the CPU, every tensor that is made lies on the card.
        by_line: name the line of the project for launches too, which is slow.
        shapes_only: compute nothing.
    """

    def __init__(
        self, device: torch.device = CUDA, by_line: bool = False, shapes_only: bool = False
    ) -> None:
        super().__init__()
        self.device, self.is_everywhere = device, device.type == "cpu"
        self.shapes_only = shapes_only
        self.storage_device = torch.device("meta") if shapes_only else CPU
        self.counts = Counts()
        self.by_line = by_line
        self.pinned: WeakSet[Any] = WeakSet()

    def reset(self) -> Counts:
        """Reset the counts; the counts so far."""
        counts, self.counts = self.counts, Counts()
        return counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        if func not in KEPT_WHOLE and _is_composite(func):
            with self:
                return func._op_dk(COMPOSITE, *args, **kwargs)
        return self._run(func, args, kwargs)

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        flat, spec = tree_flatten((args, kwargs))
        tensors = [x for x in flat if isinstance(x, Tensor)]
        on_card = [x for x in tensors if isinstance(x, PretendTensor)]
        target = kwargs.get("device")
        to_card = target is not None and torch.device(target).type == "cuda"
        if self.is_everywhere:
            to_card = not tensors
        if func in COPIES:
            return self._copy(func, args, kwargs)
        if func is aten._pin_memory.default:
            pinned = args[0].clone()
            self.pinned.add(pinned.untyped_storage())
            return pinned
        if func is aten.is_pinned.default:
            return args[0].untyped_storage() in self.pinned
        is_ours = bool(on_card) or to_card
        if on_card and not self.is_everywhere:
            self._check_mixed(func, tensors, to_card)
        inners = [x.on_cpu if isinstance(x, PretendTensor) else x for x in flat]
        if on_card and self.shapes_only:
            inners = [x.to("meta") if isinstance(x, Tensor) and x.dim() else x for x in inners]
        owner = {id(x.on_cpu): x for x in on_card}
        plain_args, plain_kwargs = tree_unflatten(inners, spec)
        if target is not None or (to_card and self.shapes_only):
            plain_kwargs = plain_kwargs | {"device": self.storage_device if to_card else target}
        if is_ours:
            self._count(func, inners, plain_args, any(x.requires_grad for x in on_card))
        if self.shapes_only and (on_card or to_card):
            out = _only_shape(func, plain_args, plain_kwargs)
        else:
            out = _compute(func, plain_args, plain_kwargs)
        leaves_card = func is aten._local_scalar_dense.default
        if not (on_card or to_card) or leaves_card:
            return out

        def wrapped(x: Tensor) -> Tensor:
            if id(x) in owner:
                return owner[id(x)]
            # A view of a weight is a weight's, and no tensor of inference.
            of_weight = is_view(func) and bool(on_card) and not on_card[0].is_inference()
            with torch.inference_mode(torch.is_inference_mode_enabled() and not of_weight):
                return PretendTensor(x, self.device)

        return tree_map_only(Tensor, wrapped, out)

    def _check_mixed(self, func: Any, tensors: list[Tensor], to_card: bool) -> None:
        others = [x for x in tensors if not isinstance(x, PretendTensor) and x.dim() > 0]
        if not others or to_card:
            return
        is_index = func in INDEXED and all(x.dtype in (torch.long, torch.bool) for x in others)
        if is_index and isinstance(tensors[0], PretendTensor):
            self.counts.syncs[f"{_place()}: indices of the CPU"] += 1
            return
        shapes = ", ".join(str(tuple(x.shape)) for x in others)
        raise MixedDevicesError(
            f"{_place()}: {func} met tensors of cuda:0 and of the CPU ({shapes})"
        )

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Between the devices, or a change of format on one."""
        if func is aten.copy_.default:
            target, source = args[0], args[1]
            goes = isinstance(target, PretendTensor), isinstance(source, PretendTensor)
        else:
            source = args[0]
            device = kwargs.get("device")
            here = isinstance(source, PretendTensor)
            goes = here if device is None else torch.device(device).type == "cuda", here
            target = None
        if self.is_everywhere:
            goes = (True, True)
        plain = source.on_cpu if isinstance(source, PretendTensor) else source
        non_blocking = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        if goes[0] != goes[1]:
            self._count_transfer(plain, target, goes[0], non_blocking)
        elif goes[0]:
            self._count(func, [plain], args)
            dtype = kwargs.get("dtype")
            is_weight = source.requires_grad or _is_parameter(source)
            if is_weight and dtype not in (None, source.dtype):
                self.counts.casts[_place()] += 1
        if self.shapes_only and goes[1] and not goes[0]:
            plain = torch.zeros_like(plain, device=CPU)
        if target is not None:
            inner = target.on_cpu if isinstance(target, PretendTensor) else target
            if inner.device == plain.device or not self.shapes_only:
                inner.copy_(plain)
            return target
        options = {
            key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")
        }
        if goes[0] and plain.device != self.storage_device:
            options["device"] = self.storage_device
        out = aten._to_copy.default(plain, **options)
        if kwargs.get("pin_memory"):
            self.pinned.add(out.untyped_storage())
        return PretendTensor(out, self.device) if goes[0] else out

    def _count_transfer(
        self, plain: Tensor, target: Any, is_upload: bool, non_blocking: bool
    ) -> None:
        host = plain if is_upload else target
        is_pinned = host is not None and host.untyped_storage() in self.pinned
        kind = "upload" if is_upload else "download"
        place = _place()
        self.counts.copies[f"{place}: {kind}"] += 1
        self.counts.copied_bytes += plain.numel() * plain.element_size()
        if not (non_blocking and is_pinned):
            self.counts.syncs[f"{place}: {kind}, {'pinned' if is_pinned else 'pageable'}"] += 1

    def _count(self, func: Any, inners: list[Any], args: Any, needs_grad: bool = False) -> None:
        counts = self.counts
        name = str(func)
        waits = func in WAITS
        if func in INDEXED:
            indices = args[1]
            waits = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if waits:
            counts.syncs[f"{_place()}: {name}"] += 1
        short = name.split(".")[1]
        if short in NONDETERMINISTIC or (needs_grad and short in THEIR_FORWARDS):
            counts.nondeterministic[f"{name} {_place()}"] += 1
        if func in CONVOLUTIONS:
            counts.convolutions += 1
            weight = args[2] if func is aten.convolution_backward.default else args[1]
            if not weight.is_contiguous(memory_format=torch.channels_last):
                counts.nchw[_place()] += 1
        if is_view(func):
            counts.views += 1
        elif func not in NO_KERNEL:
            counts.launches[f"{name} {_place()}" if self.by_line else name] += 1


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the card would give."""
    if func is aten._fused_sdp_choice.default:
        return 2  # the memory-efficient kernel
    if func is aten._scaled_dot_product_efficient_attention.default:
        query, key, value, bias = args[:4]
        scale = kwargs.get("scale")
        out = aten._scaled_dot_product_attention_math.default(query, key, value, bias, scale=scale)[
            0
        ]
        nothing = out.new_empty(())
        return out, query.new_empty(query.shape[:-1], dtype=torch.float32), nothing, nothing
    if kwargs.get("pin_memory"):
        kwargs = kwargs | {"pin_memory": False}
    return func(*args, **kwargs)


def _only_shape(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A result without values."""
    kwargs = {key: None if key == "generator" else value for key, value in kwargs.items()}
    if func is aten._local_scalar_dense.default:
        return args[0].dtype.is_floating_point * 1.0 if args[0].dtype != torch.bool else True
    if func is aten.nonzero.default:
        rows = max(1, args[0].numel() // 2)
        return args[0].new_empty((rows, args[0].dim()), dtype=torch.long)
    if func in INDEXED:
        indices = [
            part
            for i in args[1]
            for part in ([i] if i is None or i.dtype != torch.bool else _half_of(i))
        ]
        args = (args[0], indices, *args[2:])
    if func is aten._embedding_bag_forward_only.default or func is aten._embedding_bag.default:
        weight, index, offsets = args[:3]
        num = len(offsets)
        return (weight.new_empty(num, weight.shape[1]), index.new_empty(0), index.new_empty(num),
                index.new_empty(num))  # fmt: skip
    return _compute(func, args, kwargs)


def _half_of(mask: Tensor) -> list[Tensor]:
    """Indices of half of a mask's cells."""
    num = max(1, mask.numel() // 2)
    return [mask.new_empty(num, dtype=torch.long) for _ in range(mask.dim())]


def _is_composite(func: Any) -> bool:
    if func not in _COMPOSITES:
        _COMPOSITES[func] = torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        )
    return _COMPOSITES[func]


_VIEWS: dict[Any, bool] = {}
_COMPOSITES: dict[Any, bool] = {}


def is_view(func: Any) -> bool:
    """Whether the operator gives an alias of what it gets, and writes nothing."""
    if func not in _VIEWS:
        given = func._schema.returns
        _VIEWS[func] = bool(given) and all(
            r.alias_info is not None and not r.alias_info.is_write for r in given
        )
    return _VIEWS[func]


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _place() -> str:
    """The innermost line of the project that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(str(ROOT)) and path != __file__ and "/.venv/" not in path:
            return f"{Path(path).relative_to(ROOT)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "backward or torch"


class _Event:
    """A CUDA event that has always happened."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def elapsed_time(self, _: Any) -> float:
        return 1.0


@contextmanager
def pretend_gpu(
    device: torch.device = CUDA,
    by_line: bool = False,
    shapes_only: bool = False,
    free_bytes: int = CARD_BYTES,
) -> Iterator[PretendGpu]:
    """A card of 80 GB with bfloat16, as far as `torch.cuda` is asked."""
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` is made here, then copied
    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda *_: (free_bytes, CARD_BYTES),
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "get_device_capability": lambda *_: (9, 0),
        "get_per_process_memory_fraction": lambda *_: 1.0,
        "get_device_name": lambda *_: "a pretend GPU",
        "is_current_stream_capturing": lambda: False,
        "Event": _Event,
    }
    with ExitStack() as stack:
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):  # the host's own
            stack.enter_context(mock.patch.object(torch.cpu, name, return_value=False))
        overwrite = torch.__future__.set_overwrite_module_params_on_conversion
        stack.callback(overwrite, torch.__future__.get_overwrite_module_params_on_conversion())
        overwrite(True)
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        no_amp = "torch.cuda.amp.common.amp_definitely_not_available"
        stack.enter_context(mock.patch(no_amp, return_value=False))
        mode = stack.enter_context(PretendGpu(device, by_line, shapes_only))
        yield mode


@contextmanager
def pretend_step(by_line: bool = False) -> Iterator[PretendGpu]:
    """Counts a training step, backward too: without values, on tensors that say `cpu`."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(TUNINGS, {"cpu": GPU}))
        for place in ("torch.nn.utils.clip_grad", "torch.utils._foreach_utils"):
            for name in ("_has_foreach_support", "_device_has_foreach_support"):
                stack.enter_context(mock.patch(f"{place}.{name}", return_value=True))
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):  # the host's own
            stack.enter_context(mock.patch.object(torch.cpu, name, return_value=False))
        overwrite = torch.__future__.set_overwrite_module_params_on_conversion
        stack.callback(overwrite, torch.__future__.get_overwrite_module_params_on_conversion())
        overwrite(True)
        yield stack.enter_context(PretendGpu(CPU, by_line, shapes_only=True))
