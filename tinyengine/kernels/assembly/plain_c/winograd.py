"""Plain C of Winograd's two functions."""

from __future__ import annotations

from tinyengine.kernels.assembly import winograd as kernel
from tinyengine.kernels.assembly.plain_c import pieces
from tinyengine.kernels.assembly.winograd import GROUP_TILES, HEAD_WORDS, POSITIONS, Winograd
from tinyengine.kernels.binding import PLACEHOLDER


def transform(found: Winograd) -> str:
    """Of winograd.render_transform: B^T d B, first down the columns, then along the rows."""
    depth = found.in_channels
    return f"""static inline void {PLACEHOLDER}_combine(const int d[4], int to[4])
{{
    to[0] = d[0] - d[2];
    to[1] = d[1] + d[2];
    to[2] = d[2] - d[1];
    to[3] = d[1] - d[3];
}}
{kernel.TRANSFORM.opening}
    for (uint32_t t = 0; t < tiles; t++, x += {2 * depth}) {{
        int16_t *to = v + t / {GROUP_TILES} * {found.group_bytes // 2} + t % {GROUP_TILES} * {depth};
        for (int c = 0; c < {depth}; c++) {{
            int half[4][4];
            for (int j = 0; j < 4; j++) {{
                int column[4], made[4];
                for (int i = 0; i < 4; i++) column[i] = x[i * {found.row_bytes // 2} + j * {depth} + c];
                {PLACEHOLDER}_combine(column, made);
                for (int i = 0; i < 4; i++) half[i][j] = made[i];
            }}
            for (int i = 0; i < 4; i++) {{
                int made[4];
                {PLACEHOLDER}_combine(half[i], made);
                for (int j = 0; j < 4; j++) to[(4 * i + j) * {found.position_bytes // 2} + c] = (int16_t)made[j];
            }}
        }}
    }}
}}
"""


def multiply(found: Winograd) -> str:
    """Of winograd.render_multiply: products at each position, then A^T m A and the bias."""
    form, depth = found.epilogue, found.in_channels
    shift = pieces.shift_of(form, "block[4 + 3 * c]")
    output = pieces.output(form, "sum", ("block[2 + 3 * c]", "block[3 + 3 * c]", shift))
    return f"""{pieces.HEAD}{pieces.rescale(form)}
static inline uint32_t {PLACEHOLDER}_combine(uint32_t a, uint32_t b, uint32_t c, uint32_t d, int second)
{{
    return second ? b - c - d : a + b + c;
}}
{kernel.MULTIPLY.opening}
    for (int pair = 0; pair < {found.channels // 2}; pair++) {{
        const uint32_t *block = table + pair * {found.block_words};
        for (int n = 0; n < {POSITIONS * 2 * GROUP_TILES}; n++) {{
            const int position = n / {2 * GROUP_TILES}, c = n / {GROUP_TILES} % 2, t = n % {GROUP_TILES};
            const uint32_t *w = block + {HEAD_WORDS} + position * {depth} + c;
            const int16_t *from = v + (position * {GROUP_TILES} + t) * {depth};
            uint32_t sum = 0;
            for (int k = 0; k < {depth // 2}; k++)
                sum += {PLACEHOLDER}_product(w[2 * k], {PLACEHOLDER}_word(from + 2 * k));
            products[n] = (int32_t)sum;
        }}
        for (int n = 0; n < {8 * GROUP_TILES}; n++) {{
            const int c = n / {4 * GROUP_TILES}, t = n / 4 % {GROUP_TILES}, row = n / 2 % 2, column = n % 2;
            uint32_t rows[4];
            for (int j = 0; j < 4; j++) {{
                uint32_t m[4];
                for (int i = 0; i < 4; i++)
                    m[i] = (uint32_t)products[(4 * i + j) * {2 * GROUP_TILES} + {GROUP_TILES} * c + t];
                rows[j] = {PLACEHOLDER}_combine(m[0], m[1], m[2], m[3], row);
            }}
            const uint32_t four = block[c] + {PLACEHOLDER}_combine(rows[0], rows[1], rows[2], rows[3], column);
            const int32_t sum = (int32_t)four >> 1;
            out[row * {found.out_row_bytes} + (2 * t + column) * {found.channels} + 2 * pair + c] =
                {output};
        }}
    }}
}}
"""
