"""CUDA's autocast for the pretended device: torch has its lists of operators in C++, for the devices that it knows.

A test holds the result against torch's own CUDA autocast, which runs without a driver on fake tensors.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

# ATen/autocast_mode.h, as far as the networks of the tests need it: operators that compute in the lower precision; in
# float32; with a dtype argument, which becomes float32; in the widest type of their arguments.
LOWER = (
    "_convolution conv1d conv2d conv3d convolution addmm addmv matmul mm mv linear bmm baddbmm addbmm einsum prelu "
    "scaled_dot_product_attention"
)
FLOAT32 = (
    "acos asin cosh exp expm1 log log10 log2 log1p reciprocal rsqrt tan pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar "
    "softplus layer_norm group_norm native_layer_norm nll_loss nll_loss2d kl_div l1_loss mse_loss smooth_l1_loss huber_loss "
    "binary_cross_entropy_with_logits cosine_similarity logsumexp"
)
WITH_DTYPE = "softmax.int log_softmax.int prod sum sum.dim_IntList cumsum cumprod"
WIDEST = "addcmul addcdiv cat stack dot index_put scatter_add grid_sampler bilinear"

_libraries: list[torch.library.Library] = []  # what they register lasts as long as they do
_cached: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # weights and their casts, within an autocast block
_KEY = "AutocastPrivateUse1"


def register(device: str) -> None:
    """Give autocast on ``device``, PrivateUse1 by another name, CUDA's lists."""
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, _KEY)
    library = torch.library.Library("aten", "IMPL")
    _libraries.extend([others, library])
    for names, kernel in ((LOWER, _lower), (FLOAT32, _whole), (WITH_DTYPE, _with_dtype), (WIDEST, _widest)):
        for name in names.split():
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, _without_autocast(kernel, operator, device), _KEY)


def forget_casts() -> None:
    """Forget the casts of weights, as torch does at the end of an autocast block."""
    _cached.clear()


def _without_autocast(kernel: Callable[..., Any], operator: Any, device: str) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return kernel(operator, device, args, kwargs)

    return run


def _lower(operator: Any, device: str, args: Any, kwargs: Any) -> Any:
    return _cast_all(operator, device, args, kwargs, torch.get_autocast_dtype(device))


def _whole(operator: Any, device: str, args: Any, kwargs: Any) -> Any:
    return _cast_all(operator, device, args, kwargs, torch.float32)


def _widest(operator: Any, device: str, args: Any, kwargs: Any) -> Any:
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if _is_eligible(leaf, device)]
    whole = any(tensor.dtype == torch.float32 for tensor in tensors)
    return _cast_all(operator, device, args, kwargs, torch.float32 if whole else torch.get_autocast_dtype(device))


def _with_dtype(operator: Any, device: str, args: Any, kwargs: Any) -> Any:
    place = [argument.name for argument in operator._schema.arguments].index("dtype")
    if _is_eligible(args[0], device):
        if len(args) > place and args[place] is None:
            args = (*args[:place], torch.float32, *args[place + 1 :])
        elif len(args) <= place and kwargs.get("dtype") is None:
            kwargs = {**kwargs, "dtype": torch.float32}
    return operator(*args, **kwargs)


def _cast_all(operator: Any, device: str, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
    args, kwargs = tree_map(lambda leaf: _cast(leaf, dtype, device), (args, kwargs))
    return operator(*args, **kwargs)


def _is_eligible(leaf: object, device: str) -> bool:
    is_float = isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64
    return is_float and leaf.device.type == device


def _cast(leaf: Any, dtype: torch.dtype, device: str) -> Any:
    if not _is_eligible(leaf, device) or leaf.dtype == dtype:
        return leaf
    is_weight = leaf.dtype == torch.float32 and leaf.requires_grad and leaf.is_leaf and not leaf._is_view()
    if not is_weight or dtype == torch.float32:
        return leaf.to(dtype)
    if id(leaf) not in _cached:
        _cached[id(leaf)] = leaf, leaf.to(dtype)
    return _cached[id(leaf)][1]
