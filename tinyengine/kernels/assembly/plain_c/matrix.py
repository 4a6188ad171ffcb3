"""Plain C of tile.py (resident.py differs in registers only), pixel_pairs.py, interleave.py and dense.py."""

from __future__ import annotations

from tinyengine.kernels.assembly import dense as dense_kernel
from tinyengine.kernels.assembly import interleave as interleave_kernel
from tinyengine.kernels.assembly import tile as tile_kernel
from tinyengine.kernels.assembly.dense import CHANNELS, PAIRS, Dense
from tinyengine.kernels.assembly.pixel_pairs import PixelPairs
from tinyengine.kernels.assembly.pixel_pairs_epilogue import PIXELS
from tinyengine.kernels.assembly.plain_c import pieces
from tinyengine.kernels.assembly.requantize import Epilogue, Rounding
from tinyengine.kernels.assembly.tile import BIAS_WORDS, PACKED_SHIFTS, Tile
from tinyengine.kernels.assembly.widen import Order
from tinyengine.kernels.binding import PLACEHOLDER


def tile(found: Tile) -> str:
    """Of tile.render, in both its forms."""
    window, form, point = found.window, found.epilogue, found.packed_point
    constants = ("tail[2 * c]", "tail[2 * c + 1]", pieces.shift_of(form, "tail[4 + c]"))
    bias = "(uint32_t[2]){block[0], block[1]}"
    if point is not None:
        shift = "(c ? block[0] & 31 : block[0] >> 5 & 31)"
        bias = f"(uint32_t[2]){{(uint32_t)((int32_t)block[0] >> {PACKED_SHIFTS}), block[1]}}"
        constants = ("tail[c]", f"(uint32_t)((int32_t)({2 * point + 1}u << {shift}) >> 1)", shift)
        if form.rounding is Rounding.FLOAT:
            constants = ("tail[c]", f"({point})", "0")
    kinked = "tail[1] >> c & 1" if form.is_kinked else "0"
    output = pieces.output(form, "sum", constants, kinked=kinked)
    if found.byte_weights:
        step = f"""const uint32_t low = {pieces.halves_of_byte_pairs("w[0]")};
                    sums[0] += {PLACEHOLDER}_product(low, word);
                    sums[1] += {PLACEHOLDER}_product(w[0], word);"""
        ends = """
                sums[1] = (uint32_t)((int32_t)(sums[1] - sums[0]) >> 7);
                sums[0] <<= 1;"""
    else:
        step = f"""sums[0] += {PLACEHOLDER}_product(w[0], word);
                    sums[1] += {PLACEHOLDER}_product(w[1], word);"""
        ends = ""
    return f"""{pieces.HEAD}{pieces.rescale(form)}
{tile_kernel.DECLARATION.opening}
    static const int32_t offsets[] = {pieces.array(window.offsets_bytes)};
    static const int32_t pixels[] = {pieces.array(found.pixel_offsets_bytes)};
    static const int32_t outs[] = {pieces.array(found.out_offsets_bytes)};
    for (uint32_t pair = 0; pair < tiles_and_pairs >> 16; pair++) {{
        const uint32_t *block = table + pair * {found.block_words};
        const uint32_t *tail = block + {BIAS_WORDS + found.weight_bytes // 4};
        for (uint32_t t = 0; t < (tiles_and_pairs & 0xFFFF); t++) {{
            for (int p = 0; p < {len(found.pixel_offsets_bytes)}; p++) {{
                const int8_t *from = (const int8_t *)x + t * {found.tile_step_bytes} + pixels[p];
                const uint32_t *w = block + {BIAS_WORDS};
                uint32_t *sums = {bias};
                for (int n = 0; n < {window.words}; n++, w += {found.step_bytes // 4}) {{
                    const int8_t *at = from + n / {len(window.offsets_bytes)} * {window.step_bytes};
                    const uint32_t word = {PLACEHOLDER}_word(at + offsets[n % {len(window.offsets_bytes)}]);
                    {step}
                }}{ends}
                for (int c = 0; c < 2; c++) {{
                    const int32_t sum = (int32_t)sums[c];
                    out[2 * pair + t * {found.out_step_bytes} + outs[p] + c] = {output};
                }}
            }}
        }}
    }}
}}
"""


def _coarse(form: Epilogue) -> str:
    """A function for the output of 256 times a sum and an offset by two products, where a channel has them."""
    if not form.is_coarsened:
        return ""
    return f"""static inline int8_t {PLACEHOLDER}_coarse(uint32_t sum, uint32_t first, uint32_t m)
{{
    const int64_t coarse = (int64_t)(int32_t)sum * (int32_t)first >> 32;
    const int32_t v = (int32_t)(coarse * (int32_t)m >> 32) >> {form.coarse_shift};
    return {pieces.clamped(form)};
}}
"""


def pixel_pairs(found: PixelPairs) -> str:
    """Of pixel_pairs.render."""
    form = found.epilogue
    constants = ("block[4 + 2 * c]", "block[5 + 2 * c]", pieces.shift_of(form, "block[8 + c]"))
    if found.is_raw:
        outputs = f"""const int8_t first = {pieces.output(form, "low", constants)};
                    const int8_t second = {pieces.output(form, "high", constants, more="8")};"""
    else:
        outputs = f"""high >>= 8;
                    const int8_t first = {pieces.output(form, "low", constants)};
                    const int8_t second = {pieces.output(form, "high", constants)};"""
    if form.is_coarsened:
        m, first = f"({constants[0]} & 0x7FFFFFFF)", f"block[{found.header_words + found.depth} + c]"
        constants = (m, *constants[1:])
        outputs = f"""int8_t first, second;
                    if ({first}) {{
                        first = {PLACEHOLDER}_coarse((one << 8) + {constants[1]}, {first}, {m});
                        second = {PLACEHOLDER}_coarse(both - one, {first}, {m});
                    }} else {{
                        first = {pieces.output(form, "low", constants)};
                        second = {pieces.output(form, "high", constants, more="8")};
                    }}"""
    return f"""{pieces.HEAD}{pieces.rescale(form)}{_coarse(form)}
{tile_kernel.DECLARATION.opening}
    for (uint32_t pair = 0; pair < tiles_and_pairs >> 16; pair++) {{
        const uint32_t *block = table + pair * {found.block_words};
        for (uint32_t t = 0; t < (tiles_and_pairs & 0xFFFF) * {PIXELS // 2}; t++) {{
            for (int c = 0; c < 2; c++) {{
                uint32_t both = block[2 * c], one = block[2 * c + 1];
                for (int n = 0; n < {found.depth // 2}; n++) {{
                    const uint32_t w = block[{found.header_words} + 2 * n + c];
                    const uint32_t word = {PLACEHOLDER}_word(x + t * {found.depth} + 2 * n);
                    both += {PLACEHOLDER}_product(w, word);
                    one += {PLACEHOLDER}_product(w, word & 0x00FF00FF);
                }}
                const int32_t low = (int32_t)one;
                int32_t high = (int32_t)(both - one);
                {outputs}
                out[2 * t * {found.channels} + 2 * pair + c] = first;
                out[(2 * t + 1) * {found.channels} + 2 * pair + c] = second;
            }}
        }}
    }}
}}
"""


def interleave(found: PixelPairs) -> str:
    """Of interleave.render."""
    return f"""{interleave_kernel.DECLARATION.opening}
    static const int32_t order[] = {pieces.array(Order.SPLIT.value)};
    for (; pairs > 0; pairs--, in += {2 * found.depth}, out += {found.depth}) {{
        for (int k = 0; k < {found.depth}; k++) {{
            const int from = (k & ~3) + order[k & 3];
            out[k] = (int16_t)(256 * in[{found.depth} + from] + in[from] + 128);
        }}
    }}
}}
"""


def dense(found: Dense) -> str:
    """Of dense.render."""
    form = found.epilogue
    after = CHANNELS + PAIRS * found.depth // 2
    constants = (f"block[{after} + 3 * c]", f"block[{after + 1} + 3 * c]", f"block[{after + 2} + 3 * c]")
    if found.uniform:
        constants = ("table[0]", "table[1]", "")
    constants = (*constants[:2], pieces.shift_of(form, constants[2]))
    return f"""{pieces.HEAD}{pieces.rescale(form)}
{dense_kernel.DECLARATION.opening}
    for (uint32_t b = 0; b < blocks; b++) {{
        const uint32_t *block = table + {found.head_words} + b * {found.block_words};
        for (int pair = 0; pair < {PAIRS}; pair++) {{
            uint32_t sums[2] = {{block[pair], block[{PAIRS} + pair]}};
            for (int n = 0; n < {found.depth // 2}; n++) {{
                const uint32_t w = block[{CHANNELS} + {PAIRS} * n + pair];
                const uint32_t word = {PLACEHOLDER}_word(x + 2 * n);
                sums[0] += {PLACEHOLDER}_product({pieces.halves_of_byte_pairs("w")}, word);
                sums[1] += {PLACEHOLDER}_product(w, word);
            }}
            sums[1] = (uint32_t)((int32_t)(sums[1] - sums[0]) >> 7);
            sums[0] <<= 1;
            for (int half = 0; half < 2; half++) {{
                const int c = {PAIRS} * half + pair;
                const int32_t sum = (int32_t)sums[half];
                out[{CHANNELS} * b + c] = {pieces.output(form, "sum", constants)};
            }}
        }}
    }}
}}
"""
