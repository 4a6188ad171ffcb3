"""Plain C of what widens int8 maps, contiguous or into planes, and of the depthwise convolution of a plane."""

from __future__ import annotations

from tinyengine.kernels.assembly import depthwise as depthwise_kernel
from tinyengine.kernels.assembly import widen as widen_kernel
from tinyengine.kernels.assembly.depthwise import HEADER_WORDS, Plane
from tinyengine.kernels.assembly.plain_c import pieces
from tinyengine.kernels.assembly.widen import WIDEN_GROUP_BYTES, PlaneFill, Widen


def widen(found: Widen) -> str:
    """Of widen.render_widen."""
    return f"""{widen_kernel.DECLARATION.opening}
    static const uint32_t order[] = {pieces.array(found.order.value)};
    for (uint32_t k = 0; k < groups * {WIDEN_GROUP_BYTES}; k++) out[k] = in[(k & ~3u) + order[k & 3]];
}}
"""


def planes(found: PlaneFill) -> str:
    """Of widen.render_planes."""
    return f"""{widen_kernel.PLANES.opening}
    for (; rows > 0; rows--, in += {found.row_bytes}, plane += {found.plane_row_bytes // 2}) {{
        for (int k = 0; k < {found.columns}; k++) {{
            for (int c = 0; c < 4; c++) {{
                plane[c * {found.plane_bytes // 2} + {int(found.odd)} + k] = in[k * {found.pixel_bytes} + c];
            }}
        }}
    }}
}}
"""


def depthwise(found: Plane) -> str:
    """Of depthwise.render."""
    form, (height, width) = found.epilogue, found.kernel
    constants = ("table[1]", "table[2]", pieces.shift_of(form, "table[3]"))
    # A tap may lie in two words, for windows that start on either column; both say the same.
    halves = {tap: 2 * n + half for n, pair in enumerate(found.pairs) for half, tap in enumerate(pair)}
    taps = pieces.array([halves[tap] for tap in range(width)])
    return f"""{pieces.HEAD}{pieces.rescale(form)}
{depthwise_kernel.DECLARATION.opening}
    static const int taps[] = {taps};
    for (uint32_t row = 0; row < rows; row++) {{
        for (int column = 0; column < {found.columns}; column++) {{
            const int16_t *from = plane + row * {found.stride * found.row_bytes // 2} + column * {found.stride};
            uint32_t sums = table[0];
            for (int i = 0; i < {height}; i++) {{
                const uint32_t *w = table + {HEADER_WORDS} + i * {len(found.pairs)};
                for (int j = 0; j < {width}; j++) {{
                    const int16_t weight = (int16_t)(w[taps[j] / 2] >> taps[j] % 2 * 16);
                    sums += (uint32_t)(weight * from[i * {found.row_bytes // 2} + j]);
                }}
            }}
            const int32_t sum = (int32_t)sums;
            out[row * {found.out_row_bytes} + column * {found.out_step_bytes}] =
                {pieces.output(form, "sum", constants, kinked="table[2]")};
        }}
    }}
}}
"""
