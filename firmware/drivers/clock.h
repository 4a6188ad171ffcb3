/* The clock tree: to the rated speed, or back to the reset clock with the reason kept. */
#ifndef TR_CLOCK_H
#define TR_CLOCK_H

#include <stdint.h>

/* Sent to the host as `clock_status`; 0 is the rated speed. */
enum tr_clock_status {
    TR_CLOCK_RATED = 0,
    TR_CLOCK_REDUCED_REVISION = 1, /* this silicon revision runs slower than the rated speed, and does so */
    TR_CLOCK_NO_OSCILLATOR = 2,    /* HSE or HSI never became ready; reset clock runs */
    TR_CLOCK_NO_REGULATOR = 3,     /* voltage scale or overdrive never became ready; reset clock runs */
    TR_CLOCK_NO_PLL = 4,           /* the PLL never locked; reset clock runs */
    TR_CLOCK_NO_SWITCH = 5,        /* wait states were not taken over or the switch was not made; reset clock runs */
};

/* Every field computed from registers as they read back, but for the frequency of an external crystal. */
struct tr_clocks {
    uint32_t cpu_hz;
    uint32_t apb1_hz;
    uint32_t apb2_hz;
    uint32_t tim2_hz;
    uint32_t wait_states;
};

/* Bound of every wait for a ready bit, in polls. A poll takes at least 8 cycles, so this is at least 50 ms at the H7's
 * reset clock (64 MHz) and 200 ms at the others' (16 MHz); oscillators, regulators and PLLs start within a few. */
#define TR_READY_POLLS 400000u

enum tr_clock_status tr_clock_init(void);
void tr_clock_read(struct tr_clocks *clocks);

/* Polls until (register & mask) == value; 0 when TR_READY_POLLS went by. */
int tr_wait_for(uint32_t address, uint32_t mask, uint32_t value);

/* Factors that an encoded AHB or APB prescaler divides by, as a shift. */
uint32_t tr_ahb_shift(uint32_t hpre);
uint32_t tr_apb_shift(uint32_t ppre);

#endif
