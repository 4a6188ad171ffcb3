/* Which of a block's accesses fault on silicon unless their address is a multiple of their size: LDM, LDRD, VLDR,
 * LDREX and their like (Arm DDI 0403, A3.2.1), whatever CCR.UNALIGN_TRP says. Unicorn lets them pass.
 *
 * Looking at each such address as it comes would cost half of the speed. Nearly all of them are a register at the block's
 * entry plus a multiple of four, and a pointer that was a multiple of four once stays one while it walks: so which
 * registers are known to be aligned is part of the state in which a block is entered. Only where that does not tell are
 * registers read; and only what no register at the entry tells is watched by the engine, instruction by instruction.
 */
#ifndef TINYRACK_ALIGNMENT_H
#define TINYRACK_ALIGNMENT_H

#include "access.h"

/* Among the terms of a mask: no registers at the entry make it aligned. */
#define TR_NEVER (UINT64_C(1) << 63)

typedef struct {
    tr_address at;
    uint64_t needs; /* terms: once they are multiples of four, so is the address */
    uint32_t insn;  /* its number in the block */
    uint8_t proves; /* the block gets no further unless the address is a multiple of four */
    uint8_t watch;  /* the address cannot be had at the block's entry */
} tr_aligned_access;

typedef struct tr_alignment {
    uint32_t count;
    tr_aligned_access *accesses;  /* those that are not aligned in any case */
    uint64_t registers;           /* that the addresses not watched are made of */
    uint64_t proven;              /* terms that are multiples of four if the block comes to its end */
    uint64_t exits[TR_FIRST_SLOT]; /* what has to be aligned at the entry for a register to be aligned at the end */
} tr_alignment;

/* The access of instruction number `insn`, whose address is to be a multiple of `multiple`. */
void tr_alignment_access(tr_alignment *alignment, uint32_t insn, uint32_t multiple, const tr_address *at, int conditional);
/* What the block leaves in its registers, r0 to r14 and s0 to s31. */
void tr_alignment_exits(tr_alignment *alignment, const tr_address *registers, const tr_address *fp);

/* The terms that are multiples of four behind the block, of those before it. */
static inline uint64_t tr_aligned_after(const tr_alignment *alignment, uint64_t before) {
    uint64_t after = 0;
    for (uint32_t n = 0; n < TR_FIRST_SLOT; n++)
        if (!(alignment->exits[n] & ~(before | alignment->proven))) after |= UINT64_C(1) << n;
    return after;
}

/* Whether an access has to be looked at when the block is entered with these terms aligned. */
static inline int tr_alignment_is_open(const tr_aligned_access *access, uint64_t before) {
    return !access->watch && (access->needs & ~before) != 0;
}

#endif
