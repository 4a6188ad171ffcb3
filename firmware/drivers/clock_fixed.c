/* Boards whose clock is wired: nothing to set up, nothing to read back. */
#include "clock.h"

#include "chip_registers.h"

enum tr_clock_status tr_clock_init(void)
{
    return TR_CLOCK_RATED;
}

void tr_clock_read(struct tr_clocks *clocks)
{
    clocks->cpu_hz = TR_BOARD_HZ;
    clocks->apb1_hz = TR_BOARD_HZ;
    clocks->apb2_hz = TR_BOARD_HZ;
    clocks->tim2_hz = TR_BOARD_HZ;
    clocks->wait_states = 0;
}
