"""A hand-written generated model for tests of the firmware: small, known output, two inputs and two outputs.

Layer 0 adds the inputs bytewise into the middle of the arena, layer 1 writes it reversed and its sum; the second
layer destroys the first input, as a real in-place plan may.
"""

from __future__ import annotations

from tinyengine.sources import SourceFile, Sources

INPUT_BYTES = 600
OUTPUT_BYTES = 304
ARENA_BYTES = 1_201

_HEADER = """\
#ifndef TE_MODEL_H
#define TE_MODEL_H
#include <stdint.h>
#define TE_ARENA_BYTES {arena}u
#define TE_LAYER_COUNT 2u
#define TE_INPUT_COUNT 2u
#define TE_OUTPUT_COUNT 2u
#define TE_INPUT_BYTES 600u
#define TE_OUTPUT_BYTES 304u
#define TE_SOURCES_DIGEST "00000000000000000000000000000000000000000000000000000000000000aa"
typedef struct {{ uint32_t offset; uint32_t bytes; }} te_io;
extern const te_io te_inputs[TE_INPUT_COUNT];
extern const te_io te_outputs[TE_OUTPUT_COUNT];
typedef void (*te_layer)(uint8_t *arena);
extern const te_layer te_layers[TE_LAYER_COUNT];
void te_invoke(uint8_t *arena);
#endif
"""

_BODY = """\
#include "model.h"
#include <string.h>

const te_io te_inputs[TE_INPUT_COUNT] = {{0u, 300u}, {300u, 300u}};
const te_io te_outputs[TE_OUTPUT_COUNT] = {{0u, 300u}, {1197u, 4u}};

static void te_add(uint8_t *arena)
{
    for (uint32_t i = 0; i < 300u; i++) {
        arena[600u + i] = (uint8_t)(arena[i] + arena[300u + i]);
    }
}

static void te_reverse(uint8_t *arena)
{
    uint32_t sum = 0;
    uint8_t line[100];
    for (uint32_t i = 0; i < 300u; i++) {
        sum += arena[600u + i];
        arena[299u - i] = arena[600u + i];
    }
    memcpy(line, arena, sizeof line);
    memcpy(arena + 1000u, line, sizeof line);
    for (uint32_t i = 0; i < 4u; i++) {
        arena[1197u + i] = (uint8_t)(sum >> (8u * i));
    }
}

const te_layer te_layers[TE_LAYER_COUNT] = {te_add, te_reverse};

void te_invoke(uint8_t *arena)
{
    te_add(arena);
    te_reverse(arena);
}
"""


def tiny_sources(*, arena_bytes: int = ARENA_BYTES, extra: str = "") -> Sources:
    """The model; a larger arena is only declared, not used. `extra` C goes to the end of model.c."""
    return Sources(
        files=(
            SourceFile(name="model.c", text=_BODY + extra),
            SourceFile(name="model.h", text=_HEADER.format(arena=arena_bytes)),
        )
    )


def expected_output(data: bytes) -> bytes:
    """What the model gives for 600 bytes of input."""
    total = bytes((a + b) & 0xFF for a, b in zip(data[:300], data[300:600], strict=True))
    return total[::-1] + sum(total).to_bytes(4, "little")
