/* The record of a fault, filled in by startup/vectors.S before any C code runs. */
#ifndef TR_FAULT_H
#define TR_FAULT_H

#include <stdint.h>

struct tr_fault_record {
    uint32_t frame[8]; /* r0, r1, r2, r3, r12, lr, pc, xpsr as the core stacked them; zero when not readable */
    uint32_t sp;       /* where the frame lies */
    uint32_t msp;
    uint32_t psp;
    uint32_t exc_return;
};

extern struct tr_fault_record tr_fault_record;

#endif
