"""(I + A)^-1 for strictly lower triangular 64x64 matrices A, in float32: one small Triton program a matrix on a GPU."""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch
    triton = None

if triton:
    @triton.jit
    def block(at, row, col):
        """The 16x16 block (row, col) of a 64x64 matrix."""
        i = tl.arange(0, 16)
        return at + (row * 16 + i[:, None]) * 64 + col * 16 + i[None, :]

    @triton.jit
    def diagonal(a, b):
        """The inverse of diagonal block b by forward substitution, a row at a time."""
        i = tl.arange(0, 16)
        inverse = tl.where(i[:, None] == i[None, :], 1.0, 0.0)
        for r in range(1, 16):
            row = tl.load(a + (b * 16 + r) * 64 + b * 16 + i)
            new = tl.sum(row[:, None] * inverse, 0)
            inverse = tl.where(i[:, None] == r, inverse - new[None, :], inverse)
        return inverse

    @triton.jit
    def dot(x, y):
        return tl.dot(x, y, input_precision="ieee")

    @triton.jit
    def invert(a, out):
        """The blocks of the inverse below the diagonal follow from those above them: X21 = -X22 A21 X11, and so on."""
        a += tl.program_id(0).to(tl.int64) * 4096
        out += tl.program_id(0).to(tl.int64) * 4096
        x11, x22, x33, x44 = diagonal(a, 0), diagonal(a, 1), diagonal(a, 2), diagonal(a, 3)
        a21, a32, a43 = tl.load(block(a, 1, 0)), tl.load(block(a, 2, 1)), tl.load(block(a, 3, 2))
        a31, a42, a41 = tl.load(block(a, 2, 0)), tl.load(block(a, 3, 1)), tl.load(block(a, 3, 0))
        x21, x32, x43 = -dot(x22, dot(a21, x11)), -dot(x33, dot(a32, x22)), -dot(x44, dot(a43, x33))
        x31 = -dot(x33, dot(a31, x11) + dot(a32, x21))
        x42 = -dot(x44, dot(a42, x22) + dot(a43, x32))
        x41 = -dot(x44, dot(a41, x11) + dot(a42, x21) + dot(a43, x31))
        zero = tl.zeros((16, 16), tl.float32)
        tl.store(block(out, 0, 0), x11)
        tl.store(block(out, 1, 1), x22)
        tl.store(block(out, 2, 2), x33)
        tl.store(block(out, 3, 3), x44)
        tl.store(block(out, 1, 0), x21)
        tl.store(block(out, 2, 1), x32)
        tl.store(block(out, 3, 2), x43)
        tl.store(block(out, 2, 0), x31)
        tl.store(block(out, 3, 1), x42)
        tl.store(block(out, 3, 0), x41)
        tl.store(block(out, 0, 1), zero)
        tl.store(block(out, 0, 2), zero)
        tl.store(block(out, 0, 3), zero)
        tl.store(block(out, 1, 2), zero)
        tl.store(block(out, 1, 3), zero)
        tl.store(block(out, 2, 3), zero)


@torch.library.custom_op("demo::unit_lower_inverse", mutates_args=())
def unit_lower_inverse(a: torch.Tensor) -> torch.Tensor:
    a = a.contiguous()
    if a.is_cuda and triton and a.shape[-2:] == (64, 64):
        out = torch.empty_like(a)
        invert[(a.numel() // 4096,)](a, out, num_warps=1)
        return out
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand(a.shape)
    return torch.linalg.solve_triangular(a, eye, upper=False, unitriangular=True).contiguous()


@unit_lower_inverse.register_fake
def _(a):
    return torch.empty(a.shape, dtype=a.dtype, device=a.device)


def backward(ctx, g):
    inverse, = ctx.saved_tensors
    return -(inverse.mT @ g @ inverse.mT).tril(-1)


unit_lower_inverse.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output))
