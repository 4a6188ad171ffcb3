/* The cycle counter (DWT) and the slow timer (TIM2) that watches it. */
#ifndef TR_CYCLES_H
#define TR_CYCLES_H

#include <stdint.h>

/* One tick of the slow timer in CPU cycles. It wraps after 16 * 2^32 cycles: 143 s at 480 MHz. */
#define TR_TICK_CYCLES 16u

void tr_timer_init(uint32_t tim2_hz, uint32_t cpu_hz);
uint32_t tr_timer_ticks(void);

/* Unlocks and starts CYCCNT; true when it was then seen to advance. */
int tr_cycles_enable(void);

/* Still enabled? A debugger that disconnects writes DEMCR = 0, which stops the counter of a running board. */
int tr_cycles_enabled(void);

/* Calls fn(arena) between two reads of CYCCNT and returns their difference. The window holds the call, the return and
 * the second read: what an empty function costs is in HELLO as overhead_cycles; nothing is subtracted from a figure. */
uint32_t tr_cycles_of(void (*fn)(uint8_t *arena), uint8_t *arena);

/* Masks interrupts; the value is for tr_unmask. */
uint32_t tr_mask_interrupts(void);
void tr_unmask_interrupts(uint32_t saved);

#endif
