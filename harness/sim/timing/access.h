/* Which addresses a block will touch, told from its code and from the registers it starts with.
 *
 * Watching every access of the engine would cost more than the rest of the model together. Nearly all addresses of
 * compiled code are a register at the block's entry, perhaps plus a scaled one, plus a constant; pointers that the block
 * first loads from memory (spilled ones, literals) are loaded by us from where they will be read. What remains unknown is
 * counted, and taken for a hit.
 */
#ifndef TINYRACK_ACCESS_H
#define TINYRACK_ACCESS_H

#include "insn.h"

enum {
    TR_SLOTS_MAX = 12, /* pointers a block loads and then uses */
    TR_NO_TERM = 0xff,
};

/* base + (index << shift) + constant. A term is a register at the block's entry, or 16 + a slot, or TR_NO_TERM. */
typedef struct {
    uint8_t known;
    uint8_t base, index, shift;
    uint32_t constant;
} tr_address;

typedef struct {
    tr_address at;
    uint8_t words; /* elements in a row */
    uint8_t bytes; /* of an element */
    uint8_t writes;
} tr_access;

typedef struct {
    uint32_t count, unknown;
    uint32_t registers; /* mask of those the addresses need */
    uint32_t slot_count;
    tr_address slots[TR_SLOTS_MAX]; /* in the order in which they can be loaded */
    tr_access *accesses;
} tr_trace;

/* Fills `trace`; its `accesses` must have room for one an instruction. */
void tr_trace_block(tr_trace *trace, const tr_insn *insns, uint32_t count);

static inline uint32_t tr_address_value(const tr_address *address, const uint32_t *terms) {
    uint32_t value = address->constant;
    if (address->base != TR_NO_TERM) value += terms[address->base];
    if (address->index != TR_NO_TERM) value += terms[address->index] << address->shift;
    return value;
}

#endif
