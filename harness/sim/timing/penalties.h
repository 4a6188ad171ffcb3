/* Every constant of the memory model that no core rule holds, with its source or the word "assumed".
 *
 * The cycles of a miss on each range come with the range (tr_region); the ones for ST's chips are in
 * harness/sim/memory_model.py next to the chip they belong to, again with source or "assumed".
 */
#ifndef TINYRACK_PENALTIES_H
#define TINYRACK_PENALTIES_H

enum {
    /* ST RM0402 3.4: an F4 flash read brings 128 bits = 4 to 8 instructions; with prefetch the next line is read while
     * these execute. Assumed: they take 4 cycles, so that up to 3 wait states of a sequential line are hidden. */
    TR_ART_PREFETCH_HIDES_CYCLES = 3,
    /* Arm DDI 0489 2.1: the core fetches 64 bits a cycle into a queue of four such words ahead of the pipeline. Assumed:
     * with the L1 instruction cache off each of them pays the whole way to the memory. */
    TR_FETCH_BYTES = 8,
    /* Assumed: nobody waits for the line a write brings in, so two such fills overlap (the core has more than one line
     * fill buffer; how many Arm does not publish), and each holds up a later miss by half its way. */
    TR_WRITE_FILLS = 2,
    /* Measured on STM32H743 (jnk0le/random, cortex_m7.md): an unaligned load costs 3 more as the older, 4 more as the
     * younger of its cycle. Which one it was is not known where the address is. */
    TR_M7_UNALIGNED_LOAD_CYCLES = 3,
    /* The same source: unaligned stores wait only when the store buffer is full, which is not followed here. */
    TR_M7_UNALIGNED_STORE_CYCLES = 0,
    /* Arm DDI 0439 3.3.1: an unaligned word or half access is two bus transactions. */
    TR_M4_UNALIGNED_ACCESS_CYCLES = 1,
};

#endif
