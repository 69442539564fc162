"""The pretended GPU: tensors that say they are on a device, and a mode that carries out every operation on them on the CPU."""

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import safetensors.torch
import torch
from pretend import autocast, backend, costs
from pretend.backend import COMPUTING, NAME, Stream
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

ROOT, HERE = Path(__file__).parents[2], str(Path(__file__).parent)
STAGED = 1 << 16  # bytes of pageable memory that the driver takes without waiting

# Operators that wait for the device because the host needs their numbers, or the size of their result, by their name in Python.
_WAITING = {
    "_local_scalar_dense": "item()",
    "is_nonzero": "bool()",
    "nonzero": "nonzero()",
    "masked_select": "masked_select()",
    "_unique2": "unique()",
    "unique_dim": "unique()",
    "unique_consecutive": "unique_consecutive()",
    "equal": "equal()",
}
_INDEXING = frozenset(["index", "index_put", "index_put_", "_index_put_impl_"])
_COPYING = frozenset(["copy_", "_to_copy"])
_save_file = safetensors.torch.save_file


class Wait(NamedTuple):
    """A moment at which the host waits for the device: in which phase, for what, and the file and line."""

    phase: str
    what: str
    place: str


class DeviceMixError(RuntimeError):
    """CUDA's answer to an operation on tensors of two devices."""


class PretendTensor(torch.Tensor):
    """A tensor on the device. ``host`` has its numbers, on the CPU, or none, on ``meta``."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> "PretendTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=torch.device(NAME, 0),
        )
        made.host = real
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return PretendedGpu.entered().run(func, args, kwargs or {})

    def tolist(self) -> Any:
        gpu = PretendedGpu.entered()
        gpu.wait("tolist()")
        return (self.host if gpu.values else torch.ones_like(self.host, device="cpu")).tolist()

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        PretendedGpu.entered().record(self, stream)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PretendTensor({tuple(self.shape)}, {self.dtype})"


@dataclass(slots=True)
class _Made:
    """Who made a memory of the device, and in which other streams it may be used."""

    stream: Stream
    count: int
    recorded: set[Stream] = field(default_factory=set)


class _InFlight(NamedTuple):
    place: str
    source: torch.Tensor
    checksum: int


class PretendedGpu(TorchDispatchMode):
    """One GPU, there as long as the mode is entered.

    With ``values`` its tensors have numbers, and these are a CPU's, bit for bit. Without, they have shapes alone, so that a
    step of a network of full size takes seconds; what the host asks for is then 1.

    Attributes:
        operations: what would have run on the device.
        waits: the moments at which the host would have waited for it.
        faults: what would have been a race: a page-locked buffer that was changed while it was copied, memory of another
            stream that was used before it was made or without ``record_stream``, a copy to the host that nobody waits for.
    """

    current: "ClassVar[PretendedGpu | None]" = None

    def __init__(self, *, values: bool = True) -> None:
        super().__init__()
        register_once()
        self.values, self.home = values, torch.device("cpu" if values else "meta")
        self._phases, self.allocated, self.memory = [""], 0, 141 << 30
        self.operations, self.waits, self.faults = list[costs.Operation](), list[Wait](), list[str]()
        self._pinned = dict[int, torch.UntypedStorage]()  # kept, so that no other memory gets their address
        self._in_flight = list[_InFlight]()
        self._foreign = dict[int, _Made]()  # memory that another stream than the computing one has made, by its storage
        self._patches = ExitStack()

    @classmethod
    def entered(cls) -> "PretendedGpu":
        if cls.current is None:
            raise RuntimeError("an operation on the pretended GPU, outside of its mode")
        return cls.current

    def __enter__(self) -> "PretendedGpu":
        PretendedGpu.current = self
        patches = self._patches
        for target, name, replacement in _replacements():
            patches.enter_context(mock.patch.object(target, name, replacement))
        patches.enter_context(torch.autograd.set_multithreading_enabled(False))  # other threads would not see the mode
        patches.enter_context(_set(torch.__future__, "overwrite_module_params_on_conversion", True))
        # torch.tensor(..., device=) is then made on the host, and its copy seen
        patches.enter_context(_set(torch._C, "_only_lift_cpu_tensors", True))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.settle()
        self._patches.close()
        PretendedGpu.current = None

    def in_other_threads(self, owner: Any, attribute: str) -> None:
        """Let a function of a module or class, which runs in a thread of its own, find the device there too."""
        function = getattr(owner, attribute)

        @wraps(function)
        def entered(*args: Any, **kwargs: Any) -> Any:
            with _InThread(self):
                return function(*args, **kwargs)

        self._patches.enter_context(mock.patch.object(owner, attribute, entered))

    @property
    def phase(self) -> str:
        """The name of what is under way."""
        return self._phases[-1]

    @contextmanager
    def named(self, phase: str) -> Iterator[None]:
        """Give what happens in the block the name ``phase``."""
        self._phases.append(phase)
        try:
            yield
        finally:
            self._phases.pop()

    def name(self, owner: Any, attribute: str, phase: str, within: str = "") -> None:
        """Give what a function of a module or class does the name ``phase``, if it is called ``within`` another phase."""
        function = getattr(owner, attribute)

        @wraps(function)
        def named(*args: Any, **kwargs: Any) -> Any:
            with self.named(phase if within in self._phases else self.phase):
                return function(*args, **kwargs)

        self._patches.enter_context(mock.patch.object(owner, attribute, named))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator on tensors of the device, of the host, or of both."""
        name = _name_of(func)
        flat = list(_leaves((args, kwargs)))
        tensors = [leaf for leaf in flat if isinstance(leaf, torch.Tensor)]
        mine = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        if not mine and not any(isinstance(leaf, torch.device) and leaf.type == NAME for leaf in flat):
            return self._run_on_host(func, name, args, kwargs)
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        self._check_devices(name, tensors, mine)
        if name.startswith("c10d::"):
            return self._exchange(func, name, args, kwargs)
        if name in _WAITING:
            self.wait(_WAITING[name])
        if name in _INDEXING:
            self._check_indices(args[1])
        if name in _COPYING and _crosses(name, args, kwargs):
            return self._copy(func, name, args, kwargs)
        if name == "_local_scalar_dense" and not self.values:
            return 1.0 if args[0].dtype.is_floating_point else 1
        if any(isinstance(leaf, torch.device) and leaf.type != NAME for leaf in flat):  # empty_like(device="meta") and the like
            return func(*_mapped(lambda leaf: leaf.host if isinstance(leaf, PretendTensor) else leaf, args), **kwargs)
        made = func(*_mapped(self._on_host, args), **_mapped(self._on_host, kwargs))
        if not self.values and name in ("convolution", "convolution_backward"):
            made = _in_cudnn_layout(made, tensors)
        out = _mapped(_on_device, made)
        self._note(func, name, args, [tensor for tensor in mine if tensor is not kwargs.get("out")], out)
        return return_and_correct_aliasing(func, args, kwargs, out)

    def _run_on_host(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if name == "is_pinned":
            return args[0].untyped_storage().data_ptr() in self._pinned
        if name == "_pin_memory":
            return self._pin(args[0].clone())
        made = func(*args, **{key: value for key, value in kwargs.items() if key != "pin_memory"})
        return self._pin(made) if kwargs.get("pin_memory") else made

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = storage
        return tensor

    def _on_host(self, leaf: Any) -> Any:
        if isinstance(leaf, PretendTensor):
            return leaf.host
        return self.home if isinstance(leaf, torch.device) else leaf

    def _check_devices(self, name: str, tensors: list[torch.Tensor], mine: list[PretendTensor]) -> None:
        """Raise DeviceMixError as CUDA does: a number of the host, and the source of a copy, may be on another device."""
        if not mine or name in _COPYING or name in _INDEXING:
            return
        if others := [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.dim()]:
            raise DeviceMixError(
                f"{name} at {_place()}: Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and {others[0].device}!"
            )

    def _check_indices(self, indices: list[torch.Tensor | None]) -> None:
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self.wait("an index that is a mask")
            elif index is not None and index.dim() and not isinstance(index, PretendTensor):
                self.wait("an index on the host")

    def _exchange(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Exchange tensors with other processes: gloo does it, with their numbers, and is done before this returns.

        A GPU's own backend, NCCL, lets the device wait and not the host, so this counts as no wait.
        """
        made = func(*_mapped(self._on_host, args), **_mapped(self._on_host, kwargs))
        work = distributed.Work.unbox(made[-1] if isinstance(made, tuple) else made)
        work.wait()
        tensors = [leaf for leaf in _leaves(args[0]) if isinstance(leaf, PretendTensor)]
        self._start(tensors, [])
        of = tuple(map(costs.Tensor.of, tensors))
        self.operations.append(costs.Operation(name, self.phase, 1, sum(map(costs.size_of, tensors)), of, of))
        future: torch.futures.Future[list[torch.Tensor]] = torch.futures.Future()
        future.set_result([*tensors])  # the device's, where gloo's future has those of the host
        done = torch._C._distributed_c10d._create_work_from_future(future).boxed()
        return (args[0], done) if isinstance(made, tuple) else done

    # between the host and the device

    def _copy(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        source, target = (args[1], args[0]) if name == "copy_" else (args[0], None)
        up, size = not isinstance(source, PretendTensor), source.numel() * source.element_size()
        waits_not = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if up:
            self._start_upload(source, size, blocking=not waits_not and not (target is not None and source.dim() == 0))
        elif waits_not:
            self.faults.append(f"{_place()}: a copy to the host that nobody waits for")
        else:
            self.wait(f"a copy to the host of {size} bytes")
        rest = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
        out = self._copied(func, source, target, rest)
        is_new = up and target is None
        self._start([] if is_new else [out if up else source], [out] if is_new else [])
        self.operations.append(
            costs.Operation("upload" if up else "download", self.phase, 1, size, (), (costs.Tensor.of(out),))
        )
        return out

    def _copied(self, func: Any, source: torch.Tensor, target: torch.Tensor | None, options: dict[str, Any]) -> torch.Tensor:
        real = source.host if isinstance(source, PretendTensor) else source
        if target is not None:
            host = target.host if isinstance(target, PretendTensor) else target
            if host.device.type == real.device.type:
                host.copy_(real)
            return target
        if isinstance(source, PretendTensor):
            out = func(real, **options)
            return out if self.values else torch.ones_like(out, device="cpu")
        return PretendTensor(func(real, **options).to(self.home))  # always other memory, as on another device

    def _start_upload(self, source: torch.Tensor, size: int, *, blocking: bool) -> None:
        pinned = source.untyped_storage().data_ptr() in self._pinned
        if blocking:
            self.wait(f"a copy to the device of {size} bytes without non_blocking")
        elif pinned:
            self._in_flight.append(_InFlight(_place(), source, _checksum(source)))
        elif size > STAGED:
            self.wait(f"a copy to the device of {size} bytes that are not page-locked")

    def wait(self, what: str) -> None:
        """Note that the host waits here for the device."""
        self.waits.append(Wait(self.phase, what, _place()))
        self.settle()

    def settle(self) -> None:
        """Finish all copies from page-locked memory, and note each whose source was changed after it was started."""
        for copy in self._in_flight:
            if _checksum(copy.source) != copy.checksum:
                self.faults.append(f"{copy.place}: page-locked memory was changed while it was copied")
        self._in_flight.clear()

    # streams

    def record(self, tensor: PretendTensor, stream: Stream) -> None:
        """Keep the memory of ``tensor`` until the work that ``stream`` has by the time it is freed is done."""
        if made := self._foreign.get(_storage_of(tensor)):
            made.recorded.add(stream)

    def _start(self, used: list[PretendTensor], new: list[PretendTensor]) -> None:
        """Start one piece of work in the current stream, which uses some memory and makes other."""
        stream = Stream.current
        stream.count += 1
        self.allocated += sum(map(costs.size_of, new))
        if stream is COMPUTING and not self._foreign:
            return
        for tensor in new:
            self._foreign.pop(_storage_of(tensor), None)
            if stream is not COMPUTING:
                self._foreign[_storage_of(tensor)] = _Made(stream, stream.count)
        for tensor in used:
            made = self._foreign.get(_storage_of(tensor)) or _Made(COMPUTING, COMPUTING.count, {stream})
            if not stream.comes_after(made.stream, made.count):
                self.faults.append(f"{_place()}: memory of another stream is used before that stream has made it")
            elif made.stream is not stream and stream not in made.recorded:
                self.faults.append(f"{_place()}: memory of another stream is used without record_stream")

    def _note(self, func: Any, name: str, args: Any, reads: list[PretendTensor], out: Any) -> None:
        """Count an operation, unless it starts no kernel."""
        if func.is_view:
            return
        writes = [leaf for leaf in _leaves(out) if isinstance(leaf, PretendTensor)]
        self._start(reads, [] if func._schema.is_mutable else writes)
        if name not in costs.FREE:
            self.operations.append(costs.measure(name, self.phase, args, reads, writes))


class _InThread(TorchDispatchMode):
    """The mode of a device, in another thread than the one that has entered it."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._gpu.run(func, args, kwargs or {})


@cache
def register_once() -> None:
    """Make the device and its autocast known to torch, for the rest of this process."""
    backend.register()
    autocast.register(NAME)
    supported = sys.modules["torch.optim.optimizer"]._foreach_supported_types  # type: ignore[attr-defined]
    supported.append(PretendTensor)


@contextmanager
def _set(owner: Any, setting: str, value: bool) -> Iterator[None]:
    """Set a setting of torch for the block: ``set_NAME`` and ``get_NAME``, or ``_set_NAME`` and ``_NAME``."""
    setter = getattr(owner, f"set_{setting}", None) or getattr(owner, f"_set{setting}")
    getter = getattr(owner, f"get_{setting}", None) or getattr(owner, setting)
    before = getter()
    setter(value)
    try:
        yield
    finally:
        setter(before)


def _replacements() -> Iterator[tuple[Any, str, Any]]:
    """Yield what torch and safetensors do otherwise on a GPU of their own: owner, attribute, replacement."""
    clear, inference = torch.clear_autocast_cache, torch.autograd.grad_mode.inference_mode

    def clear_both() -> None:
        autocast.forget_casts()
        clear()

    yield torch, "clear_autocast_cache", clear_both
    yield torch, "Generator", _AnyGenerator
    # A wrapper cannot be a view of an inference tensor: no gradients are recorded, and nothing else changes.
    yield inference, "__enter__", _enter_no_grad
    yield inference, "__exit__", _exit_no_grad
    # safetensors takes tensors of CUDA to the host itself, and asks others for their address.
    for module in [each for each in list(sys.modules.values()) if vars(each).get("save_file") is _save_file]:
        yield module, "save_file", _from_host(_save_file)


class _AnyGenerator(torch.Generator):
    """A generator of the CPU, for whichever device it is asked for."""

    def __new__(cls, device: object = "cpu") -> "_AnyGenerator":
        return super().__new__(cls, "cpu")


def _from_host(save: Callable[..., Any]) -> Callable[..., Any]:
    return lambda tensors, *args, **kwargs: save({name: each.cpu() for name, each in tensors.items()}, *args, **kwargs)


def _enter_no_grad(mode: Any) -> None:
    mode.before = torch.is_grad_enabled()
    torch.set_grad_enabled(mode.before and not mode.mode)


def _exit_no_grad(mode: Any, *_: Any) -> None:
    torch.set_grad_enabled(mode.before)


@cache
def _name_of(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


@cache
def _is_composite(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _crosses(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether a copy is between the host and the device."""
    if name == "copy_":
        return isinstance(args[0], PretendTensor) != isinstance(args[1], PretendTensor)
    device = kwargs.get("device")
    return device is not None and (device.type == NAME) != isinstance(args[0], PretendTensor)


def _storage_of(tensor: PretendTensor) -> int:
    return int(tensor.host.untyped_storage()._cdata)


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy())


def _in_cudnn_layout(made: Any, given: list[torch.Tensor]) -> Any:
    """Return what a convolution gives in channels_last if an input is: that of ``meta`` never is."""
    if not any(costs.layout_of(tensor) == "nhwc" for tensor in given):
        return made

    def channels_last(leaf: Any) -> Any:
        is_image = isinstance(leaf, torch.Tensor) and leaf.dim() == 4
        return leaf.to(memory_format=torch.channels_last) if is_image else leaf

    return _mapped(channels_last, made)


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield what is in lists, tuples and dicts; torch's own function for it takes half of the time of a test."""
    if isinstance(tree, list | tuple):
        for each in tree:
            yield from _leaves(each)
    elif isinstance(tree, dict):
        yield from _leaves([*tree.values()])
    else:
        yield tree


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return ``tree`` with ``function`` of every leaf in place of the leaf."""
    if isinstance(tree, list | tuple):
        return type(tree)([_mapped(function, each) for each in tree])
    if isinstance(tree, dict):
        return {key: _mapped(function, each) for key, each in tree.items()}
    return function(tree)


def _on_device(leaf: Any) -> Any:
    is_host = isinstance(leaf, torch.Tensor) and not isinstance(leaf, PretendTensor)
    return PretendTensor(leaf) if is_host else leaf


def _place() -> str:
    """Return the file and line of the project that is at work, such as ``jpegcurr/training/loop.py:93``."""
    frame = sys._getframe(1)
    while frame is not None:
        if name := _project_file(frame.f_code.co_filename):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "nowhere in the project"


@cache
def _project_file(file: str) -> str | None:
    """Return the name of a file of the project, or of a test, within it; None for libraries and for this package."""
    path = Path(file)
    outside = not path.is_relative_to(ROOT) or ".venv" in path.parts
    return None if outside or (path.is_relative_to(HERE) and not path.name.startswith("test_")) else str(path.relative_to(ROOT))
