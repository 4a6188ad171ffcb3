/* What the parts of the decoder say of an instruction: its registers by role, the value it leaves, the access it makes. */
#ifndef TINYRACK_DECODE_ROLES_H
#define TINYRACK_DECODE_ROLES_H

#include "../instruction.h"

#define R(n) (1u << ((n) & 15u))
#define FIELD(word, high, low) (((word) >> (low)) & ((1u << ((high) - (low) + 1)) - 1u))
#define BIT(word, n) (((word) >> (n)) & 1u)

enum { NONE = 0xff }; /* no such register */

static inline void value_constant(tr_insn *i, uint32_t rd, uint32_t imm) {
    i->value = TR_VALUE_CONSTANT;
    i->rd = (uint8_t)rd;
    i->imm = imm;
}

static inline void value_add(tr_insn *i, uint32_t rd, uint32_t rn, uint32_t imm) {
    i->value = TR_VALUE_ADD;
    i->rd = (uint8_t)rd;
    i->rn = (uint8_t)rn;
    i->imm = imm;
}

static inline void value_add_register(tr_insn *i, uint32_t rd, uint32_t rn, uint32_t rm, uint32_t shift) {
    i->value = TR_VALUE_ADD_REGISTER;
    i->rd = (uint8_t)rd;
    i->rn = (uint8_t)rn;
    i->rm = (uint8_t)rm;
    i->shift = (uint8_t)shift;
}

static inline void value_multiply(tr_insn *i, uint32_t rd, uint32_t rn, uint32_t rm, uint32_t ra) {
    value_add_register(i, rd, rn, rm, 0);
    i->ra = (uint8_t)ra;
    i->value = TR_VALUE_MULTIPLY_ADD;
}

static inline void writes_pc_like_branch(tr_insn *i, uint32_t rd) {
    if (rd != 15) return;
    i->op = TR_OP_BRANCH_INDIRECT;
    i->traits |= TR_ENDS_FLOW;
}

static inline void access(tr_insn *i, tr_op op, uint32_t rn, uint32_t bytes) {
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

static inline void load_into(tr_insn *i, uint32_t rt) {
    i->writes |= R(rt);
    i->rd = (uint8_t)rt;
    if (rt == 15) i->traits |= TR_ENDS_FLOW;
}

static inline void store_from(tr_insn *i, uint32_t rt) {
    i->reads |= R(rt);
    i->rd = (uint8_t)rt;
    i->data |= R(rt);
}

static inline void single(tr_insn *i, uint32_t loads, uint32_t rt, uint32_t rn, uint32_t bytes) {
    access(i, loads ? TR_OP_LOAD : TR_OP_STORE, rn, bytes);
    if (loads) load_into(i, rt);
    else store_from(i, rt);
}

/* The address generator has its own shifter of 0..3: a scaled index is no shifted operand. */
static inline void register_offset(tr_insn *i, uint32_t rm, uint32_t shift) {
    i->rm = (uint8_t)rm;
    i->shift = (uint8_t)shift;
    i->reads |= R(rm);
    i->address |= R(rm);
    i->traits |= TR_REGISTER_OFFSET;
}

static inline void writeback(tr_insn *i, int32_t step) {
    i->traits |= TR_WRITEBACK;
    i->step = step;
    i->writes |= R(i->base);
}

static inline void multiple(tr_insn *i, uint32_t loads, uint32_t rn, uint32_t list, int writes_back, int descending) {
    access(i, loads ? TR_OP_LOAD_MULTI : TR_OP_STORE_MULTI, rn, 4);
    i->multiple = 4;
    i->count = (uint8_t)__builtin_popcount(list);
    i->rd = NONE;
    const int32_t bytes = 4 * i->count;
    if (descending) i->offset = -bytes;
    if (loads) {
        i->writes |= list;
        if (list & R(15)) i->traits |= TR_ENDS_FLOW;
    } else {
        i->reads |= list;
        i->data |= list;
    }
    if (writes_back) writeback(i, descending ? -bytes : bytes);
}

#endif
