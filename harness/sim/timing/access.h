/* Which addresses a block will touch, told from its code and from the registers it starts with.
 *
 * Watching every access of the engine would cost more than the rest of the model together. Nearly all addresses of
 * compiled code are a register at the block's entry, perhaps plus a scaled one, plus a constant; pointers that the block
 * first loads from memory (spilled ones, literals) are loaded by us from where they will be read. What remains unknown is
 * counted, and taken for a hit.
 */
#ifndef TINYRACK_ACCESS_H
#define TINYRACK_ACCESS_H

#include "instruction.h"

enum {
    TR_FIRST_FP_TERM = 16, /* terms are r0 to r15, s0 to s31, slots */
    TR_FIRST_SLOT = 48,
    TR_SLOTS_MAX = 48,        /* values a block works out or loads on the way to its addresses */
    TR_SLOTS_DRAFT_MAX = 768, /* before those that no address needs are dropped */
    TR_NO_TERM = 0xffff,
};

/* base + (index << shift) + constant. A term is a core or FP register at the block's entry, or a slot,
 * or TR_NO_TERM. */
typedef struct {
    uint8_t known;
    uint8_t shift;
    uint16_t base, index;
    uint32_t constant;
} tr_address;

typedef enum {
    TR_SLOT_LOAD,       /* what lies at `a` */
    TR_SLOT_SUM,        /* a + (b << shift) */
    TR_SLOT_DIFFERENCE, /* a - b */
    TR_SLOT_PRODUCT,    /* a * b */
} tr_slot_kind;

typedef struct {
    tr_address a, b;
    uint8_t kind, shift;
    uint8_t bytes, signs; /* of a load */
} tr_slot;

typedef struct {
    tr_address at;
    uint8_t words; /* elements in a row */
    uint8_t bytes; /* of an element */
    uint8_t writes;
} tr_access;

typedef struct {
    uint32_t count, unknown;
    uint32_t elements;  /* of all known accesses */
    uint64_t registers; /* mask of those the addresses need, core and FP */
    uint32_t slot_count;
    tr_slot *slots; /* in an order in which they can be worked out */
    tr_access *accesses;
} tr_trace;

struct tr_alignment;

/* Fills `trace`; its `accesses` must have room for one an instruction, its `slots` for TR_SLOTS_DRAFT_MAX. At the end at
 * most TR_SLOTS_MAX of them are in use. `alignment`, which starts as zeros, has room for as many accesses. */
void tr_trace_block(tr_trace *trace, struct tr_alignment *alignment, const tr_insn *insns, uint32_t count);

static inline uint32_t tr_address_value(const tr_address *address, const uint32_t *terms) {
    uint32_t value = address->constant;
    if (address->base != TR_NO_TERM) value += terms[address->base];
    if (address->index != TR_NO_TERM) value += terms[address->index] << address->shift;
    return value;
}

#endif
