/* Cortex-M7: in-order dual issue. Sources of each rule: README.md, "Cortex-M7". */
#include "model.h"

#include <string.h>

static void reset(tr_pipe *pipe) { memset(pipe, 0, sizeof *pipe); }

static uint32_t run(const tr_block *block, tr_pipe *pipe) {
    (void)pipe;
    return block->count;
}

static uint32_t jump(const tr_insn *last, tr_pipe *pipe, const tr_insn *target, int mispredicted) {
    (void)last;
    (void)target;
    reset(pipe);
    return mispredicted ? 8 : 0;
}

static uint32_t fall(const tr_insn *last, tr_pipe *pipe, int mispredicted) {
    (void)last;
    if (mispredicted) reset(pipe);
    return mispredicted ? 8 : 0;
}

static uint32_t divide_cycles(int is_unsigned, uint32_t dividend, uint32_t divisor) {
    (void)is_unsigned;
    (void)dividend;
    (void)divisor;
    return 6;
}

const tr_model tr_model_m7 = {
    .run = run,
    .jump = jump,
    .fall = fall,
    .reset = reset,
    .divide_cycles = divide_cycles,
    .divide_mean_cycles = 6,
    .predicts = 1,
};
