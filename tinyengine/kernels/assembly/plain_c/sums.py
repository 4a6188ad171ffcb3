"""Plain C of the addition by tables and of the sums of channels."""

from __future__ import annotations

from tinyengine.kernels.assembly import add as add_kernel
from tinyengine.kernels.assembly import channel_sums as sums_kernel
from tinyengine.kernels.assembly.add import GROUP, TABLE_WORDS, Sum
from tinyengine.kernels.assembly.channel_sums import ORDER, ChannelSums
from tinyengine.kernels.assembly.plain_c import pieces
from tinyengine.kernels.assembly.requantize import Rounding


def add(found: Sum) -> str:
    """Of add.render."""
    form = found.epilogue
    if form.rounding is Rounding.NONE:
        helpers = ""
        output = pieces.clamped(form)
        rescaled = f"const int32_t v = sum >> {form.right_shift};"
    else:
        helpers = pieces.HEAD + pieces.rescale(form)
        constants = (f"table[{2 * TABLE_WORDS}]", f"table[{2 * TABLE_WORDS + 1}]", str(form.right_shift))
        output, rescaled = pieces.output(form, "sum", constants), ""
    return f"""{helpers}
{add_kernel.DECLARATION.opening}
    for (uint32_t k = 0; k < {GROUP} * groups; k++) {{
        const int32_t sum = (int32_t)(table[a[k] + 128] + table[{TABLE_WORDS} + b[k] + 128]);
        {rescaled}
        out[k] = {output};
    }}
}}
"""


def channel_sums(found: ChannelSums) -> str:
    """Of channel_sums.render."""
    return f"""{sums_kernel.DECLARATION.opening}
    static const int order[] = {pieces.array(ORDER)};
    for (uint32_t k = 0; k < groups * {4 * found.words}; k++) {{
        int sum = 0;
        for (int p = 0; p < {found.pixels}; p++) sum += x[p * {found.pixel_bytes} + (int)(k & ~3u) + order[k & 3]];
        sums[k] = (int16_t)sum;
    }}
}}
"""
