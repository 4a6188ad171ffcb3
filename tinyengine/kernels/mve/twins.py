"""Plain C that does what the generated text does, from the same tables: for hosts, sanitizers and readers.

A twin takes its function's arguments and reads and writes no byte the function does not. It is never shipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyengine.kernels.binding import PLACEHOLDER
from tinyengine.kernels.mve.copies import Windows
from tinyengine.kernels.mve.matrix import BLOCK_CHANNELS, CHUNK_BYTES, Tile, Window, blocks_of
from tinyengine.kernels.mve.planes import Planes
from tinyengine.kernels.mve.scaling import Form
from tinyengine.kernels.mve.sums import Sum


def _scale(form: Form) -> str:
    """A function from a sum and a channel's constants, `apart` words from each other, to a byte."""
    head = f"""static int8_t {PLACEHOLDER}_scale(int32_t sum, const uint32_t *constants, uint32_t apart)
{{
"""
    ends = [f"(v < {form.clamp.low} ? {form.clamp.low} : v > {form.clamp.high} ? {form.clamp.high} : v)"]
    if form.once:
        return f"""{head}    float scale;
    memcpy(&scale, &constants[apart], 4);
    const float product = (float)(int32_t)((uint32_t)sum + constants[0]) * scale;
    const float moved = (product < -32768.0f ? -32768.0f : product > 32767.0f ? 32767.0f : product) + 12582912.0f;
    int32_t v;
    memcpy(&v, &moved, 4);
    v += {form.zero_point} - 0x4B400000;
    return (int8_t){ends[0]};
}}
"""
    kink = ""
    if form.kinked:
        kink = "    if (t < (int32_t)constants[3 * apart]) t = (int32_t)((uint32_t)t + constants[2 * apart]);\n"
    return f"""{head}    int32_t t = (int32_t)(((uint32_t)sum << {form.left_shift}) + constants[0]);
{kink}    const int64_t high = ((int64_t)t * (int32_t)constants[apart] + (1 << 30)) >> 31;
    const int64_t v = ((high + {1 << (form.right_shift - 1)}) >> {form.right_shift}) + {form.zero_point};
    return (int8_t){ends[0]};
}}
"""


def _integers(values: Sequence[int]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def tile(found: Tile) -> str:
    """Of matrix.render."""
    w = found.window
    together = 1 if found.single else 2
    return f"""{_scale(found.form)}
void {PLACEHOLDER}(const int8_t *x, const uint32_t *table, int8_t *y, uint32_t tiles)
{{
    static const int32_t chunks[] = {_integers(w.chunks)};
    static const int32_t order[] = {_integers(found.channel_order)};
    for (; tiles > 0; tiles--) {{
        const uint32_t *at = table;
        for (int c = 0; c < {blocks_of(found.channels) * BLOCK_CHANNELS}; c += {together}) {{
            int32_t sums[{together}][{found.pixels}] = {{{{0}}}};
            for (int k = 0; k < {len(w.chunks)}; k++) {{
                for (int j = 0; j < {together}; j++, at += {CHUNK_BYTES // 4}) {{
                    const int8_t *weights = (const int8_t *)at;
                    for (int p = 0; p < {found.pixels}; p++) {{
                        const int8_t *from = x + p * {w.step_bytes} + chunks[k];
                        for (int b = 0; b < {w.only_bytes or CHUNK_BYTES}; b++) sums[j][p] += from[b] * weights[b];
                    }}
                }}
            }}
            for (int j = 0; j < {together}; j++, at += {found.form.words}) {{
                const int channel = (c & ~3) + order[(c & 3) + j];
                for (int p = 0; p < {found.pixels} && channel < {found.channels}; p++) {{
                    y[p * {found.channels} + channel] = {PLACEHOLDER}_scale(sums[j][p], at, 1);
                }}
            }}
        }}
        x += {found.pixels * w.step_bytes};
        y += {found.pixels * found.channels};
    }}
}}
"""


def _starts(out: int, tile: int) -> list[int]:
    """Where tiles start: the last one ends with the map."""
    return [min(at, out - tile) for at in range(0, out, tile)]


def planes(found: Planes) -> str:
    """Of planes.render."""
    p = found.patches()
    assert p is not None, "asked for a layer that is taken"
    (height, width), (sy, sx), (gh, gw) = found.size, found.stride, p.group
    masks = [sum(1 << q for q in patches) for patches in p.products]
    inside = found.before[0] * found.pitch + found.before[1]
    return f"""{_scale(found.form)}
void {PLACEHOLDER}(const int8_t *x, const uint32_t *table, int8_t *y, int8_t *plane)
{{
    static const int32_t rows[] = {_integers(_starts(found.out[0], p.tile[0]))};
    static const int32_t columns[] = {_integers(_starts(found.out[1], p.tile[1]))};
    static const uint32_t patches[] = {_integers(masks)};
    for (int c = 0; c < {found.channels}; c++) {{
        for (int i = 0; i < {height * width}; i++) {{
            plane[{inside} + i / {width} * {found.pitch} + i % {width}] = x[i * {found.channels} + c];
        }}
        const uint32_t *constants = table + {p.weights * 4};
        for (uint32_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (uint32_t s = 0; s < sizeof columns / sizeof columns[0]; s++)
        for (int n = 0; n < {p.tile[0] * p.tile[1]}; n++) {{
            const int oy = n / {p.tile[1]}, ox = n % {p.tile[1]}, member = oy % {gh} * {gw} + ox % {gw};
            const int8_t *weights = (const int8_t *)table;
            for (int m = 0; m < member; m++)
                for (int q = 0; q < {p.count}; q++) weights += patches[m] >> q & 1 ? {CHUNK_BYTES} : 0;
            const int top = (rows[r] + oy / {gh} * {gh}) * {sy}, left = (columns[s] + ox / {gw} * {gw}) * {sx};
            int32_t sum = 0;
            for (int q = 0; q < {p.count}; q++) {{
                if (!(patches[member] >> q & 1)) continue;
                const int8_t *patch = plane + (top + q * {p.rows}) * {found.pitch} + left;
                for (int b = 0; b < {p.rows * p.columns}; b++)
                    sum += patch[b / {p.columns} * {found.pitch} + b % {p.columns}] * weights[b];
                weights += {CHUNK_BYTES};
            }}
            y[((rows[r] + oy) * {found.out[1]} + columns[s] + ox) * {found.channels} + c] =
                {PLACEHOLDER}_scale(sum, constants, 1);
        }}
        table = constants + {found.form.words};
    }}
}}
"""


def dense(window: Window, form: Form, channels: int) -> str:
    """Of dense.py's function."""
    return f"""{_scale(form)}
void {PLACEHOLDER}(const int8_t *x, const uint32_t *table, int8_t *y)
{{
    static const int32_t chunks[] = {_integers(window.chunks)};
    for (int v = 0; v < {-(-channels // 16) * 4}; v++) {{
        int32_t sums[4] = {{0}};
        for (int k = 0; k < {len(window.chunks)}; k++) {{
            for (int lane = 0; lane < 4; lane++, table += {CHUNK_BYTES // 4}) {{
                const int8_t *weights = (const int8_t *)table;
                for (int b = 0; b < {window.only_bytes or CHUNK_BYTES}; b++)
                    sums[lane] += x[chunks[k] + b] * weights[b];
            }}
        }}
        for (int lane = 0; lane < 4; lane++) {{
            const int c = v / 4 * 16 + 4 * lane + v % 4;
            if (c < {channels}) y[c] = {PLACEHOLDER}_scale(sums[lane], table + lane, 4);
        }}
        table += {4 * form.words};
    }}
}}
"""


def add(s: Sum, low: int, high: int) -> str:
    """Of add.py's function."""
    return f"""void {PLACEHOLDER}(const int8_t *a, const int8_t *b, int8_t *y, uint32_t elements)
{{
    for (uint32_t i = 0; i < elements; i++) {{
        const int32_t t = {s.factor_a} * a[i] + {s.offset} + {s.factor_b} * b[i];
        const int64_t v = ((int64_t)t + {1 << (s.shift - 1)}) >> {s.shift};
        y[i] = (int8_t)(v < {low} ? {low} : v > {high} ? {high} : v);
    }}
}}
"""


def channel_sums(pixels: int, channels: int) -> str:
    """Of pool.py's function."""
    return f"""void {PLACEHOLDER}(const int8_t *x, int16_t *sums)
{{
    for (int c = 0; c < {channels}; c++) {{
        int32_t sum = 0;
        for (int p = 0; p < {pixels}; p++) sum += x[p * {channels} + c];
        sums[c] = (int16_t)sum;
    }}
}}
"""


COPY = f"""void {PLACEHOLDER}(int8_t *to, const int8_t *from, uint32_t bytes)
{{
    memcpy(to, from, bytes);
}}
"""
FILL = f"""void {PLACEHOLDER}(int8_t *to, int32_t value, uint32_t bytes)
{{
    memset(to, value, bytes);
}}
"""


def windows(found: Windows) -> str:
    """Of copies.render_windows: whole chunks, the last ones of runs too long."""
    moves = found.moves()
    return f"""void {PLACEHOLDER}(int8_t *to, const int8_t *from, uint32_t pixels)
{{
    static const int32_t sources[] = {_integers([m[0] for m in moves])};
    static const int32_t targets[] = {_integers([m[1] for m in moves])};
    for (; pixels > 0; pixels--) {{
        for (int n = 0; n < {len(moves)}; n++) memcpy(to + targets[n], from + sources[n], {CHUNK_BYTES});
        from += {found.step_bytes};
        to += {found.pitch_bytes};
    }}
}}
"""
