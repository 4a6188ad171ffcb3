/* Cycle model of Cortex-M4 and Cortex-M7 cores, for any engine that executes Thumb-2 basic blocks.
 *
 * An engine tells the model which block of instructions starts to execute; the model answers in modelled cycles.
 * It knows nothing of the engine: code bytes and register values come through `tr_host`. No state is global, no
 * call allocates without bound, and equal sequences of calls give equal cycles on every machine.
 */
#ifndef TINYRACK_TIMING_H
#define TINYRACK_TIMING_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { TR_CORTEX_M4 = 4, TR_CORTEX_M7 = 7 } tr_core_kind;

struct tr_insn;

enum { TR_XPSR = 48 }; /* among the registers that are read: r0 to r15, then s0 to s31, then this one */

/* What the model asks of the engine. */
typedef struct {
    void *context;
    /* Copies `bytes` of guest memory; 0 when all could be read. */
    int (*fetch)(void *context, uint32_t address, void *destination, uint32_t bytes);
    /* NULL: the engine cannot tell; divides take their mean. Values at the entry of the block being announced, into
     * values[n] for each bit n of `mask`: bits 0 to 15 are r0 to r15, bits 16 to 47 s0 to s31, then TR_XPSR. */
    void (*read_registers)(void *context, uint64_t mask, uint32_t *values);
    /* NULL: the engine faults by itself where an address has to be aligned and is not. Otherwise (`read_registers` is
     * needed then) it is to look at the address of this instruction from now on, whenever it is about to execute; 1: it
     * did not do so before, so the code has to be translated anew. */
    int (*watch)(void *context, const struct tr_insn *insn);
} tr_host;

/* How a range of addresses answers. Ranges that are not listed answer without wait. */
typedef enum {
    TR_ZERO_WAIT = 0, /* tightly coupled memory, or SRAM that keeps up with the core */
    TR_ART = 1,       /* flash behind ST's accelerator: wait states on a miss */
    TR_L1 = 2,        /* anything on the AXI bus behind the core's L1 caches */
} tr_region_kind;

/* Cycles are core cycles beyond a zero-wait access. Where they come from: penalties.h and README.md. */
typedef struct {
    uint32_t base;
    uint32_t bytes;
    uint32_t kind;              /* tr_region_kind */
    uint32_t watch_data;        /* data accesses of this range are modelled, not only instruction fetch */
    uint32_t first_word_cycles; /* of a miss, without the flash's wait states */
    uint32_t line_cycles;       /* until the rest of the line has followed */
    uint32_t wait_state_cycles; /* core cycles of one wait state; 0: none apply here */
} tr_region;

typedef struct {
    uint32_t bytes; /* 0: none, or switched off */
    uint32_t ways;  /* 0: fully associative */
    uint32_t line_bytes;
} tr_cache_shape;

enum { TR_REGIONS_MAX = 12 };

typedef struct {
    uint32_t enabled; /* 0: every access takes zero wait states */
    uint32_t region_count;
    tr_region regions[TR_REGIONS_MAX];
    uint32_t wait_states; /* of the flash, as programmed */
    uint32_t prefetch;    /* of the accelerator */
    tr_cache_shape l1_instruction, l1_data, art_instruction, art_data;
} tr_memory;

typedef struct tr_core tr_core;

tr_core *tr_core_new(tr_core_kind kind, const tr_host *host);
void tr_core_free(tr_core *core);

/* Sets the memory system; its caches start empty. Not 0: no memory on the host for it, nothing was changed. */
int tr_core_set_memory(tr_core *core, const tr_memory *memory);
/* Pipeline, predictor and caches as after reset. The counters run on. */
void tr_core_reset(tr_core *core);
/* Code may have changed since it was announced: decode it again. Neither the counters nor the machine's state are
 * touched. */
void tr_core_invalidate(tr_core *core);

typedef enum {
    TR_RUN = 0,       /* counted */
    TR_EXHAUSTED = 1, /* the budget does not cover it: not counted, must not execute now */
    TR_TRANSLATE = 2, /* an instruction of it is watched from now on: not counted, translate it anew and announce it again */
} tr_verdict;

/* Announces a block. */
tr_verdict tr_core_block(tr_core *core, uint32_t pc, uint32_t bytes);

/* Instructions that may still be counted before tr_core_block answers TR_EXHAUSTED; the next block is counted in any case, so
 * that every slice makes progress. At most 2^62. Registers may have changed since the last block. */
void tr_core_set_budget(tr_core *core, uint64_t instructions);

uint64_t tr_core_cycles(const tr_core *core);
uint64_t tr_core_instructions(const tr_core *core);

/* Where modelled cycles went, for reports. */
typedef struct {
    uint64_t cycles;
    uint64_t instructions;
    uint64_t blocks;
    uint64_t fetch_stall_cycles;
    uint64_t data_stall_cycles;
    uint64_t icache_misses;
    uint64_t dcache_misses;
    uint64_t unaligned; /* among the accesses */
    uint64_t mispredicted;
    uint64_t accesses; /* data accesses seen while the memory system was on */
    uint64_t untraced; /* accesses whose address could not be told; taken for hits */
    uint64_t nodes;  /* memoized (block, pipeline state) pairs now held */
    uint64_t states; /* distinct pipeline states now held */
} tr_counters;

void tr_core_counters(const tr_core *core, tr_counters *out);

#ifdef __cplusplus
}
#endif
#endif
