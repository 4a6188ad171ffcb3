/* What the parts of the timing library share: blocks, pipeline states, the two cores' rules, the memory system. */
#ifndef TINYRACK_MODEL_H
#define TINYRACK_MODEL_H

#include "access.h"
#include "alignment.h"
#include "instruction.h"
#include "timing.h"

#include <stddef.h>

/* Everything a core's pipeline remembers from one instruction to the next, in a canonical form: two pipelines that
 * will behave alike are equal bytes. Relative to the present cycle, so that loops reach a fixed point. */
typedef struct {
    union {
        struct {
            uint32_t produced;   /* registers written by a data-processing instruction just before */
            uint32_t loaded;     /* registers written by a load just before that can be followed in its shadow */
            uint32_t fp_late;    /* FP registers whose value comes one cycle late */
            uint8_t load_open;   /* the instruction before was such a load */
            uint8_t chain_base;  /* its base, if it wrote that back; else 0xff */
            uint8_t narrow;      /* the instruction before was a 16-bit one: an IT behind it is folded */
            uint8_t started;     /* 0 just after reset */
        } m4;
        struct {
            /* Stage after issue at which a register's value is there, counted from the present cycle; see cortex_m7.c. */
            uint8_t late[TR_REGISTERS];  /* for the late ALU, accumulators and stores */
            uint8_t early[TR_REGISTERS]; /* for addresses, shifters, the early ALU */
            uint8_t mixed[TR_REGISTERS]; /* for multiplicands, and late operands of instructions that also use the shifter */
            uint8_t fp_operand[32], fp_accumulator[32], fp_store[32];
            uint8_t busy;           /* further cycles for which nothing can issue */
            uint8_t fp_mac;         /* cycles for which a multiply-accumulate keeps other FP instructions off */
            uint8_t flags_age;      /* cycles since the flags were set, at most 3 */
            uint8_t backlog;        /* of the store buffer, in fifths of a cycle */
            uint8_t toggle;         /* every second pair of loads with unknown banks collides */
            uint8_t slot_open;      /* the cycle's younger slot is free */
            uint8_t older_base;     /* of the older instruction's access, 0xff when unknown */
            uint8_t older_bank;     /* odd or even word */
            uint16_t older;         /* what it is: ISSUE_ flags of cortex_m7.c */
            uint8_t store_base, store_bank; /* of the narrow store issued last; 0xff none */
        } m7;
        uint8_t bytes[176];
    } u;
    uint64_t aligned; /* terms that are multiples of four: alignment.h; no rule asks for them */
} tr_pipe;

typedef struct tr_block {
    struct tr_block *next; /* in its hash chain */
    uint32_t pc, bytes;
    uint32_t count;
    uint32_t divides; /* number of divide instructions whose operands are still the block's inputs */
    uint8_t it_before, it_after; /* state of the IT block it begins in, and of the one that goes on behind it; 0 none */
    tr_insn *insns;
    tr_trace trace; /* of its data accesses */
    tr_alignment alignment;
} tr_block;

typedef struct {
    /* Issues the whole block from `pipe`; returns the cycles it takes and leaves the pipe as it is at its end. */
    uint32_t (*run)(const tr_block *block, tr_pipe *pipe);
    /* Goes from the end of a block to `target` after a jump; returns the cycles beyond the branch's own. */
    uint32_t (*jump)(const tr_insn *last, tr_pipe *pipe, const tr_insn *target, int mispredicted);
    /* Goes on past a conditional branch that was not taken. */
    uint32_t (*fall)(const tr_insn *last, tr_pipe *pipe, int mispredicted);
    void (*reset)(tr_pipe *pipe);
    uint32_t (*divide_cycles)(int is_unsigned, uint32_t dividend, uint32_t divisor);
    uint32_t divide_mean_cycles;
    int predicts;
} tr_model;

extern const tr_model tr_model_m4;
extern const tr_model tr_model_m7;

#endif
