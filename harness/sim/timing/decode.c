/* Thumb-2 with DSP and FPv4/FPv5 to timing classes. Encodings: Arm DDI 0403, chapters A5 and A6. */
#include "insn.h"

#include <string.h>

#define R(n) (1u << ((n) & 15u))
#define FIELD(word, high, low) (((word) >> (low)) & ((1u << ((high) - (low) + 1)) - 1u))
#define BIT(word, n) (((word) >> (n)) & 1u)

static uint32_t count_bits(uint32_t word) { return (uint32_t)__builtin_popcount(word); }

static void flags_if(tr_insn *i, uint32_t sets) {
    if (sets) i->writes |= TR_FLAGS;
}

/* A second operand that is `register, shift`: a shift of zero does not use the shifter. */
static void shifted_operand(tr_insn *i, uint32_t rm, uint32_t type, uint32_t amount) {
    i->reads |= R(rm);
    if (type != 0 || amount != 0) {
        i->traits |= TR_SHIFTED_REGISTER;
        i->shifted |= R(rm);
        if (type == 3 && amount == 0) i->reads |= TR_FLAGS; /* RRX */
    }
}

static void writes_pc_like_branch(tr_insn *i, uint32_t rd) {
    if (rd == 15) {
        i->op = TR_OP_BRANCH_INDIRECT;
        i->traits |= TR_ENDS_FLOW;
    }
}

static void value_constant(tr_insn *i, uint32_t rd, uint32_t imm) {
    i->value = TR_VALUE_CONSTANT;
    i->rd = (uint8_t)rd;
    i->imm = imm;
}

static void value_add(tr_insn *i, uint32_t rd, uint32_t rn, uint32_t imm) {
    i->value = TR_VALUE_ADD;
    i->rd = (uint8_t)rd;
    i->rn = (uint8_t)rn;
    i->imm = imm;
}

static void value_add_register(tr_insn *i, uint32_t rd, uint32_t rn, uint32_t rm, uint32_t shift) {
    i->value = TR_VALUE_ADD_REGISTER;
    i->rd = (uint8_t)rd;
    i->rn = (uint8_t)rn;
    i->rm = (uint8_t)rm;
    i->shift = (uint8_t)shift;
}

static void value_multiply(tr_insn *i, uint32_t rd, uint32_t rn, uint32_t rm, uint32_t ra) {
    value_add_register(i, rd, rn, rm, 0);
    i->ra = (uint8_t)ra;
    i->value = TR_VALUE_MULTIPLY_ADD;
}

static void access(tr_insn *i, tr_op op, uint32_t rn, uint32_t bytes) {
    i->op = (uint8_t)op;
    i->base = (uint8_t)rn;
    i->access_bytes = (uint8_t)bytes;
    i->count = 1;
    if (rn == 15) {
        i->traits |= TR_LITERAL;
    } else {
        i->reads |= R(rn);
        i->address |= R(rn);
    }
}

static void load_into(tr_insn *i, uint32_t rt) {
    i->writes |= R(rt);
    i->rd = (uint8_t)rt;
    if (rt == 15) {
        i->traits |= TR_ENDS_FLOW;
        if (i->base == 13) i->traits |= TR_RETURN;
    }
}

static void store_from(tr_insn *i, uint32_t rt) {
    i->reads |= R(rt);
    i->rd = (uint8_t)rt;
    i->data |= R(rt);
}

/* The address generator has its own shifter of 0..3: a scaled index is no shifted operand. */
static void register_offset(tr_insn *i, uint32_t rm, uint32_t shift) {
    i->rm = (uint8_t)rm;
    i->shift = (uint8_t)shift;
    i->reads |= R(rm);
    i->address |= R(rm);
    i->traits |= TR_REGISTER_OFFSET;
}

static void writeback(tr_insn *i, int32_t step) {
    i->traits |= TR_WRITEBACK;
    i->step = step;
    i->writes |= R(i->base);
}

static void multiple(tr_insn *i, int loads, uint32_t rn, uint32_t list, int writes_back, int descending) {
    access(i, loads ? TR_OP_LOAD_MULTI : TR_OP_STORE_MULTI, rn, 4);
    i->multiple = 4;
    i->count = (uint8_t)count_bits(list);
    i->rd = 0xff;
    const int32_t bytes = 4 * i->count;
    if (descending) i->offset = -bytes;
    if (loads) {
        i->writes |= list;
        if (list & 0x8000u) {
            i->traits |= TR_ENDS_FLOW;
            if (rn == 13) i->traits |= TR_RETURN;
        }
    } else {
        i->reads |= list;
        i->data |= list;
    }
    if (writes_back) writeback(i, descending ? -bytes : bytes);
}

static void decode_16(tr_insn *i, uint32_t w, uint8_t *it_after, int in_it) {
    const uint32_t low = FIELD(w, 2, 0), mid = FIELD(w, 5, 3), high = FIELD(w, 8, 6), r8 = FIELD(w, 10, 8);
    const uint32_t sets = !in_it;
    switch (w >> 11) {
    case 0: case 1: case 2: { /* LSL, LSR, ASR #imm; MOVS */
        const uint32_t type = w >> 11, amount = FIELD(w, 10, 6);
        i->op = (type == 0 && amount == 0) ? TR_OP_ALU : TR_OP_SHIFT;
        i->traits |= TR_SIMPLE;
        i->reads |= R(mid);
        i->writes |= R(low);
        if (i->op == TR_OP_ALU) value_add(i, low, mid, 0);
        else if (type == 0) value_add_register(i, low, 0xff, mid, amount);
        flags_if(i, sets || i->op == TR_OP_ALU);
        return;
    }
    case 3: /* ADD, SUB of three low registers or imm3 */
        i->traits |= TR_SIMPLE;
        i->reads |= R(mid);
        if (!BIT(w, 10)) i->reads |= R(high);
        if (BIT(w, 10)) value_add(i, low, mid, BIT(w, 9) ? 0u - high : high);
        else value_add_register(i, low, mid, high, 0);
        if (!BIT(w, 10) && BIT(w, 9)) i->value = TR_VALUE_SUBTRACT_REGISTER;
        i->writes |= R(low);
        flags_if(i, sets);
        return;
    case 4: /* MOV #imm8 */
        i->traits |= TR_SIMPLE;
        value_constant(i, r8, FIELD(w, 7, 0));
        i->writes |= R(r8);
        flags_if(i, sets);
        return;
    case 5: /* CMP #imm8 */
        i->reads |= R(r8);
        flags_if(i, 1);
        return;
    case 6: case 7: /* ADD, SUB #imm8 */
        i->traits |= TR_SIMPLE;
        value_add(i, r8, r8, BIT(w, 11) ? 0u - FIELD(w, 7, 0) : FIELD(w, 7, 0));
        i->reads |= R(r8);
        i->writes |= R(r8);
        flags_if(i, sets);
        return;
    case 8:
        if (BIT(w, 10)) { /* high registers, BX */
            const uint32_t rd = low | (BIT(w, 7) << 3), rm = FIELD(w, 6, 3);
            switch (FIELD(w, 9, 8)) {
            case 0:
                i->traits |= TR_SIMPLE;
                value_add_register(i, rd, rd, rm, 0);
                i->reads |= R(rd) | R(rm);
                i->writes |= R(rd);
                writes_pc_like_branch(i, rd);
                return;
            case 1:
                i->reads |= R(rd) | R(rm);
                flags_if(i, 1);
                return;
            case 2:
                i->traits |= TR_SIMPLE;
                value_add(i, rd, rm, 0);
                i->reads |= R(rm);
                i->writes |= R(rd);
                writes_pc_like_branch(i, rd);
                if (rd == 15 && rm == 14) i->traits |= TR_RETURN;
                return;
            default:
                i->op = TR_OP_BRANCH_INDIRECT;
                i->traits |= TR_ENDS_FLOW;
                i->reads |= R(rm);
                i->writes |= R(15);
                if (BIT(w, 7)) {
                    i->writes |= R(14);
                    i->traits |= TR_CALL;
                } else if (rm == 14) {
                    i->traits |= TR_RETURN;
                }
                return;
            }
        } else { /* two low registers */
            const uint32_t op = FIELD(w, 9, 6);
            switch (op) {
            case 2: case 3: case 4: case 7: /* shifts by register */
                i->op = TR_OP_SHIFT;
                i->traits |= TR_SIMPLE;
                i->reads |= R(low) | R(mid);
                i->writes |= R(low);
                break;
            case 5: case 6: /* ADC, SBC */
                i->reads |= R(low) | R(mid) | TR_FLAGS;
                i->writes |= R(low);
                break;
            case 8: case 10: case 11: /* TST, CMP, CMN */
                i->reads |= R(low) | R(mid);
                flags_if(i, 1);
                return;
            case 9: case 15: /* RSB #0, MVN */
                i->reads |= R(mid);
                i->writes |= R(low);
                break;
            case 13:
                i->op = TR_OP_MUL;
                value_multiply(i, low, low, mid, 0xff);
                i->reads |= R(low) | R(mid);
                i->writes |= R(low);
                break;
            default: /* AND, EOR, ORR, BIC */
                i->reads |= R(low) | R(mid);
                i->writes |= R(low);
                break;
            }
            flags_if(i, sets);
        }
        return;
    case 9: /* LDR literal */
        access(i, TR_OP_LOAD, 15, 4);
        i->offset = (int32_t)(FIELD(w, 7, 0) * 4);
        load_into(i, r8);
        return;
    case 10: case 11: { /* register offset */
        static const uint8_t bytes[8] = {4, 2, 1, 1, 4, 2, 1, 2};
        const uint32_t op = FIELD(w, 11, 9);
        access(i, op >= 3 ? TR_OP_LOAD : TR_OP_STORE, mid, bytes[op]);
        register_offset(i, high, 0);
        if (op >= 3) load_into(i, low);
        else store_from(i, low);
        if (op == 3 || op == 7) i->traits |= TR_SIGN_EXTENDS;
        return;
    }
    case 12: case 13: case 14: case 15: case 16: case 17: { /* imm5 */
        const uint32_t op = w >> 11, bytes = op < 14 ? 4 : op < 16 ? 1 : 2;
        access(i, (op & 1u) ? TR_OP_LOAD : TR_OP_STORE, mid, bytes);
        i->offset = (int32_t)(FIELD(w, 10, 6) * bytes);
        if (op & 1u) load_into(i, low);
        else store_from(i, low);
        return;
    }
    case 18: case 19: /* relative to sp */
        access(i, BIT(w, 11) ? TR_OP_LOAD : TR_OP_STORE, 13, 4);
        i->offset = (int32_t)(FIELD(w, 7, 0) * 4);
        if (BIT(w, 11)) load_into(i, r8);
        else store_from(i, r8);
        return;
    case 20: /* ADR */
        i->traits |= TR_SIMPLE;
        value_constant(i, r8, (i->pc & ~3u) + 4 + FIELD(w, 7, 0) * 4);
        i->writes |= R(r8);
        return;
    case 21: /* ADD rd, sp, #imm */
        i->traits |= TR_SIMPLE;
        value_add(i, r8, 13, FIELD(w, 7, 0) * 4);
        i->reads |= R(13);
        i->writes |= R(r8);
        return;
    case 22: case 23: /* miscellaneous */
        switch (FIELD(w, 11, 8)) {
        case 0:
            i->traits |= TR_SIMPLE;
            value_add(i, 13, 13, BIT(w, 7) ? 0u - FIELD(w, 6, 0) * 4 : FIELD(w, 6, 0) * 4);
            i->reads |= R(13);
            i->writes |= R(13);
            return;
        case 1: case 3: case 9: case 11: /* CBZ, CBNZ */
            i->op = TR_OP_BRANCH;
            i->reads |= R(low);
            i->traits |= TR_CONDITIONAL | TR_ENDS_FLOW | TR_COMPARE_BRANCH;
            i->target = i->pc + 4 + (BIT(w, 9) << 6 | FIELD(w, 7, 3) << 1);
            return;
        case 2: case 10: /* extends; REV */
            i->op = TR_OP_BITFIELD;
            i->reads |= R(mid);
            i->writes |= R(low);
            if (FIELD(w, 11, 8) == 10) {
                i->traits |= TR_EARLY_SHIFTER | TR_REVERSE;
                i->shifted |= R(mid);
            }
            return;
        case 4: case 5:
            multiple(i, 0, 13, FIELD(w, 7, 0) | BIT(w, 8) << 14, 1, 1);
            return;
        case 12: case 13:
            multiple(i, 1, 13, FIELD(w, 7, 0) | BIT(w, 8) << 15, 1, 0);
            return;
        case 6:
            i->op = TR_OP_SYSTEM;
            return;
        case 15:
            if (FIELD(w, 3, 0)) {
                i->op = TR_OP_IT;
                i->reads |= TR_FLAGS;
                *it_after = (uint8_t)FIELD(w, 7, 0);
            } else {
                i->op = TR_OP_NOP;
            }
            return;
        default:
            i->op = TR_OP_SYSTEM;
            return;
        }
    case 24: case 25: /* STM, LDM */
        multiple(i, (int)BIT(w, 11), r8, FIELD(w, 7, 0), !(BIT(w, 11) && (w & (1u << r8))), 0);
        return;
    case 26: case 27: {
        const uint32_t condition = FIELD(w, 11, 8);
        if (condition >= 14) {
            i->op = TR_OP_SYSTEM;
            i->traits |= TR_ENDS_FLOW;
            return;
        }
        i->op = TR_OP_BRANCH;
        i->traits |= TR_CONDITIONAL | TR_ENDS_FLOW;
        i->reads |= TR_FLAGS;
        i->target = i->pc + 4 + (uint32_t)((int32_t)(w << 24) >> 23);
        return;
    }
    case 28: /* B */
        i->op = TR_OP_BRANCH;
        i->traits |= TR_ENDS_FLOW;
        i->target = i->pc + 4 + (uint32_t)((int32_t)(w << 21) >> 20);
        return;
    default:
        i->op = TR_OP_UNKNOWN;
        return;
    }
}

/* ThumbExpandImm: a byte, a byte repeated, or a byte rotated. */
static uint32_t expand_immediate(uint32_t w1, uint32_t w2) {
    const uint32_t imm12 = BIT(w1, 10) << 11 | FIELD(w2, 14, 12) << 8 | FIELD(w2, 7, 0), byte = imm12 & 0xffu;
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

/* Rotated-byte immediates use the shifter's place; plain bytes and the three repeated patterns do not. */
static void modified_immediate(tr_insn *i, uint32_t w1, uint32_t w2) {
    if (BIT(w1, 10) || BIT(w2, 14)) {
        i->traits |= TR_SHIFTED_CONSTANT;
        i->traits &= ~(uint32_t)TR_SIMPLE;
    }
}

/* The sixteen opcodes that the immediate and the shifted-register forms share. */
static void data_processing(tr_insn *i, uint32_t op, uint32_t sets, uint32_t rn, uint32_t rd) {
    const int reads_rn = !((op == 2 || op == 3) && rn == 15);
    if (reads_rn) i->reads |= R(rn);
    if (op == 10 || op == 11) i->reads |= TR_FLAGS;
    if (rd == 15 && sets && (op == 0 || op == 4 || op == 8 || op == 13)) { /* TST, TEQ, CMN, CMP */
        flags_if(i, 1);
        return;
    }
    i->writes |= R(rd);
    flags_if(i, sets);
    if ((!reads_rn && op == 2) || op == 8 || op == 13) i->traits |= TR_SIMPLE;
}

static void decode_branch_or_system(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t s = BIT(w1, 10), j1 = BIT(w2, 13), j2 = BIT(w2, 11);
    if (BIT(w2, 12)) { /* B.W, BL */
        const uint32_t i1 = !(j1 ^ s), i2 = !(j2 ^ s);
        const uint32_t raw = s << 24 | i1 << 23 | i2 << 22 | FIELD(w1, 9, 0) << 12 | FIELD(w2, 10, 0) << 1;
        i->op = TR_OP_BRANCH;
        i->traits |= TR_ENDS_FLOW;
        i->target = i->pc + 4 + (uint32_t)((int32_t)(raw << 7) >> 7);
        if (BIT(w2, 14)) {
            i->traits |= TR_CALL;
            i->writes |= R(14);
        }
        return;
    }
    if (FIELD(w1, 9, 7) != 7) { /* conditional */
        const uint32_t raw = s << 20 | j2 << 19 | j1 << 18 | FIELD(w1, 5, 0) << 12 | FIELD(w2, 10, 0) << 1;
        i->op = TR_OP_BRANCH;
        i->traits |= TR_ENDS_FLOW | TR_CONDITIONAL;
        i->reads |= TR_FLAGS;
        i->target = i->pc + 4 + (uint32_t)((int32_t)(raw << 11) >> 11);
        return;
    }
    switch (FIELD(w1, 10, 4)) {
    case 0x3a:
        i->op = FIELD(w2, 7, 0) == 0 ? TR_OP_NOP : TR_OP_SYSTEM;
        return;
    case 0x3b:
        i->op = TR_OP_BARRIER;
        return;
    case 0x3e: case 0x3f:
        i->op = TR_OP_SYSTEM;
        i->writes |= R(FIELD(w2, 11, 8));
        return;
    case 0x38: case 0x39:
        i->op = TR_OP_SYSTEM;
        i->reads |= R(FIELD(w1, 3, 0));
        i->writes |= TR_FLAGS;
        return;
    default:
        i->op = TR_OP_SYSTEM;
        i->traits |= TR_ENDS_FLOW;
        return;
    }
}

static void decode_immediates(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8);
    const uint32_t imm12 = BIT(w1, 10) << 11 | FIELD(w2, 14, 12) << 8 | FIELD(w2, 7, 0);
    if (!BIT(w1, 9)) {
        const uint32_t op = FIELD(w1, 8, 5), imm = expand_immediate(w1, w2);
        data_processing(i, op, BIT(w1, 4), rn, rd);
        modified_immediate(i, w1, w2);
        if (i->writes & 0x7fffu) {
            if (op == 2 && rn == 15) value_constant(i, rd, imm);
            else if (op == 8 || op == 13) value_add(i, rd, rn, op == 8 ? imm : 0u - imm);
        }
        return;
    }
    switch (FIELD(w1, 8, 4)) {
    case 0: case 10: /* ADDW, SUBW, ADR */
        i->traits |= TR_SIMPLE;
        if (rn != 15) {
            i->reads |= R(rn);
            value_add(i, rd, rn, FIELD(w1, 8, 4) == 0 ? imm12 : 0u - imm12);
        } else {
            value_constant(i, rd, (i->pc & ~3u) + 4 + (FIELD(w1, 8, 4) == 0 ? imm12 : 0u - imm12));
        }
        i->writes |= R(rd);
        return;
    case 4:
        i->traits |= TR_SIMPLE;
        value_constant(i, rd, FIELD(w1, 3, 0) << 12 | imm12);
        i->writes |= R(rd);
        return;
    case 12: /* MOVT keeps the low half */
        i->traits |= TR_SIMPLE;
        value_constant(i, rd, FIELD(w1, 3, 0) << 12 | imm12);
        i->value = TR_VALUE_HIGH_HALF;
        i->reads |= R(rd);
        i->writes |= R(rd);
        return;
    case 22: /* BFI, BFC */
        i->op = TR_OP_BITFIELD;
        i->traits |= TR_EARLY_SHIFTER;
        i->reads |= R(rd);
        if (rn != 15) {
            i->reads |= R(rn);
            i->shifted |= R(rn);
        }
        i->writes |= R(rd);
        return;
    default: /* SSAT, USAT, SBFX, UBFX */
        i->op = TR_OP_BITFIELD;
        i->reads |= R(rn);
        i->writes |= R(rd);
        if (FIELD(w1, 8, 4) == 20 || FIELD(w1, 8, 4) == 28) {
            i->traits |= TR_EARLY_SHIFTER;
            i->shifted |= R(rn);
        } else {
            i->traits |= TR_EARLY_SHIFTER | TR_SATURATES;
            i->shifted |= R(rn);
        }
        return;
    }
}

static void decode_dual_exclusive_table(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t rn = FIELD(w1, 3, 0), rt = FIELD(w2, 15, 12), rt2 = FIELD(w2, 11, 8), loads = BIT(w1, 4);
    if (BIT(w1, 8) || BIT(w1, 5)) {
        access(i, loads ? TR_OP_LOAD_DUAL : TR_OP_STORE_DUAL, rn, 4);
        i->multiple = 4;
        i->count = 2;
        i->offset = (int32_t)(FIELD(w2, 7, 0) * 4);
        if (!BIT(w1, 7)) i->offset = -i->offset;
        if (loads) {
            i->writes |= R(rt) | R(rt2);
        } else {
            store_from(i, rt);
            store_from(i, rt2);
        }
        i->rd = (uint8_t)rt;
        i->rm = (uint8_t)rt2;
        if (BIT(w1, 5)) writeback(i, i->offset);
        if (!BIT(w1, 8)) i->offset = 0;
        return;
    }
    if (BIT(w1, 7)) {
        const uint32_t kind = FIELD(w2, 7, 4);
        if (loads && kind < 2) {
            access(i, TR_OP_TABLE_BRANCH, rn, kind + 1);
            register_offset(i, FIELD(w2, 3, 0), kind);
            i->traits |= TR_ENDS_FLOW;
            return;
        }
        access(i, loads ? TR_OP_LOAD : TR_OP_STORE, rn, kind == 4 ? 1 : 2);
        i->multiple = i->access_bytes;
        if (loads) {
            load_into(i, rt);
        } else {
            store_from(i, rt);
            i->writes |= R(FIELD(w2, 3, 0));
        }
        return;
    }
    access(i, loads ? TR_OP_LOAD : TR_OP_STORE, rn, 4);
    i->multiple = 4;
    i->offset = (int32_t)(FIELD(w2, 7, 0) * 4);
    if (loads) {
        load_into(i, rt);
    } else {
        store_from(i, rt);
        i->writes |= R(rt2);
    }
}

static void decode_shifted_register(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t op = FIELD(w1, 8, 5), rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8), rm = FIELD(w2, 3, 0);
    const uint32_t type = FIELD(w2, 5, 4), amount = FIELD(w2, 14, 12) << 2 | FIELD(w2, 7, 6);
    if (op == 6) { /* PKHBT, PKHTB */
        i->op = TR_OP_BITFIELD;
        i->traits |= TR_EARLY_SHIFTER;
        i->reads |= R(rn) | R(rm);
        i->shifted |= type == 0 ? R(rm) : R(rm) | R(rn);
        i->writes |= R(rd);
        return;
    }
    data_processing(i, op, BIT(w1, 4), rn, rd);
    shifted_operand(i, rm, type, amount);
    if ((i->writes & 0x7fffu) && type == 0) {
        if (op == 8) value_add_register(i, rd, rn, rm, amount);
        else if (op == 2 && rn == 15) value_add_register(i, rd, 0xff, rm, amount);
        else if (op == 13 && amount == 0) {
            value_add_register(i, rd, rn, rm, 0);
            i->value = TR_VALUE_SUBTRACT_REGISTER;
        }
    }
    if (i->traits & TR_SHIFTED_REGISTER) {
        i->traits &= ~(uint32_t)TR_SIMPLE;
        if (op == 2 && rn == 15) { /* LSL, LSR, ASR, ROR, RRX #imm */
            i->op = TR_OP_SHIFT;
            i->shifted = 0;
            i->traits &= ~(uint32_t)TR_SHIFTED_REGISTER;
            if (!(i->reads & TR_FLAGS)) i->traits |= TR_SIMPLE;
        }
    }
    writes_pc_like_branch(i, (i->writes & R(15)) ? 15 : 0);
}

static void decode_single_access(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t rn = FIELD(w1, 3, 0), rt = FIELD(w2, 15, 12), size = FIELD(w1, 6, 5), loads = BIT(w1, 4);
    const uint32_t bytes = 1u << size;
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
    access(i, loads ? TR_OP_LOAD : TR_OP_STORE, rn, bytes);
    if (loads && BIT(w1, 8)) i->traits |= TR_SIGN_EXTENDS;
    if (loads) load_into(i, rt);
    else store_from(i, rt);
    if (rn == 15 && loads) {
        i->offset = BIT(w1, 7) ? (int32_t)FIELD(w2, 11, 0) : -(int32_t)FIELD(w2, 11, 0);
    } else if (BIT(w1, 7)) {
        i->offset = (int32_t)FIELD(w2, 11, 0);
    } else if (BIT(w2, 11)) {
        i->offset = BIT(w2, 9) ? (int32_t)FIELD(w2, 7, 0) : -(int32_t)FIELD(w2, 7, 0);
        if (BIT(w2, 8)) writeback(i, i->offset);
        if (!BIT(w2, 10)) i->offset = 0; /* post-indexed */
    } else {
        register_offset(i, FIELD(w2, 3, 0), FIELD(w2, 5, 4));
    }
}

static void decode_register_operations(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t op1 = FIELD(w1, 7, 4), op2 = FIELD(w2, 7, 4);
    const uint32_t rn = FIELD(w1, 3, 0), rd = FIELD(w2, 11, 8), rm = FIELD(w2, 3, 0);
    i->writes |= R(rd);
    if (op1 < 8 && op2 == 0) { /* shifts by register */
        i->op = TR_OP_SHIFT;
        i->traits |= TR_SIMPLE;
        i->reads |= R(rn) | R(rm);
        flags_if(i, BIT(w1, 4));
        return;
    }
    i->op = TR_OP_BITFIELD;
    i->reads |= R(rm);
    if (op1 < 8) { /* extend, extend and add */
        if (rn != 15) {
            i->traits |= TR_EARLY_SHIFTER;
            i->reads |= R(rn);
            i->shifted |= R(rm);
        }
        return;
    }
    if (op1 == 9 && (op2 & 8u)) { /* REV, REV16, RBIT, REVSH */
        i->traits |= TR_EARLY_SHIFTER | TR_REVERSE;
        i->shifted |= R(rm);
    }
    i->reads |= R(rn);
    if (op1 == 8 && op2 >= 8) { /* QADD, QSUB; QDADD and QDSUB double first */
        i->traits |= TR_SATURATES;
        if (op2 & 1u) i->shifted |= R(rn);
        return;
    }
    if ((op2 & 8u) == 0) { /* parallel */
        if ((op2 & 3u) == 0) i->writes |= TR_GE;
        if ((op2 & 3u) == 1) i->traits |= TR_SATURATES;
        return;
    }
    if (op1 == 10) i->reads |= TR_GE; /* SEL */
}

static void decode_multiply(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t op1 = FIELD(w1, 6, 4), op2 = FIELD(w2, 7, 4);
    const uint32_t rn = FIELD(w1, 3, 0), ra = FIELD(w2, 15, 12), rd = FIELD(w2, 11, 8), rm = FIELD(w2, 3, 0);
    i->reads |= R(rn) | R(rm);
    if (!BIT(w1, 7)) {
        i->writes |= R(rd);
        if (ra != 15) {
            i->reads |= R(ra);
            i->accumulator |= R(ra);
            i->traits |= TR_ACCUMULATES;
        }
        if (op1 == 0 && op2 == 0) value_multiply(i, rd, rn, rm, ra == 15 ? 0xff : ra);
        i->op = (op1 == 0 || op1 == 5 || op1 == 6) ? TR_OP_MUL : op1 == 7 ? TR_OP_BITFIELD : TR_OP_MAC16;
        return;
    }
    if (op1 == 1 || op1 == 3) {
        i->op = TR_OP_DIV;
        i->writes |= R(rd);
        i->dividend = (uint8_t)rn;
        i->divisor = (uint8_t)rm;
        if (op1 == 3) i->traits |= TR_UNSIGNED_DIV;
        return;
    }
    i->writes |= R(rd) | R(ra); /* RdHi:RdLo */
    i->op = (op1 >= 4 && op2 >= 8) ? TR_OP_MAC16 : TR_OP_LMUL;
    if (op1 >= 4) {
        i->reads |= R(rd) | R(ra);
        i->accumulator |= R(rd) | R(ra);
        i->traits |= TR_ACCUMULATES;
    }
}

/* S registers a D or S register number covers. */
static uint32_t fp_mask(uint32_t field, uint32_t extra, uint32_t is_double) {
    if (is_double) {
        const uint32_t d = (extra << 4 | field) & 15u;
        return 3u << (2 * d);
    }
    return 1u << (field << 1 | extra);
}

static void decode_fp_transfer(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t rn = FIELD(w1, 3, 0), loads = BIT(w1, 4), is_double = BIT(w2, 8);
    if ((w1 & 0xffe0u) == 0xec40u) { /* two core registers */
        const uint32_t rt = FIELD(w2, 15, 12);
        uint32_t pair = fp_mask(FIELD(w2, 3, 0), BIT(w2, 5), is_double);
        if (!is_double) pair |= pair << 1;
        i->op = TR_OP_FCORE;
        i->count = 2;
        if (loads) {
            i->fp_reads |= pair;
            i->writes |= R(rt) | R(rn);
        } else {
            i->fp_writes |= pair;
            i->reads |= R(rt) | R(rn);
        }
        return;
    }
    const uint32_t imm8 = FIELD(w2, 7, 0);
    uint32_t mask;
    if (BIT(w1, 8) && !BIT(w1, 5)) { /* VLDR, VSTR */
        access(i, loads ? TR_OP_LOAD : TR_OP_STORE, rn, is_double ? 8 : 4);
        i->offset = BIT(w1, 7) ? (int32_t)(imm8 * 4) : -(int32_t)(imm8 * 4);
        mask = fp_mask(FIELD(w2, 15, 12), BIT(w1, 6), is_double);
    } else {
        const uint32_t first = is_double ? 2 * (FIELD(w2, 15, 12) | BIT(w1, 6) << 4) : (FIELD(w2, 15, 12) << 1 | BIT(w1, 6));
        const uint32_t words = imm8 & ~is_double;
        access(i, loads ? TR_OP_LOAD_MULTI : TR_OP_STORE_MULTI, rn, 4);
        i->count = (uint8_t)words;
        mask = words >= 32 ? 0xffffffffu : (((1u << words) - 1u) << (first & 31u));
        const int32_t bytes = 4 * (int32_t)words;
        if (BIT(w1, 8)) i->offset = -bytes;
        if (BIT(w1, 5)) writeback(i, BIT(w1, 8) ? -bytes : bytes);
    }
    i->rd = 0xff;
    i->multiple = 4;
    if (is_double) i->traits |= TR_DOUBLE;
    if (loads) i->fp_writes |= mask;
    else i->fp_reads |= mask;
}

static void decode_fp(tr_insn *i, uint32_t w1, uint32_t w2) {
    const uint32_t is_double = BIT(w2, 8);
    if ((w1 & 0xfe00u) == 0xec00u) {
        decode_fp_transfer(i, w1, w2);
        return;
    }
    const uint32_t d = fp_mask(FIELD(w2, 15, 12), BIT(w1, 6), is_double);
    const uint32_t n = fp_mask(FIELD(w1, 3, 0), BIT(w2, 7), is_double);
    const uint32_t m = fp_mask(FIELD(w2, 3, 0), BIT(w2, 5), is_double);
    if (is_double) i->traits |= TR_DOUBLE;
    if ((w1 & 0xff00u) == 0xfe00u) { /* FPv5 additions */
        const uint32_t op = BIT(w1, 7) << 2 | FIELD(w1, 5, 4);
        i->fp_writes |= d;
        i->fp_reads |= m;
        if (op < 4) {
            i->op = TR_OP_FMOVE; /* VSEL */
            i->fp_reads |= n;
            i->reads |= TR_FLAGS;
        } else if (op == 4) {
            i->op = TR_OP_FADD; /* VMAXNM, VMINNM */
            i->fp_reads |= n;
        } else {
            i->op = TR_OP_FCONVERT;
        }
        return;
    }
    if (BIT(w2, 4)) { /* one core register */
        const uint32_t rt = FIELD(w2, 15, 12), to_core = BIT(w1, 4);
        i->op = TR_OP_FCORE;
        i->count = 1;
        if (FIELD(w1, 7, 5) == 7) { /* VMRS, VMSR */
            if (to_core) i->writes |= rt == 15 ? (uint32_t)TR_FLAGS : R(rt);
            else i->reads |= R(rt);
            return;
        }
        if (!is_double) {
            value_add_register(i, rt, rt, FIELD(w1, 3, 0) << 1 | BIT(w2, 7), 0);
            i->value = to_core ? TR_VALUE_FROM_FP : TR_VALUE_TO_FP;
        }
        if (to_core) {
            i->fp_reads |= n;
            i->writes |= R(rt);
        } else {
            i->fp_writes |= n;
            i->reads |= R(rt);
        }
        return;
    }
    switch (BIT(w1, 7) << 2 | FIELD(w1, 5, 4)) {
    case 0: case 1: case 5: case 6: /* VMLA, VNMLA, VFNMA, VFMA and their subtracting forms */
        i->op = TR_OP_FMAC;
        i->traits |= TR_ACCUMULATES;
        i->fp_reads |= d | n | m;
        i->fp_accumulator |= d;
        i->fp_writes |= d;
        return;
    case 2:
        i->op = TR_OP_FMUL;
        break;
    case 3:
        i->op = TR_OP_FADD;
        break;
    case 4:
        i->op = TR_OP_FDIV;
        break;
    default: {
        const uint32_t opc2 = FIELD(w1, 3, 0), opc3 = FIELD(w2, 7, 6);
        i->fp_writes |= d;
        if ((opc3 & 1u) == 0) {
            i->op = TR_OP_FMOVE; /* immediate */
            return;
        }
        i->fp_reads |= m;
        if (opc2 == 0 || (opc2 == 1 && opc3 == 1)) {
            i->op = TR_OP_FMOVE; /* move, absolute, negate */
        } else if (opc2 == 1) {
            i->op = TR_OP_FSQRT;
        } else if (opc2 == 4 || opc2 == 5) {
            i->op = TR_OP_FCOMPARE;
            i->fp_reads = opc2 == 4 ? (d | m) : d;
            i->fp_writes = 0;
        } else {
            i->op = TR_OP_FCONVERT;
        }
        return;
    }
    }
    i->fp_reads |= n | m;
    i->fp_writes |= d;
}

static void decode_32(tr_insn *i, uint32_t w1, uint32_t w2) {
    if ((w1 & 0xec00u) == 0xec00u) {
        decode_fp(i, w1, w2);
    } else if ((w1 & 0xf800u) == 0xf000u) {
        if (BIT(w2, 15)) decode_branch_or_system(i, w1, w2);
        else decode_immediates(i, w1, w2);
    } else if ((w1 & 0xfe40u) == 0xe800u) {
        multiple(i, (int)BIT(w1, 4), FIELD(w1, 3, 0), w2 & 0xdfffu, (int)BIT(w1, 5), (int)BIT(w1, 8));
    } else if ((w1 & 0xfe40u) == 0xe840u) {
        decode_dual_exclusive_table(i, w1, w2);
    } else if ((w1 & 0xfe00u) == 0xea00u) {
        decode_shifted_register(i, w1, w2);
    } else if ((w1 & 0xfe00u) == 0xf800u) {
        decode_single_access(i, w1, w2);
    } else if ((w1 & 0xff00u) == 0xfa00u) {
        decode_register_operations(i, w1, w2);
    } else if ((w1 & 0xff00u) == 0xfb00u) {
        decode_multiply(i, w1, w2);
    } else {
        i->op = TR_OP_UNKNOWN;
    }
}

void tr_decode(tr_insn *i, uint32_t pc, uint16_t first, uint16_t second, uint8_t *it) {
    const uint8_t it_now = *it;
    const int in_it = (it_now & 0x0fu) != 0;
    uint8_t it_next = 0;
    if (in_it) {
        it_next = (uint8_t)((it_now & 0xe0u) | ((it_now << 1) & 0x1fu));
        if ((it_next & 0x0fu) == 0) it_next = 0;
    }
    memset(i, 0, sizeof *i);
    i->pc = pc;
    i->op = TR_OP_ALU;
    i->base = i->rm = 0xff;
    i->condition = in_it ? it_now >> 4 : 14;
    if (tr_is_wide(first)) {
        i->size = 4;
        decode_32(i, first, second);
    } else {
        i->size = 2;
        decode_16(i, first, &it_next, in_it);
    }
    if (in_it) {
        i->traits |= TR_CONDITIONAL;
        i->reads |= TR_FLAGS;
    }
    *it = it_next;
}
