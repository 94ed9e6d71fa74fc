"""The kernels behind torch's operators: torch's own checks, whole graphs, and large strides."""

import pytest
import torch
from torch import Tensor

from reformer.kernels import cpu
from reformer.ops.attention import Dropout, Visibility
from reformer.ops.lsh_attention import local_attention, lsh_attention
from tests.ops import test_registered_ops as samples

pytestmark = pytest.mark.usefixtures("kernels")


def on_kernels(argument: object) -> object:
    if isinstance(argument, Tensor) and argument.dtype == torch.float64:
        return argument.detach().float().requires_grad_(argument.requires_grad)
    return "cpu" if argument == "torch" else argument


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.parametrize("name", ["attention", "attention_backward", "hash_vectors", "sort_tokens"])
def test_the_operators_keep_the_rules_of_torch(name: str) -> None:
    op = getattr(torch.ops.reformer, name).default
    for arguments in samples.SAMPLES[name]():
        torch.library.opcheck(op, tuple(on_kernels(a) for a in arguments))


@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_whole_graphs_compile_and_agree(rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 2, 40, 8, generator=generator).requires_grad_() for _ in range(3)]

    def both(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        settings = {"window_length": 8, "rule": rule, "backend": "cpu"}
        return lsh_attention(query, value, **settings) + local_attention(
            query, key, value, **settings
        )

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    expected, found = both(*tensors), compiled(*tensors)
    assert torch.equal(expected, found)
    for wanted, result in zip(
        torch.autograd.grad(expected.square().sum(), tensors),
        torch.autograd.grad(found.square().sum(), tensors),
        strict=True,
    ):
        assert torch.equal(wanted, result)


def test_offsets_beyond_32_bits(build: str) -> None:
    """Rows 2^21 numbers apart: element offsets pass 2^31, bytes 2^32. Few pages are touched."""
    length, width, step = 1500, 16, 1 << 21
    generator = torch.Generator().manual_seed(0)
    memory = torch.empty(4 * step * length, dtype=torch.bfloat16)
    far = [memory[i * width :].as_strided((1, 1, length, width), (0, 0, step, 1)) for i in range(3)]
    for tensor in far:
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    near = [tensor.clone() for tensor in far]
    buckets = torch.randint(0, 30, (1, 1, 2, length), generator=generator)
    order, code = cpu.sort_tokens(buckets, None, 64)
    rest = (order, code, None, Visibility("window", 64), 1.0, Dropout())
    results = []
    for query, value, upstream in (far, near):
        out, lse = cpu.attention(query, None, value, *rest)
        grads = cpu.attention_backward(upstream, lse, out, lse, query, None, value, *rest)
        rotations = torch.ones(1, width, 1, 4)
        results.append(
            (out, lse, grads[0], grads[2], cpu.hash_vectors(query, rotations, None, [8]))
        )
    for found, wanted in zip(*results, strict=True):
        assert torch.equal(found, wanted)
