/* Cortex-M4: one instruction at a time. Sources of each rule: README.md, "Cortex-M4". */
#include "model.h"

#include <string.h>

enum {
    BRANCH_REFILL_CYCLES = 2,       /* P for a target whose first instruction arrives in one fetch */
    BRANCH_REFILL_SPLIT_CYCLES = 3, /* P for a 32-bit instruction across two fetches */
    LOADED_BRANCH_REFILL_CYCLES = 3, /* P when the target comes from memory */
    DIVIDE_MIN_CYCLES = 2,
    DIVIDE_MAX_CYCLES = 12,
    FP_MAC_CYCLES = 3,
    FP_DIVIDE_CYCLES = 14,
    BARRIER_CYCLES = 4, /* assumed: Arm gives none */
    SYSTEM_CYCLES = 2,
};

static void reset(tr_pipe *pipe) {
    memset(pipe, 0, sizeof *pipe);
    pipe->u.m4.chain_base = 0xff;
}

static uint32_t divide_cycles(int is_unsigned, uint32_t dividend, uint32_t divisor) {
    if (!is_unsigned) {
        if (dividend >> 31) dividend = 0u - dividend;
        if (divisor >> 31) divisor = 0u - divisor;
    }
    if (divisor == 0 || dividend < divisor) return DIVIDE_MIN_CYCLES;
    /* Arm: 2 to 12 cycles, early termination by leading ones and zeros. Assumed: the span follows the quotient's length. */
    const uint32_t quotient_bits = (uint32_t)(__builtin_clz(divisor) - __builtin_clz(dividend)) + 1u;
    return DIVIDE_MIN_CYCLES + (quotient_bits * (DIVIDE_MAX_CYCLES - DIVIDE_MIN_CYCLES) + 31u) / 32u;
}

static uint32_t issue(const tr_insn *i, tr_pipe *pipe) {
    const uint32_t produced = pipe->u.m4.produced, loaded = pipe->u.m4.loaded, fp_late = pipe->u.m4.fp_late;
    const int load_open = pipe->u.m4.load_open, narrow = pipe->u.m4.narrow;
    const uint8_t chain_base = pipe->u.m4.chain_base;
    uint32_t cycles = 1;

    reset(pipe);
    pipe->u.m4.started = 1;
    pipe->u.m4.narrow = i->size == 2;
    if (i->fp_reads & fp_late) cycles += 1;
    if (i->address & produced) cycles += 1; /* no forwarding into the address generator */

    switch (i->op) {
    case TR_OP_ALU: case TR_OP_SHIFT: case TR_OP_BITFIELD: case TR_OP_MUL: case TR_OP_LMUL: case TR_OP_MAC16:
        pipe->u.m4.produced = i->writes & 0xffffu;
        break;
    case TR_OP_DIV:
        cycles += tr_model_m4.divide_mean_cycles - 1;
        pipe->u.m4.produced = i->writes & 0xffffu;
        break;
    case TR_OP_LOAD: {
        const int is_fp = i->fp_writes != 0;
        /* A 32-bit load that straddles two fetch words does not catch up with the load before it. */
        const int straddles = i->size == 4 && (i->pc & 2u);
        const int follows = load_open && !straddles && !is_fp && !(i->address & loaded) &&
                            !(chain_base != 0xff && chain_base == i->base);
        if (!follows) cycles += 1;
        if (i->traits & TR_DOUBLE) cycles += 1;
        if (i->traits & TR_ENDS_FLOW) {
            if (follows) cycles += 1; /* a load of pc blocks: two cycles before the refill */
        } else {
            pipe->u.m4.load_open = !is_fp;
            pipe->u.m4.loaded = is_fp ? 0 : i->writes & 0xffffu;
            if (i->traits & TR_WRITEBACK) {
                pipe->u.m4.loaded &= ~(1u << i->base);
                pipe->u.m4.chain_base = i->base;
            }
        }
        break;
    }
    case TR_OP_STORE: {
        const int follows = load_open && !(i->address & loaded) && !(chain_base != 0xff && chain_base == i->base);
        const int is_fp = i->fp_reads != 0;
        if ((i->traits & TR_REGISTER_OFFSET) || is_fp) cycles += follows ? 0 : 1;
        if (i->traits & TR_DOUBLE) cycles += 1;
        break;
    }
    case TR_OP_PRELOAD:
        break;
    case TR_OP_LOAD_DUAL: case TR_OP_STORE_DUAL: case TR_OP_LOAD_MULTI: case TR_OP_STORE_MULTI:
        cycles += i->count;
        break;
    case TR_OP_TABLE_BRANCH:
        cycles += 2; /* two for the load, one for the add; the refill comes on top */
        break;
    case TR_OP_IT:
        if (narrow) cycles -= 1; /* folded */
        break;
    case TR_OP_SYSTEM:
        cycles += SYSTEM_CYCLES - 1;
        break;
    case TR_OP_BARRIER:
        cycles += BARRIER_CYCLES - 1;
        break;
    case TR_OP_FADD: case TR_OP_FMUL: case TR_OP_FCONVERT:
        pipe->u.m4.fp_late = i->fp_writes;
        break;
    case TR_OP_FMAC:
        cycles += FP_MAC_CYCLES - 1;
        pipe->u.m4.fp_late = i->fp_writes;
        break;
    case TR_OP_FDIV: case TR_OP_FSQRT:
        cycles += FP_DIVIDE_CYCLES - 1;
        break;
    case TR_OP_FCORE:
        cycles += i->count == 2;
        break;
    default:
        break;
    }
    return cycles;
}

static uint32_t run(const tr_block *block, tr_pipe *pipe) {
    uint32_t cycles = 0;
    for (uint32_t n = 0; n < block->count; n++) cycles += issue(&block->insns[n], pipe);
    return cycles;
}

static uint32_t jump(const tr_insn *last, tr_pipe *pipe, const tr_insn *target, int mispredicted) {
    (void)mispredicted;
    reset(pipe);
    pipe->u.m4.started = 1;
    if (last->op == TR_OP_LOAD || last->op == TR_OP_LOAD_MULTI || last->op == TR_OP_TABLE_BRANCH)
        return LOADED_BRANCH_REFILL_CYCLES;
    return target->size == 4 && (target->pc & 2u) ? BRANCH_REFILL_SPLIT_CYCLES : BRANCH_REFILL_CYCLES;
}

static uint32_t fall(const tr_insn *last, tr_pipe *pipe, int mispredicted) {
    (void)last;
    (void)pipe;
    (void)mispredicted;
    return 0;
}

const tr_model tr_model_m4 = {
    .run = run,
    .jump = jump,
    .fall = fall,
    .reset = reset,
    .divide_cycles = divide_cycles,
    .divide_mean_cycles = 6,
    .predicts = 0,
};
