/* 32-bit loads and stores of core registers, and table branches: Arm DDI 0403, A5.3.5 to A5.3.10. */
#include "parts.h"
#include "roles.h"

void tr_decode_multiple(tr_insn *i, uint32_t w1, uint32_t w2) {
    multiple(i, BIT(w1, 4), FIELD(w1, 3, 0), w2 & 0xdfffu, (int)BIT(w1, 5), (int)BIT(w1, 8));
}

static void dual(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t rt = FIELD(w2, 15, 12), rt2 = FIELD(w2, 11, 8), loads = BIT(w1, 4);
    const int32_t bytes = (int32_t)(FIELD(w2, 7, 0) * 4), step = BIT(w1, 7) ? bytes : -bytes;
    access(i, loads ? TR_OP_LOAD_DUAL : TR_OP_STORE_DUAL, FIELD(w1, 3, 0), 4);
    i->multiple = 4;
    i->count = 2;
    if (loads) {
        i->writes |= R(rt) | R(rt2);
    } else {
        store_from(i, rt);
        store_from(i, rt2);
    }
    i->rd = (uint8_t)rt;
    i->rm = (uint8_t)rt2;
    if (BIT(w1, 8)) i->offset = step;
    if (BIT(w1, 5)) writeback(i, step);
}

static void table_branch(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t halves = BIT(w2, 4);
    access(i, TR_OP_TABLE_BRANCH, FIELD(w1, 3, 0), halves + 1);
    register_offset(i, FIELD(w2, 3, 0), halves);
    i->traits |= TR_ENDS_FLOW;
}

/* Of words, at an offset; of bytes and halves. A store tells in a register whether it stored. */
static void exclusive(tr_insn *i, uint32_t w1, uint32_t w2) {
    const int words = !BIT(w1, 7);
    const uint32_t loads = BIT(w1, 4), told = words ? FIELD(w2, 11, 8) : FIELD(w2, 3, 0);
    single(i, loads, FIELD(w2, 15, 12), FIELD(w1, 3, 0), words ? 4 : FIELD(w2, 7, 4) == 4 ? 1 : 2);
    i->multiple = i->access_bytes;
    if (words) i->offset = (int32_t)(FIELD(w2, 7, 0) * 4);
    if (!loads) i->writes |= R(told);
}

void tr_decode_dual_exclusive_table(tr_insn *i, uint32_t w1, uint32_t w2) {
    if (BIT(w1, 8) || BIT(w1, 5)) dual(i, w1, w2);
    else if (BIT(w1, 7) && BIT(w1, 4) && FIELD(w2, 7, 4) < 2) table_branch(i, w1, w2);
    else exclusive(i, w1, w2);
}

void tr_decode_single(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t rn = FIELD(w1, 3, 0), rt = FIELD(w2, 15, 12), size = FIELD(w1, 6, 5), loads = BIT(w1, 4);
    const int32_t imm12 = (int32_t)FIELD(w2, 11, 0), imm8 = (int32_t)FIELD(w2, 7, 0);
    if (size == 3) {
        i->op = TR_OP_UNKNOWN;
        return;
    }
    if (loads && rt == 15 && size != 2) {
        access(i, TR_OP_PRELOAD, rn, 4);
        if (rn != 15 && !BIT(w1, 7) && FIELD(w2, 11, 6) == 0)
            register_offset(i, FIELD(w2, 3, 0), FIELD(w2, 5, 4));
        return;
    }
    single(i, loads, rt, rn, 1u << size);
    if (loads && BIT(w1, 8)) i->traits |= TR_SIGN_EXTENDS;
    if (BIT(w1, 7)) {
        i->offset = imm12;
    } else if (rn == 15 && loads) {
        i->offset = -imm12;
    } else if (BIT(w2, 11)) {
        const int32_t step = BIT(w2, 9) ? imm8 : -imm8;
        if (BIT(w2, 10)) i->offset = step; /* else post-indexed */
        if (BIT(w2, 8)) writeback(i, step);
    } else {
        register_offset(i, FIELD(w2, 3, 0), FIELD(w2, 5, 4));
    }
}
