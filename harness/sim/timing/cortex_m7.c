/* Cortex-M7: in-order dual issue, as a scoreboard. Sources of each rule: README.md, "Cortex-M7".
 *
 * Stages are counted from issue: 0 reads addresses, shifted operands and the early ALU; 1 is the late ALU; 2 adds
 * accumulators; 3 writes stores. A result has a stage from which it can be used (1 early ALU, 2 late ALU and word
 * loads, 3 byte loads and multiplies), so one issued at cycle t feeds a reader at stage s in cycle u when
 * u + s >= t + available. The pipe keeps, for each register, `available` relative to the cycle now being filled.
 */
#include "model.h"

#include <string.h>

enum {
    STAGE_EARLY = 0,
    STAGE_LATE = 1,
    STAGE_ACCUMULATE = 2,
    STAGE_STORE = 3,

    MISPREDICT_CYCLES = 8,
    MISPREDICT_FLAGS_READY_CYCLES = 6,
    FLAGS_READY_AGE = 3,
    FP_ALU_LATENCY = 3,
    FP_MAC_LATENCY = 5,
    FP_MAC_ACCUMULATE_LATENCY = 3,
    FP_MAC_SHADOW = 3,
    FP_DIVIDE_CYCLES = 16,
    FP_SQRT_CYCLES = 14,
    FP_FROM_CORE_LATENCY = 3,
    LOAD_TO_FP_ACCUMULATOR = 3,
    TABLE_BRANCH_CYCLES = 2,
    DIVIDE_CYCLES_MEAN = 7,
    BARRIER_CYCLES = 4, /* assumed */
    SYSTEM_CYCLES = 3,

    FIFTHS = 5,
    STORE_BUFFER_FIFTHS = 20,      /* backlog at which a store waits: four to five stores deep */
    NARROW_STORE_FIFTHS = 12,      /* byte and half stores read, merge, write: 2.4 cycles in a row of addresses */
    NARROW_SAME_BANK_FIFTHS = 20,  /* 4 cycles when they fall on one bank */
    NARROW_OTHER_BANK_FIFTHS = 10, /* 2 cycles when they alternate */
    NO_BASE = 0xff,
};

/* What matters of an instruction for the one that wants to share its cycle. */
enum {
    ISSUE_LOAD = 1u << 0,
    ISSUE_STORE = 1u << 1,
    ISSUE_MULTIPLY = 1u << 2,
    ISSUE_SHIFTED = 1u << 3,       /* shifted operand or shifted constant */
    ISSUE_SHIFT = 1u << 4,         /* a shift of its own */
    ISSUE_BITFIELD = 1u << 5,
    ISSUE_EARLY_SHIFTER = 1u << 6, /* of the bit-field kind */
    ISSUE_BRANCH = 1u << 7,
    ISSUE_FP = 1u << 8, /* FP arithmetic */
    ISSUE_FP_MAC = 1u << 9,
    ISSUE_FP_MOVE = 1u << 10, /* FP load, store or move */
    ISSUE_FP_CONSTANT = 1u << 11,
    ISSUE_ALONE = 1u << 12,
};

static uint32_t issue_flags(const tr_insn *i) {
    uint32_t flags = 0;
    const int is_fp = (i->fp_reads | i->fp_writes) != 0;
    switch (i->op) {
    case TR_OP_LOAD: case TR_OP_PRELOAD:
        flags |= ISSUE_LOAD;
        if (is_fp) flags |= ISSUE_FP_MOVE;
        if (i->traits & TR_DOUBLE) flags |= ISSUE_ALONE;
        break;
    case TR_OP_STORE:
        flags |= ISSUE_STORE;
        if (is_fp) flags |= ISSUE_FP_MOVE;
        if (i->traits & TR_DOUBLE) flags |= ISSUE_ALONE;
        break;
    case TR_OP_MUL: case TR_OP_LMUL: case TR_OP_MAC16:
        flags |= ISSUE_MULTIPLY;
        break;
    case TR_OP_SHIFT:
        flags |= ISSUE_SHIFT;
        break;
    case TR_OP_BITFIELD:
        flags |= ISSUE_BITFIELD;
        if (i->traits & TR_EARLY_SHIFTER) flags |= ISSUE_EARLY_SHIFTER;
        break;
    case TR_OP_BRANCH: case TR_OP_BRANCH_INDIRECT:
        flags |= ISSUE_BRANCH;
        break;
    case TR_OP_FADD: case TR_OP_FMUL: case TR_OP_FCONVERT: case TR_OP_FCOMPARE: case TR_OP_FDIV: case TR_OP_FSQRT:
        flags |= ISSUE_FP;
        break;
    case TR_OP_FMAC:
        flags |= ISSUE_FP | ISSUE_FP_MAC;
        break;
    case TR_OP_FMOVE:
        flags |= ISSUE_FP_MOVE;
        if (i->fp_reads == 0) flags |= ISSUE_FP_CONSTANT;
        break;
    case TR_OP_FCORE:
        flags |= ISSUE_FP_MOVE;
        if (i->count == 2) flags |= ISSUE_ALONE;
        break;
    case TR_OP_DIV: case TR_OP_LOAD_DUAL: case TR_OP_STORE_DUAL: case TR_OP_LOAD_MULTI: case TR_OP_STORE_MULTI:
    case TR_OP_TABLE_BRANCH: case TR_OP_SYSTEM: case TR_OP_BARRIER:
        flags |= ISSUE_ALONE;
        break;
    default:
        break;
    }
    if (i->traits & (TR_SHIFTED_REGISTER | TR_SHIFTED_CONSTANT)) flags |= ISSUE_SHIFTED;
    return flags;
}

static void reset(tr_pipe *pipe) {
    memset(pipe, 0, sizeof *pipe);
    pipe->u.m7.flags_age = FLAGS_READY_AGE;
    pipe->u.m7.older_base = pipe->u.m7.store_base = NO_BASE;
}

static void age_array(uint8_t *values, unsigned count, uint32_t cycles) {
    for (unsigned n = 0; n < count; n++) values[n] = (uint8_t)(values[n] > cycles ? values[n] - cycles : 0);
}

static void sub_sat(uint8_t *value, uint32_t amount) { *value = (uint8_t)(*value > amount ? *value - amount : 0); }

/* Lets cycles pass; the new one holds nothing yet. */
static void advance(tr_pipe *pipe, uint32_t cycles) {
    if (cycles == 0) return;
    age_array(pipe->u.bytes, 3 * TR_REGISTERS + 3 * 32, cycles); /* the six arrays come first, one behind the other */
    sub_sat(&pipe->u.m7.fp_mac, cycles);
    sub_sat(&pipe->u.m7.backlog, cycles * FIFTHS);
    if (pipe->u.m7.backlog == 0) {
        pipe->u.m7.store_base = NO_BASE;
        pipe->u.m7.store_bank = 0;
    }
    const uint32_t flags_age = pipe->u.m7.flags_age + cycles;
    pipe->u.m7.flags_age = (uint8_t)(flags_age > FLAGS_READY_AGE ? FLAGS_READY_AGE : flags_age);
    pipe->u.m7.slot_open = 0;
    pipe->u.m7.older = 0;
    pipe->u.m7.older_base = NO_BASE;
    pipe->u.m7.older_bank = 0;
}

static uint32_t wait_of(uint32_t available, uint32_t stage) { return available > stage ? available - stage : 0; }

static void raise_to(uint32_t *value, uint32_t other) {
    if (other > *value) *value = other;
}

/* Cycles from the present one until all operands can be read in time. */
static uint32_t operand_wait(const tr_insn *i, const tr_pipe *pipe) {
    uint32_t wait = 0;
    const int multiplies = i->op == TR_OP_MUL || i->op == TR_OP_LMUL || i->op == TR_OP_MAC16;
    const int predicted = i->op == TR_OP_BRANCH || i->op == TR_OP_IT;
    for (uint32_t rest = predicted ? 0 : i->reads; rest != 0; rest &= rest - 1) {
        const unsigned r = (unsigned)__builtin_ctz(rest);
        const uint32_t bit = 1u << r;
        if (r == 15) continue;
        if (i->address & bit) raise_to(&wait, wait_of(pipe->u.m7.early[r], STAGE_EARLY));
        else if (i->shifted & bit) raise_to(&wait, wait_of(pipe->u.m7.early[r], STAGE_EARLY));
        else if (i->accumulator & bit) raise_to(&wait, wait_of(pipe->u.m7.late[r], STAGE_ACCUMULATE));
        else if (i->data & bit) raise_to(&wait, wait_of(pipe->u.m7.late[r], STAGE_STORE));
        else if (multiplies || i->shifted) raise_to(&wait, wait_of(pipe->u.m7.mixed[r], STAGE_LATE));
        else raise_to(&wait, wait_of(pipe->u.m7.late[r], STAGE_LATE));
    }
    const int stores_fp = i->op == TR_OP_STORE || i->op == TR_OP_STORE_MULTI;
    for (uint32_t rest = i->fp_reads; rest != 0; rest &= rest - 1) {
        const unsigned r = (unsigned)__builtin_ctz(rest);
        if (i->fp_accumulator & (1u << r)) raise_to(&wait, pipe->u.m7.fp_accumulator[r]);
        else if (stores_fp) raise_to(&wait, pipe->u.m7.fp_store[r]);
        else raise_to(&wait, pipe->u.m7.fp_operand[r]);
    }
    if (i->op == TR_OP_FADD || (i->fp_writes && i->op == TR_OP_LOAD_MULTI) || (i->fp_reads && i->op == TR_OP_STORE_MULTI) ||
        (i->op == TR_OP_FMOVE && i->fp_reads == 0) ||
        ((i->traits & TR_DOUBLE) && (i->op == TR_OP_LOAD || i->op == TR_OP_STORE)))
        raise_to(&wait, pipe->u.m7.fp_mac);
    return wait;
}

/* Where an access falls, if that can be told from the instruction: base register and odd or even word. */
static void locate(const tr_insn *i, uint8_t *base, uint8_t *bank) {
    *base = NO_BASE;
    *bank = 0;
    if (i->base == NO_BASE || (i->traits & TR_REGISTER_OFFSET)) return;
    *base = i->base;
    const uint32_t offset = i->traits & TR_LITERAL ? (i->pc & ~3u) + (uint32_t)i->offset : (uint32_t)i->offset;
    *bank = (uint8_t)((offset >> 2) & 1u);
}

/* Whether `i` can issue as the younger of the present cycle; operands are another matter. */
static int pairs(const tr_insn *i, uint32_t younger, tr_pipe *pipe) {
    const uint32_t older = pipe->u.m7.older, both = older & younger;
    if ((older | younger) & ISSUE_ALONE) return 0;
    if (both & (ISSUE_STORE | ISSUE_MULTIPLY | ISSUE_SHIFTED | ISSUE_BRANCH | ISSUE_FP | ISSUE_FP_CONSTANT)) return 0;
    if (younger & ISSUE_BITFIELD) return 0; /* only in the older slot */
    if ((older & ISSUE_MULTIPLY && younger & ISSUE_STORE) || (older & ISSUE_STORE && younger & ISSUE_MULTIPLY)) return 0;
    if (older & ISSUE_EARLY_SHIFTER && younger & ISSUE_SHIFTED) return 0;
    if (older & ISSUE_SHIFT && younger & ISSUE_SHIFTED) return 0;
    if ((older | younger) & ISSUE_FP_MAC && (older | younger) & ISSUE_FP_MOVE) return 0;
    if (younger & ISSUE_FP_MOVE && pipe->u.m7.fp_mac) return 0;
    if (both & ISSUE_LOAD) {
        uint8_t base, bank;
        locate(i, &base, &bank);
        if (base != NO_BASE && base == pipe->u.m7.older_base) return bank != pipe->u.m7.older_bank;
        pipe->u.m7.toggle ^= 1u;
        return pipe->u.m7.toggle;
    }
    return 1;
}

static void set_registers(tr_pipe *pipe, uint32_t mask, uint32_t late, uint32_t early, uint32_t mixed) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        const unsigned r = (unsigned)__builtin_ctz(rest);
        pipe->u.m7.late[r] = (uint8_t)late;
        pipe->u.m7.early[r] = (uint8_t)early;
        pipe->u.m7.mixed[r] = (uint8_t)mixed;
    }
}

static void set_fp(tr_pipe *pipe, uint32_t mask, uint32_t operand, uint32_t accumulator, uint32_t store) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        const unsigned r = (unsigned)__builtin_ctz(rest);
        pipe->u.m7.fp_operand[r] = (uint8_t)operand;
        pipe->u.m7.fp_accumulator[r] = (uint8_t)accumulator;
        pipe->u.m7.fp_store[r] = (uint8_t)store;
    }
}

/* A simple operation whose sources are there in time runs in the early ALU. */
static int runs_early(const tr_insn *i, const tr_pipe *pipe, uint32_t older, int is_younger) {
    if (!(i->traits & TR_SIMPLE) || (i->traits & TR_CONDITIONAL)) return 0;
    if (is_younger && (i->op != TR_OP_SHIFT || (older & (ISSUE_SHIFTED | ISSUE_EARLY_SHIFTER)))) return 0;
    for (uint32_t rest = i->reads & 0xffffu; rest != 0; rest &= rest - 1)
        if (pipe->u.m7.early[__builtin_ctz(rest)] > STAGE_EARLY) return 0;
    return 1;
}

static uint32_t store_fifths(const tr_insn *i, tr_pipe *pipe) {
    if (i->access_bytes >= 4) return FIFTHS;
    uint8_t base, bank;
    locate(i, &base, &bank);
    uint32_t fifths = NARROW_STORE_FIFTHS;
    if (i->traits & TR_WRITEBACK) base = NO_BASE; /* walks through memory */
    if (base != NO_BASE && base == pipe->u.m7.store_base)
        fifths = bank == pipe->u.m7.store_bank ? NARROW_SAME_BANK_FIFTHS : NARROW_OTHER_BANK_FIFTHS;
    pipe->u.m7.store_base = base;
    pipe->u.m7.store_bank = bank;
    return fifths;
}

/* Writes the results of an instruction that issues in the present cycle. Returns cycles it keeps the core beyond. */
static uint32_t complete(const tr_insn *i, tr_pipe *pipe, int is_younger) {
    const uint32_t core_writes = i->writes & 0x7fffu;
    uint32_t busy = 0;
    switch (i->op) {
    case TR_OP_ALU: case TR_OP_SHIFT:
        if (runs_early(i, pipe, pipe->u.m7.older, is_younger)) set_registers(pipe, core_writes, 1, 1, 1);
        else set_registers(pipe, core_writes, 2, 2, 2);
        break;
    case TR_OP_BITFIELD:
        if (i->traits & TR_REVERSE) set_registers(pipe, core_writes, 1, 2, 1);
        else if (i->traits & TR_SATURATES) set_registers(pipe, core_writes, 3, 3, 3);
        else set_registers(pipe, core_writes, 2, 2, 2);
        break;
    case TR_OP_MUL: case TR_OP_LMUL: case TR_OP_MAC16:
        set_registers(pipe, core_writes, 3, 3, 3);
        break;
    case TR_OP_DIV:
        busy = DIVIDE_CYCLES_MEAN - 1;
        set_registers(pipe, core_writes, busy + 2, busy + 2, busy + 2);
        break;
    case TR_OP_LOAD: {
        const uint32_t based = i->traits & TR_WRITEBACK ? 1u << i->base : 0;
        if (i->access_bytes >= 4) set_registers(pipe, core_writes & ~based, 2, 2, 3);
        else set_registers(pipe, core_writes & ~based, 3, 3, 3);
        set_registers(pipe, based, 1, 1, 1);
        set_fp(pipe, i->fp_writes, 1, LOAD_TO_FP_ACCUMULATOR, 0);
        break;
    }
    case TR_OP_STORE:
        if (i->traits & TR_WRITEBACK) set_registers(pipe, 1u << i->base, 1, 1, 1);
        set_registers(pipe, core_writes & ~(i->base < 16 ? 1u << i->base : 0u), 3, 3, 3); /* STREX */
        break;
    case TR_OP_LOAD_DUAL: case TR_OP_STORE_DUAL: case TR_OP_LOAD_MULTI: case TR_OP_STORE_MULTI: {
        const uint32_t based = i->traits & TR_WRITEBACK && i->base < 16 ? 1u << i->base : 0;
        busy = (i->count + 1u) / 2u;
        busy = busy ? busy - 1 : 0;
        set_registers(pipe, core_writes & ~based, busy + 2, busy + 2, busy + 3);
        set_registers(pipe, based, 1, 1, 1);
        set_fp(pipe, i->fp_writes, busy + 1, busy + LOAD_TO_FP_ACCUMULATOR, busy);
        break;
    }
    case TR_OP_TABLE_BRANCH:
        busy = TABLE_BRANCH_CYCLES - 1;
        break;
    case TR_OP_SYSTEM:
        busy = SYSTEM_CYCLES - 1;
        set_registers(pipe, core_writes, busy + 2, busy + 2, busy + 2);
        break;
    case TR_OP_BARRIER:
        busy = BARRIER_CYCLES - 1;
        break;
    case TR_OP_FADD: case TR_OP_FMUL: case TR_OP_FCONVERT:
        set_fp(pipe, i->fp_writes, FP_ALU_LATENCY, FP_ALU_LATENCY, 1);
        break;
    case TR_OP_FMAC:
        set_fp(pipe, i->fp_writes, FP_MAC_LATENCY, FP_MAC_ACCUMULATE_LATENCY, FP_MAC_ACCUMULATE_LATENCY);
        pipe->u.m7.fp_mac = FP_MAC_SHADOW + 1;
        break;
    case TR_OP_FDIV: case TR_OP_FSQRT:
        pipe->u.m7.busy = (uint8_t)((i->op == TR_OP_FDIV ? FP_DIVIDE_CYCLES : FP_SQRT_CYCLES) - 1);
        set_fp(pipe, i->fp_writes, pipe->u.m7.busy + 1u, pipe->u.m7.busy + 1u, pipe->u.m7.busy + 1u);
        break;
    case TR_OP_FMOVE:
        set_fp(pipe, i->fp_writes, FP_ALU_LATENCY, FP_ALU_LATENCY, 1);
        break;
    case TR_OP_FCORE:
        set_registers(pipe, core_writes, 2, 2, 2);
        set_fp(pipe, i->fp_writes, FP_FROM_CORE_LATENCY, FP_FROM_CORE_LATENCY, 1);
        break;
    case TR_OP_BRANCH: case TR_OP_BRANCH_INDIRECT:
        set_registers(pipe, core_writes, 1, 1, 1);
        break;
    default:
        break;
    }
    if (i->writes & TR_FLAGS) {
        set_registers(pipe, TR_FLAGS, 2, 2, 2);
        pipe->u.m7.flags_age = 0;
    }
    if (i->writes & TR_GE) set_registers(pipe, TR_GE, 2, 2, 2);
    return busy;
}

static uint32_t issue(const tr_insn *i, tr_pipe *pipe) {
    const uint32_t flags = issue_flags(i);
    const uint32_t wait = operand_wait(i, pipe);
    const int stores = i->op == TR_OP_STORE;
    uint32_t store_wait = 0;
    if (stores && pipe->u.m7.backlog > STORE_BUFFER_FIFTHS)
        store_wait = (pipe->u.m7.backlog - STORE_BUFFER_FIFTHS + FIFTHS - 1u) / FIFTHS;
    if (pipe->u.m7.slot_open && wait == 0 && store_wait == 0 && pairs(i, flags, pipe)) {
        if (stores) pipe->u.m7.backlog = (uint8_t)(pipe->u.m7.backlog + store_fifths(i, pipe));
        complete(i, pipe, 1);
        pipe->u.m7.slot_open = 0;
        pipe->u.m7.older = 0;
        pipe->u.m7.older_base = NO_BASE;
        pipe->u.m7.older_bank = 0;
        return 0;
    }
    uint32_t cycles = 1u + pipe->u.m7.busy;
    raise_to(&cycles, wait);
    raise_to(&cycles, store_wait);
    pipe->u.m7.busy = 0;
    advance(pipe, cycles);
    if (stores) pipe->u.m7.backlog = (uint8_t)(pipe->u.m7.backlog + store_fifths(i, pipe));
    const uint32_t more = complete(i, pipe, 0);
    pipe->u.m7.older = (uint16_t)flags;
    locate(i, &pipe->u.m7.older_base, &pipe->u.m7.older_bank);
    pipe->u.m7.slot_open = !(flags & ISSUE_ALONE);
    if (!pipe->u.m7.slot_open) {
        pipe->u.m7.older = 0;
        pipe->u.m7.older_base = NO_BASE;
        pipe->u.m7.older_bank = 0;
    }
    advance(pipe, more);
    return cycles + more;
}

static uint32_t run(const tr_block *block, tr_pipe *pipe) {
    uint32_t cycles = 0;
    for (uint32_t n = 0; n < block->count; n++) cycles += issue(&block->insns[n], pipe);
    return cycles;
}

static uint32_t flush(const tr_insn *last, tr_pipe *pipe) {
    const int by_flags = (last->traits & TR_CONDITIONAL) && !(last->traits & TR_COMPARE_BRANCH);
    const uint32_t cycles =
        by_flags && pipe->u.m7.flags_age >= FLAGS_READY_AGE ? MISPREDICT_FLAGS_READY_CYCLES : MISPREDICT_CYCLES;
    advance(pipe, cycles);
    return cycles;
}

static uint32_t jump(const tr_insn *last, tr_pipe *pipe, const tr_insn *target, int mispredicted) {
    (void)target;
    return mispredicted ? flush(last, pipe) : 0;
}

static uint32_t fall(const tr_insn *last, tr_pipe *pipe, int mispredicted) {
    return mispredicted ? flush(last, pipe) : 0;
}

/* Not published. LLVM schedules 7, GCC 4; early termination by quotient length as on the M4, a cycle per four bits. */
static uint32_t divide_cycles(int is_unsigned, uint32_t dividend, uint32_t divisor) {
    if (!is_unsigned) {
        if (dividend >> 31) dividend = 0u - dividend;
        if (divisor >> 31) divisor = 0u - divisor;
    }
    if (divisor == 0 || dividend < divisor) return 3;
    return 3u + ((uint32_t)(__builtin_clz(divisor) - __builtin_clz(dividend)) + 4u) / 4u;
}

const tr_model tr_model_m7 = {
    .run = run,
    .jump = jump,
    .fall = fall,
    .reset = reset,
    .divide_cycles = divide_cycles,
    .divide_mean_cycles = DIVIDE_CYCLES_MEAN,
    .predicts = 1,
};
