/* Thumb-2 with DSP and FPv4/FPv5 to timing classes. Encodings: Arm DDI 0403, chapters A5 and A6. */
#include "parts.h"
#include "roles.h"

#include <string.h>

static void decode_wide(tr_insn *i, uint32_t w1, uint32_t w2) {
    if ((w1 & 0xec00u) == 0xec00u) {
        tr_decode_floating_point(i, w1, w2);
    } else if ((w1 & 0xf800u) == 0xf000u) {
        if (BIT(w2, 15)) tr_decode_control(i, w1, w2);
        else tr_decode_immediate(i, w1, w2);
    } else if ((w1 & 0xfe40u) == 0xe800u) {
        tr_decode_multiple(i, w1, w2);
    } else if ((w1 & 0xfe40u) == 0xe840u) {
        tr_decode_dual_exclusive_table(i, w1, w2);
    } else if ((w1 & 0xfe00u) == 0xea00u) {
        tr_decode_shifted_register(i, w1, w2);
    } else if ((w1 & 0xfe00u) == 0xf800u) {
        tr_decode_single(i, w1, w2);
    } else if ((w1 & 0xff00u) == 0xfa00u) {
        tr_decode_register(i, w1, w2);
    } else if ((w1 & 0xff00u) == 0xfb00u) {
        tr_decode_multiply(i, w1, w2);
    } else {
        i->op = TR_OP_UNKNOWN;
    }
}

/* The state of an IT block one instruction on; 0 behind its last. */
static uint8_t it_advanced(uint8_t it) {
    const uint8_t next = (uint8_t)((it & 0xe0u) | ((it << 1) & 0x1fu));
    return (next & 0x0fu) ? next : 0;
}

void tr_decode(tr_insn *i, uint32_t pc, uint16_t first, uint16_t second, uint8_t *it) {
    const uint8_t it_now = *it;
    const int in_it = (it_now & 0x0fu) != 0;
    uint8_t it_next = in_it ? it_advanced(it_now) : 0;
    memset(i, 0, sizeof *i);
    i->pc = pc;
    i->op = TR_OP_ALU;
    i->base = i->rm = NONE;
    i->condition = in_it ? it_now >> 4 : 14;
    if (tr_is_wide(first)) {
        i->size = 4;
        decode_wide(i, first, second);
    } else {
        i->size = 2;
        tr_decode_narrow(i, first, in_it, &it_next);
    }
    if (in_it) {
        i->traits |= TR_CONDITIONAL;
        i->reads |= TR_FLAGS;
    }
    *it = it_next;
}
