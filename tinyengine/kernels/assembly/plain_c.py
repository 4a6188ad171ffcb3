"""Plain C that does what the generated text does, from the same tables: for hosts, sanitizers and readers.

Each function takes the generated one's arguments and reads and writes no byte that one does not. None is shipped.
Sums wrap as SMLAD's do. `tile` is for tile.py and resident.py, which differ in registers only.
"""

from __future__ import annotations

from tinyengine.kernels.assembly.requantize import Epilogue, Rounding
from tinyengine.kernels.assembly.tile import BIAS_WORDS, PACKED_SHIFTS, Tile
from tinyengine.kernels.assembly.twin import PIXELS, Twin
from tinyengine.kernels.assembly.widen import WIDEN_GROUP_BYTES, Order
from tinyengine.kernels.binding import PLACEHOLDER

_SUMS = f"""#include <math.h>
#include <stdint.h>
#include <string.h>
static inline uint32_t {PLACEHOLDER}_product(uint32_t w, uint32_t x)
{{
    return (uint32_t)((int16_t)w * (int16_t)x) + (uint32_t)((int16_t)(w >> 16) * (int16_t)(x >> 16));
}}
static inline uint32_t {PLACEHOLDER}_word(const void *at)
{{
    uint32_t w;
    memcpy(&w, at, 4);
    return w;
}}
"""


def _rescale(form: Epilogue) -> str:
    """Functions that give the output of a doubled sum; one 2^more times as large where `more` is given."""
    low, high = form.clamp.low, form.clamp.high
    in_float = f"""static inline int8_t {PLACEHOLDER}_float(int32_t sum, uint32_t scale_bits, int32_t point)
{{
    float scale;
    memcpy(&scale, &scale_bits, 4);
    const float product = -((float)sum * scale);
    const float bounded = product < -65536.0f ? -65536.0f : product > 65536.0f ? 65536.0f : product;
    const int32_t v = (int32_t)rintf(bounded) + point;
    return (int8_t)(v < {low} ? {low} : v > {high} ? {high} : v);
}}
"""
    rounding = form.in_integers.rounding
    half = "0x80000000u" if rounding is Rounding.TWICE else "0"
    sign = "    t += (uint32_t)(sum >> 31);\n" if form.sign_correction else ""
    kink = f"    if (kinked) sum -= sum >> {form.kink};\n" if form.is_kinked else "    (void)kinked;\n"
    addend = "(uint64_t)((uint32_t)c << more) << 32" if form.has_addend else "0"
    in_integers = f"""static inline int8_t {PLACEHOLDER}_integers(
    int32_t sum, int32_t m, uint32_t c, uint32_t shift, uint32_t more, uint32_t kinked)
{{
    (void)c;
{kink}    uint32_t t = (uint32_t)(((uint64_t)((int64_t)sum * m) + ({addend}) + {half}) >> 32);
{sign}    const int32_t v = (int32_t)t >> (shift + more);
    return (int8_t)(v < {low} ? {low} : v > {high} ? {high} : v);
}}
"""
    return (in_float if rounding is Rounding.FLOAT or form.is_mixed else "") + (
        in_integers if rounding is not Rounding.FLOAT else ""
    )


def _output(
    form: Epilogue, sum_: str, constants: tuple[str, str, str], *, more: str = "0", kinked: str = "0"
) -> str:
    """An expression for an output.

    Args:
        constants: expressions for multiplier, addend and right shift.
        more: bits the sum is shifted up; in float32 it is shifted down first.
    """
    m, c, shift = constants
    floats = f"{PLACEHOLDER}_float({sum_} >> ({more}), {m}, (int32_t){c})"
    integers = f"{PLACEHOLDER}_integers({sum_}, (int32_t){m}, {c}, {shift}, {more}, {kinked})"
    if form.rounding is Rounding.FLOAT:
        return floats
    return f"({m} >> 31 ? {floats} : {integers})" if form.is_mixed else integers


def _array(values: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def tile(found: Tile) -> str:
    """Of tile.render, also where that is resident.render."""
    window, form, point = found.window, found.epilogue, found.packed_point
    shift = "tail[4 + c]" if form.right_shift is None else str(form.right_shift)
    constants = ("tail[2 * c]", "tail[2 * c + 1]", shift)
    bias = "(uint32_t[2]){block[0], block[1]}"
    if point is not None:
        shift = "(c ? block[0] & 31 : block[0] >> 5 & 31)"
        bias = f"(uint32_t[2]){{(uint32_t)((int32_t)block[0] >> {PACKED_SHIFTS}), block[1]}}"
        constants = ("tail[c]", f"(uint32_t)((int32_t)({2 * point + 1}u << {shift}) >> 1)", shift)
        if form.rounding is Rounding.FLOAT:
            constants = ("tail[c]", f"({point})", "0")
    kinked = "tail[1] >> c & 1" if form.is_kinked else "0"
    output = _output(form, "sum", constants, kinked=kinked)
    if found.byte_weights:
        step = f"""const uint32_t low = (uint32_t)(uint16_t)(int8_t)w[0] | (uint32_t)(int8_t)(w[0] >> 16) << 16;
                    sums[0] += {PLACEHOLDER}_product(low, word);
                    sums[1] += {PLACEHOLDER}_product(w[0], word);"""
        ends = """sums[1] = (uint32_t)((int32_t)(sums[1] - sums[0]) >> 7);
                sums[0] <<= 1;"""
    else:
        step = f"""sums[0] += {PLACEHOLDER}_product(w[0], word);
                    sums[1] += {PLACEHOLDER}_product(w[1], word);"""
        ends = ""
    return f"""{_SUMS}{_rescale(form)}
void {PLACEHOLDER}(const int16_t *x, const uint32_t *table, int8_t *out, uint32_t tiles_and_pairs)
{{
    static const int32_t offsets[] = {_array(window.offsets_bytes)};
    static const int32_t pixels[] = {_array(found.pixel_offsets_bytes)};
    static const int32_t outs[] = {_array(found.out_offsets_bytes)};
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
                }}
                {ends}
                for (int c = 0; c < 2; c++) {{
                    const int32_t sum = (int32_t)sums[c];
                    out[2 * pair + t * {found.out_step_bytes} + outs[p] + c] = {output};
                }}
            }}
        }}
    }}
}}
"""


def twin(found: Twin) -> str:
    """Of twin.render."""
    form = found.epilogue
    shift = "block[8 + c]" if form.right_shift is None else str(form.right_shift)
    constants = ("block[4 + 2 * c]", "block[5 + 2 * c]", shift)
    if found.is_raw:
        outputs = f"""const int8_t first = {_output(form, "low", constants)};
                    const int8_t second = {_output(form, "high", constants, more="8")};"""
    else:
        outputs = f"""high >>= 8;
                    const int8_t first = {_output(form, "low", constants)};
                    const int8_t second = {_output(form, "high", constants)};"""
    return f"""{_SUMS}{_rescale(form)}
void {PLACEHOLDER}(const int16_t *x, const uint32_t *table, int8_t *out, uint32_t tiles_and_pairs)
{{
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


def interleave(found: Twin) -> str:
    """Of twin.render_interleave."""
    return f"""#include <stdint.h>
void {PLACEHOLDER}(const int8_t *in, int16_t *out, uint32_t pairs)
{{
    static const int32_t order[] = {_array(Order.SPLIT.value)};
    for (; pairs > 0; pairs--, in += {2 * found.depth}, out += {found.depth}) {{
        for (int k = 0; k < {found.depth}; k++) {{
            const int from = (k & ~3) + order[k & 3];
            out[k] = (int16_t)(256 * in[{found.depth} + from] + in[from] + 128);
        }}
    }}
}}
"""


def widen(order: Order) -> str:
    """Of widen.render_widen."""
    return f"""#include <stdint.h>
void {PLACEHOLDER}(const int8_t *in, int16_t *out, uint32_t groups)
{{
    static const uint32_t order[] = {_array(order.value)};
    for (uint32_t k = 0; k < groups * {WIDEN_GROUP_BYTES}; k++) out[k] = in[(k & ~3u) + order[k & 3]];
}}
"""
