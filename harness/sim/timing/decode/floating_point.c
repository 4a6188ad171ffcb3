/* Floating point: Arm DDI 0403, A6. */
#include "parts.h"
#include "roles.h"

/* S registers a D or S register number covers. */
static uint32_t fp_mask(uint32_t field, uint32_t extra, uint32_t is_double) {
    return is_double ? 3u << (2 * ((extra << 4 | field) & 15u)) : 1u << (field << 1 | extra);
}

/* Between two core registers and a D or two S registers. */
static void two_core_registers(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t is_double = BIT(w2, 8), core = R(FIELD(w2, 15, 12)) | R(FIELD(w1, 3, 0));
    uint32_t pair = fp_mask(FIELD(w2, 3, 0), BIT(w2, 5), is_double);
    if (!is_double) pair |= pair << 1;
    i->op = TR_OP_FCORE;
    i->count = 2;
    if (BIT(w1, 4)) {
        i->fp_reads |= pair;
        i->writes |= core;
    } else {
        i->fp_writes |= pair;
        i->reads |= core;
    }
}

/* VLDR, VSTR; returns the S registers it moves. */
static uint32_t fp_single(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t is_double = BIT(w2, 8);
    const int32_t bytes = (int32_t)(FIELD(w2, 7, 0) * 4);
    access(i, BIT(w1, 4) ? TR_OP_LOAD : TR_OP_STORE, FIELD(w1, 3, 0), is_double ? 8 : 4);
    i->offset = BIT(w1, 7) ? bytes : -bytes;
    return fp_mask(FIELD(w2, 15, 12), BIT(w1, 6), is_double);
}

/* VLDM, VSTM; returns the S registers it moves. */
static uint32_t fp_multiple(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t is_double = BIT(w2, 8), number = FIELD(w2, 15, 12), extra = BIT(w1, 6);
    const uint32_t first = is_double ? 2 * (number | extra << 4) : number << 1 | extra;
    const uint32_t words = FIELD(w2, 7, 0) & ~is_double, descending = BIT(w1, 8);
    const int32_t bytes = 4 * (int32_t)words;
    access(i, BIT(w1, 4) ? TR_OP_LOAD_MULTI : TR_OP_STORE_MULTI, FIELD(w1, 3, 0), 4);
    i->count = (uint8_t)words;
    if (descending) i->offset = -bytes;
    if (BIT(w1, 5)) writeback(i, descending ? -bytes : bytes);
    return words >= 32 ? 0xffffffffu : ((1u << words) - 1u) << (first & 31u);
}

static void fp_access(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t moved = BIT(w1, 8) && !BIT(w1, 5) ? fp_single(i, w1, w2) : fp_multiple(i, w1, w2);
    i->rd = NONE;
    i->multiple = 4;
    if (BIT(w2, 8)) i->traits |= TR_DOUBLE;
    if (BIT(w1, 4)) i->fp_writes |= moved;
    else i->fp_reads |= moved;
}

/* VMOV between a core register and an S register or half of a D; VMRS, VMSR */
static void one_core_register(tr_insn *i, uint32_t w1, uint32_t w2, uint32_t n) {
    const uint32_t rt = FIELD(w2, 15, 12), to_core = BIT(w1, 4);
    const int is_status = FIELD(w1, 7, 5) == 7;
    i->op = TR_OP_FCORE;
    i->count = 1;
    if (to_core) i->writes |= is_status && rt == 15 ? (uint32_t)TR_FLAGS : R(rt);
    else i->reads |= R(rt);
    if (is_status) return;
    if (to_core) i->fp_reads |= n;
    else i->fp_writes |= n;
    if (BIT(w2, 8)) return;
    value_add_register(i, rt, rt, FIELD(w1, 3, 0) << 1 | BIT(w2, 7), 0);
    i->value = to_core ? TR_VALUE_FROM_FP : TR_VALUE_TO_FP;
}

/* What FPv5 adds. */
static void fpv5(tr_insn *i, uint32_t kind, uint32_t d, uint32_t n, uint32_t m) {
    i->op = kind < 4 ? TR_OP_FMOVE : kind == 4 ? TR_OP_FADD : TR_OP_FCONVERT; /* VSEL; VMAXNM, VMINNM; VRINT, VCVT */
    i->fp_writes |= d;
    i->fp_reads |= kind <= 4 ? m | n : m;
    if (kind < 4) i->reads |= TR_FLAGS;
}

/* Instructions of one operand, and comparisons. */
static void fp_unary(tr_insn *i, uint32_t opc2, uint32_t opc3, uint32_t d, uint32_t m) {
    if ((opc3 & 1u) == 0) { /* immediate */
        i->op = TR_OP_FMOVE;
        i->fp_writes |= d;
    } else if (opc2 == 4 || opc2 == 5) {
        i->op = TR_OP_FCOMPARE;
        i->fp_reads |= opc2 == 4 ? d | m : d;
    } else {
        i->op = opc2 > 1 ? TR_OP_FCONVERT : opc2 == 1 && opc3 == 3 ? TR_OP_FSQRT : TR_OP_FMOVE; /* move, absolute, negate */
        i->fp_reads |= m;
        i->fp_writes |= d;
    }
}

static void fp_arithmetic(tr_insn *i, uint32_t kind, uint32_t d, uint32_t n, uint32_t m) {
    static const uint8_t ops[7] = {
        TR_OP_FMAC, TR_OP_FMAC, TR_OP_FMUL, TR_OP_FADD, TR_OP_FDIV, TR_OP_FMAC, TR_OP_FMAC};
    i->op = ops[kind];
    i->fp_reads |= n | m;
    i->fp_writes |= d;
    if (i->op == TR_OP_FMAC) { /* VMLA, VNMLA, VFNMA, VFMA and their subtracting forms */
        i->fp_reads |= d;
        i->fp_accumulator |= d;
    }
}

void tr_decode_floating_point(tr_insn *i, uint32_t w1, uint32_t w2) {
    if ((w1 & 0xffe0u) == 0xec40u) {
        two_core_registers(i, w1, w2);
        return;
    }
    if ((w1 & 0xfe00u) == 0xec00u) {
        fp_access(i, w1, w2);
        return;
    }
    const uint32_t is_double = BIT(w2, 8), kind = BIT(w1, 7) << 2 | FIELD(w1, 5, 4);
    const uint32_t d = fp_mask(FIELD(w2, 15, 12), BIT(w1, 6), is_double);
    const uint32_t n = fp_mask(FIELD(w1, 3, 0), BIT(w2, 7), is_double);
    const uint32_t m = fp_mask(FIELD(w2, 3, 0), BIT(w2, 5), is_double);
    if (is_double) i->traits |= TR_DOUBLE;
    if ((w1 & 0xff00u) == 0xfe00u) fpv5(i, kind, d, n, m);
    else if (BIT(w2, 4)) one_core_register(i, w1, w2, n);
    else if (kind == 7) fp_unary(i, FIELD(w1, 3, 0), FIELD(w2, 7, 6), d, m);
    else fp_arithmetic(i, kind, d, n, m);
}
