/* 16-bit instructions: Arm DDI 0403, A5.2. `sets` is TR_FLAGS where the instruction sets the flags, 0 inside of an IT block. */
#include "parts.h"
#include "roles.h"

/* LSL, LSR, ASR #imm; MOVS */
static void shift_immediate(tr_insn *i, uint32_t w, uint32_t sets) {
    const uint32_t type = FIELD(w, 12, 11), amount = FIELD(w, 10, 6), rm = FIELD(w, 5, 3), rd = FIELD(w, 2, 0);
    const int moves = type == 0 && amount == 0;
    i->op = moves ? TR_OP_ALU : TR_OP_SHIFT;
    i->traits |= TR_SIMPLE;
    i->reads |= R(rm);
    i->writes |= R(rd) | (moves ? (uint32_t)TR_FLAGS : sets);
    if (moves) value_add(i, rd, rm, 0);
    else if (type == 0) value_add_register(i, rd, NONE, rm, amount);
}

/* ADD, SUB of three low registers or imm3 */
static void add_subtract(tr_insn *i, uint32_t w, uint32_t sets) {
    const uint32_t third = FIELD(w, 8, 6), rn = FIELD(w, 5, 3), rd = FIELD(w, 2, 0), subtracts = BIT(w, 9);
    i->traits |= TR_SIMPLE;
    i->reads |= R(rn);
    i->writes |= R(rd) | sets;
    if (BIT(w, 10)) {
        value_add(i, rd, rn, subtracts ? 0u - third : third);
    } else {
        i->reads |= R(third);
        value_add_register(i, rd, rn, third, 0);
        if (subtracts) i->value = TR_VALUE_SUBTRACT_REGISTER;
    }
}

/* MOV, CMP, ADD, SUB #imm8 */
static void byte_immediate(tr_insn *i, uint32_t w, uint32_t sets) {
    const uint32_t op = FIELD(w, 12, 11), rd = FIELD(w, 10, 8), imm = FIELD(w, 7, 0);
    if (op != 0) i->reads |= R(rd);
    if (op == 1) {
        i->writes |= TR_FLAGS;
        return;
    }
    i->traits |= TR_SIMPLE;
    i->writes |= R(rd) | sets;
    if (op == 0) value_constant(i, rd, imm);
    else value_add(i, rd, rd, op == 3 ? 0u - imm : imm);
}

static void low_registers(tr_insn *i, uint32_t w, uint32_t sets) {
    const uint32_t rm = FIELD(w, 5, 3), rd = FIELD(w, 2, 0);
    i->reads |= R(rd) | R(rm);
    switch (FIELD(w, 9, 6)) {
    case 2: case 3: case 4: case 7: /* shifts by register */
        i->op = TR_OP_SHIFT;
        i->traits |= TR_SIMPLE;
        break;
    case 5: case 6: /* ADC, SBC */
        i->reads |= TR_FLAGS;
        break;
    case 8: case 10: case 11: /* TST, CMP, CMN */
        i->writes |= TR_FLAGS;
        return;
    case 9: case 15: /* RSB #0, MVN */
        i->reads = R(rm);
        break;
    case 13:
        i->op = TR_OP_MUL;
        value_multiply(i, rd, rd, rm, NONE);
        break;
    default: /* AND, EOR, ORR, BIC */
        break;
    }
    i->writes |= R(rd) | sets;
}

/* ADD, CMP, MOV of any two registers; BX, BLX */
static void high_registers(tr_insn *i, uint32_t w) {
    const uint32_t kind = FIELD(w, 9, 8), rd = FIELD(w, 2, 0) | BIT(w, 7) << 3, rm = FIELD(w, 6, 3);
    i->reads |= R(rm);
    if (kind == 3) {
        writes_pc_like_branch(i, 15);
        i->writes |= R(15);
        if (BIT(w, 7)) i->writes |= R(14);
        return;
    }
    if (kind != 2) i->reads |= R(rd);
    if (kind == 1) {
        i->writes |= TR_FLAGS;
        return;
    }
    i->traits |= TR_SIMPLE;
    i->writes |= R(rd);
    if (kind == 0) value_add_register(i, rd, rd, rm, 0);
    else value_add(i, rd, rm, 0);
    writes_pc_like_branch(i, rd);
}

static void register_access(tr_insn *i, uint32_t w) {
    static const uint8_t bytes[8] = {4, 2, 1, 1, 4, 2, 1, 2}; /* STR STRH STRB LDRSB LDR LDRH LDRB LDRSH */
    const uint32_t op = FIELD(w, 11, 9);
    single(i, op >= 3, FIELD(w, 2, 0), FIELD(w, 5, 3), bytes[op]);
    register_offset(i, FIELD(w, 8, 6), 0);
    if (op == 3 || op == 7) i->traits |= TR_SIGN_EXTENDS;
}

static void immediate_access(tr_insn *i, uint32_t w) {
    const uint32_t group = w >> 11, bytes = group < 14 ? 4 : group < 16 ? 1 : 2;
    single(i, group & 1u, FIELD(w, 2, 0), FIELD(w, 5, 3), bytes);
    i->offset = (int32_t)(FIELD(w, 10, 6) * bytes);
}

/* Relative to pc or sp. */
static void relative_access(tr_insn *i, uint32_t w, uint32_t loads, uint32_t rn) {
    single(i, loads, FIELD(w, 10, 8), rn, 4);
    i->offset = (int32_t)(FIELD(w, 7, 0) * 4);
}

/* ADR; ADD rd, sp, #imm */
static void make_address(tr_insn *i, uint32_t w) {
    const uint32_t rd = FIELD(w, 10, 8), imm = FIELD(w, 7, 0) * 4;
    i->traits |= TR_SIMPLE;
    i->writes |= R(rd);
    if (BIT(w, 11)) {
        value_add(i, rd, 13, imm);
        i->reads |= R(13);
    } else {
        value_constant(i, rd, (i->pc & ~3u) + 4 + imm);
    }
}

static void move_stack_pointer(tr_insn *i, uint32_t w) {
    const uint32_t imm = FIELD(w, 6, 0) * 4;
    i->traits |= TR_SIMPLE;
    value_add(i, 13, 13, BIT(w, 7) ? 0u - imm : imm);
    i->reads |= R(13);
    i->writes |= R(13);
}

static void miscellaneous(tr_insn *i, uint32_t w, uint8_t *it_after) {
    const uint32_t kind = FIELD(w, 11, 8);
    switch (kind) {
    case 0:
        move_stack_pointer(i, w);
        return;
    case 1: case 3: case 9: case 11: /* CBZ, CBNZ */
        i->op = TR_OP_BRANCH;
        i->reads |= R(FIELD(w, 2, 0));
        i->traits |= TR_CONDITIONAL | TR_ENDS_FLOW | TR_COMPARE_BRANCH;
        return;
    case 2: case 10: /* extends; REV */
        i->op = TR_OP_BITFIELD;
        i->reads |= R(FIELD(w, 5, 3));
        i->writes |= R(FIELD(w, 2, 0));
        if (kind == 10) {
            i->traits |= TR_EARLY_SHIFTER | TR_REVERSE;
            i->shifted |= R(FIELD(w, 5, 3));
        }
        return;
    case 4: case 5: /* PUSH */
        multiple(i, 0, 13, FIELD(w, 7, 0) | BIT(w, 8) << 14, 1, 1);
        return;
    case 12: case 13: /* POP */
        multiple(i, 1, 13, FIELD(w, 7, 0) | BIT(w, 8) << 15, 1, 0);
        return;
    case 15:
        if (FIELD(w, 3, 0) == 0) {
            i->op = TR_OP_NOP;
            return;
        }
        i->op = TR_OP_IT;
        i->reads |= TR_FLAGS;
        *it_after = (uint8_t)FIELD(w, 7, 0);
        return;
    default:
        i->op = TR_OP_SYSTEM;
        return;
    }
}

/* STM; LDM, which writes its base back unless it is loaded */
static void store_load_multiple(tr_insn *i, uint32_t w) {
    const uint32_t loads = BIT(w, 11), rn = FIELD(w, 10, 8), list = FIELD(w, 7, 0);
    multiple(i, loads, rn, list, !(loads && (list & R(rn))), 0);
}

static void conditional_branch(tr_insn *i, uint32_t w) {
    i->traits |= TR_ENDS_FLOW;
    if (FIELD(w, 11, 8) >= 14) { /* UDF, SVC */
        i->op = TR_OP_SYSTEM;
        return;
    }
    i->op = TR_OP_BRANCH;
    i->traits |= TR_CONDITIONAL;
    i->reads |= TR_FLAGS;
}

void tr_decode_narrow(tr_insn *i, uint32_t w, int in_it, uint8_t *it_after) {
    const uint32_t sets = in_it ? 0 : TR_FLAGS;
    switch (w >> 11) {
    case 0: case 1: case 2: shift_immediate(i, w, sets); return;
    case 3: add_subtract(i, w, sets); return;
    case 4: case 5: case 6: case 7: byte_immediate(i, w, sets); return;
    case 8:
        if (BIT(w, 10)) high_registers(i, w);
        else low_registers(i, w, sets);
        return;
    case 9: relative_access(i, w, 1, 15); return;
    case 10: case 11: register_access(i, w); return;
    case 12: case 13: case 14: case 15: case 16: case 17: immediate_access(i, w); return;
    case 18: case 19: relative_access(i, w, BIT(w, 11), 13); return;
    case 20: case 21: make_address(i, w); return;
    case 22: case 23: miscellaneous(i, w, it_after); return;
    case 24: case 25: store_load_multiple(i, w); return;
    case 26: case 27: conditional_branch(i, w); return;
    case 28: /* B */
        i->op = TR_OP_BRANCH;
        i->traits |= TR_ENDS_FLOW;
        return;
    default: i->op = TR_OP_UNKNOWN; return;
    }
}
