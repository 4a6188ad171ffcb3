/* 32-bit data processing: Arm DDI 0403, A5.3.1, A5.3.3, A5.3.11 to A5.3.17. */
#include "parts.h"
#include "roles.h"

enum { ADDRESSABLE = 0x7fff }; /* registers whose value may become an address */

static uint32_t immediate_12(uint32_t w1, uint32_t w2) {
    return BIT(w1, 10) << 11 | FIELD(w2, 14, 12) << 8 | FIELD(w2, 7, 0);
}

/* ThumbExpandImm: a byte, a byte repeated, or a byte rotated. */
static uint32_t expand_immediate(uint32_t imm12) {
    const uint32_t byte = imm12 & 0xffu;
    switch (imm12 >> 8) {
    case 0: return byte;
    case 1: return byte << 16 | byte;
    case 2: return byte << 24 | byte << 8;
    case 3: return byte * 0x01010101u;
    default: {
        const uint32_t rotation = imm12 >> 7, rotated = 0x80u | (imm12 & 0x7fu);
        return rotated >> rotation | rotated << (32 - rotation);
    }
    }
}

/* The sixteen opcodes that the immediate and the shifted-register forms share. */
static void data_processing(tr_insn *i, uint32_t op, uint32_t sets, uint32_t rn, uint32_t rd) {
    const int reads_rn = !((op == 2 || op == 3) && rn == 15);
    if (reads_rn) i->reads |= R(rn);
    if (op == 10 || op == 11) i->reads |= TR_FLAGS;
    if (sets) i->writes |= TR_FLAGS;
    if (rd == 15 && sets && (op == 0 || op == 4 || op == 8 || op == 13)) return; /* TST, TEQ, CMN, CMP */
    i->writes |= R(rd);
    if ((!reads_rn && op == 2) || op == 8 || op == 13) i->traits |= TR_SIMPLE;
}

static void modified_immediate(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t op = FIELD(w1, 8, 5), rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8);
    const uint32_t imm = expand_immediate(immediate_12(w1, w2));
    data_processing(i, op, BIT(w1, 4), rn, rd);
    /* Rotated bytes use the shifter's place; plain bytes and the three repeated patterns do not. */
    if (BIT(w1, 10) || BIT(w2, 14)) {
        i->traits |= TR_SHIFTED_CONSTANT;
        i->traits &= ~(uint32_t)TR_SIMPLE;
    }
    if (!(i->writes & ADDRESSABLE)) return;
    if (op == 2 && rn == 15) value_constant(i, rd, imm);
    else if (op == 8 || op == 13) value_add(i, rd, rn, op == 8 ? imm : 0u - imm);
}

/* ADDW, SUBW, ADR */
static void add_plain(tr_insn *i, uint32_t rd, uint32_t rn, uint32_t step) {
    i->traits |= TR_SIMPLE;
    if (rn == 15) {
        value_constant(i, rd, (i->pc & ~3u) + 4 + step);
    } else {
        i->reads |= R(rn);
        value_add(i, rd, rn, step);
    }
}

static void bit_field(tr_insn *i, uint32_t kind, uint32_t rd, uint32_t rn) {
    const int inserts = kind == 22; /* BFI, BFC; else SSAT, USAT, SBFX, UBFX */
    i->op = TR_OP_BITFIELD;
    i->traits |= TR_EARLY_SHIFTER;
    if (inserts) i->reads |= R(rd);
    else if (kind != 20 && kind != 28) i->traits |= TR_SATURATES;
    if (inserts && rn == 15) return;
    i->reads |= R(rn);
    i->shifted |= R(rn);
}

static void plain_immediate(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t kind = FIELD(w1, 8, 4), rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8), imm12 = immediate_12(w1, w2);
    i->writes |= R(rd);
    switch (kind) {
    case 0: case 10:
        add_plain(i, rd, rn, kind == 0 ? imm12 : 0u - imm12);
        return;
    case 4: case 12: /* MOVW; MOVT, which keeps the low half */
        i->traits |= TR_SIMPLE;
        value_constant(i, rd, rn << 12 | imm12);
        if (kind == 12) {
            i->value = TR_VALUE_HIGH_HALF;
            i->reads |= R(rd);
        }
        return;
    default:
        bit_field(i, kind, rd, rn);
        return;
    }
}

void tr_decode_immediate(tr_insn *i, uint32_t w1, uint32_t w2) {
    if (BIT(w1, 9)) plain_immediate(i, w1, w2);
    else modified_immediate(i, w1, w2);
}

/* A second operand that is `register, shift`: a shift of zero does not use the shifter. */
static void shifted_operand(tr_insn *i, uint32_t rm, uint32_t type, uint32_t amount) {
    i->reads |= R(rm);
    if (type == 0 && amount == 0) return;
    i->traits |= TR_SHIFTED_REGISTER;
    i->traits &= ~(uint32_t)TR_SIMPLE;
    i->shifted |= R(rm);
    if (type == 3 && amount == 0) i->reads |= TR_FLAGS; /* RRX */
}

/* PKHBT, PKHTB */
static void pack_halves(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8), rm = FIELD(w2, 3, 0);
    i->op = TR_OP_BITFIELD;
    i->traits |= TR_EARLY_SHIFTER;
    i->reads |= R(rn) | R(rm);
    i->shifted |= FIELD(w2, 5, 4) == 0 ? R(rm) : R(rm) | R(rn);
    i->writes |= R(rd);
}

void tr_decode_shifted_register(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t op = FIELD(w1, 8, 5), rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8), rm = FIELD(w2, 3, 0);
    const uint32_t type = FIELD(w2, 5, 4), amount = FIELD(w2, 14, 12) << 2 | FIELD(w2, 7, 6);
    const int moves = op == 2 && rn == 15;
    if (op == 6) {
        pack_halves(i, w1, w2);
        return;
    }
    data_processing(i, op, BIT(w1, 4), rn, rd);
    shifted_operand(i, rm, type, amount);
    if ((i->writes & ADDRESSABLE) && type == 0) {
        if (op == 8) value_add_register(i, rd, rn, rm, amount);
        else if (moves) value_add_register(i, rd, NONE, rm, amount);
        else if (op == 13 && amount == 0) {
            value_add_register(i, rd, rn, rm, 0);
            i->value = TR_VALUE_SUBTRACT_REGISTER;
        }
    }
    if (moves && (i->traits & TR_SHIFTED_REGISTER)) { /* LSL, LSR, ASR, ROR, RRX #imm */
        i->op = TR_OP_SHIFT;
        i->shifted = 0;
        i->traits &= ~(uint32_t)TR_SHIFTED_REGISTER;
        if (!(i->reads & TR_FLAGS)) i->traits |= TR_SIMPLE;
    }
    if (i->writes & R(15)) writes_pc_like_branch(i, 15);
}

/* Parallel arithmetic, saturating arithmetic, reverses, SEL, CLZ */
static void register_miscellaneous(tr_insn *i, uint32_t op1, uint32_t op2, uint32_t rn, uint32_t rm) {
    if (op1 == 9 && (op2 & 8u)) { /* REV, REV16, RBIT, REVSH */
        i->traits |= TR_EARLY_SHIFTER | TR_REVERSE;
        i->shifted |= R(rm);
    }
    i->reads |= R(rn);
    if (op1 == 8 && op2 >= 8) { /* QADD, QSUB; QDADD and QDSUB double first */
        i->traits |= TR_SATURATES;
        if (op2 & 1u) i->shifted |= R(rn);
    } else if ((op2 & 8u) == 0) { /* parallel */
        if ((op2 & 3u) == 0) i->writes |= TR_GE;
        if ((op2 & 3u) == 1) i->traits |= TR_SATURATES;
    } else if (op1 == 10) {
        i->reads |= TR_GE; /* SEL */
    }
}

void tr_decode_register(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t op1 = FIELD(w1, 7, 4), op2 = FIELD(w2, 7, 4);
    const uint32_t rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8), rm = FIELD(w2, 3, 0);
    i->writes |= R(rd);
    i->reads |= R(rm);
    if (op1 < 8 && op2 == 0) { /* shifts by register */
        i->op = TR_OP_SHIFT;
        i->traits |= TR_SIMPLE;
        i->reads |= R(rn);
        if (BIT(w1, 4)) i->writes |= TR_FLAGS;
        return;
    }
    i->op = TR_OP_BITFIELD;
    if (op1 >= 8) {
        register_miscellaneous(i, op1, op2, rn, rm);
    } else if (rn != 15) { /* extend and add */
        i->traits |= TR_EARLY_SHIFTER;
        i->reads |= R(rn);
        i->shifted |= R(rm);
    }
}

static void multiply_long(tr_insn *i, uint32_t op1, uint32_t op2, uint32_t high, uint32_t low) {
    i->writes |= R(high) | R(low);
    i->op = (op1 >= 4 && op2 >= 8) ? TR_OP_MAC16 : TR_OP_LMUL;
    if (op1 >= 4) {
        i->reads |= R(high) | R(low);
        i->accumulator |= R(high) | R(low);
    }
}

void tr_decode_multiply(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t op1 = FIELD(w1, 6, 4), op2 = FIELD(w2, 7, 4);
    const uint32_t rn = FIELD(w1, 3, 0), ra = FIELD(w2, 15, 12), rd = FIELD(w2, 11, 8), rm = FIELD(w2, 3, 0);
    i->reads |= R(rn) | R(rm);
    if (!BIT(w1, 7)) {
        i->writes |= R(rd);
        if (ra != 15) {
            i->reads |= R(ra);
            i->accumulator |= R(ra);
        }
        if (op1 == 0 && op2 == 0) value_multiply(i, rd, rn, rm, ra == 15 ? (uint32_t)NONE : ra);
        i->op = (op1 == 0 || op1 == 5 || op1 == 6) ? TR_OP_MUL : op1 == 7 ? TR_OP_BITFIELD : TR_OP_MAC16;
    } else if (op1 == 1 || op1 == 3) {
        i->op = TR_OP_DIV;
        i->writes |= R(rd);
        i->dividend = (uint8_t)rn;
        i->divisor = (uint8_t)rm;
        if (op1 == 3) i->traits |= TR_UNSIGNED_DIV;
    } else {
        multiply_long(i, op1, op2, rd, ra);
    }
}
