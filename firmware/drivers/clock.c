/* What the clock code of all families shares. */
#include "clock.h"

#include "registers.h"

int tr_wait_for(uint32_t address, uint32_t mask, uint32_t value)
{
    for (uint32_t polls = 0; polls < TR_READY_POLLS; polls++) {
        if ((REG(address) & mask) == value) {
            return 1;
        }
    }
    return 0;
}

uint32_t tr_ahb_shift(uint32_t hpre)
{
    /* 0xxx: 1; 1000: 2 ... 1011: 16; 1100: 64 ... 1111: 512. There is no 32. */
    if (hpre < 8u) {
        return 0;
    }
    return hpre < 12u ? hpre - 7u : hpre - 6u;
}

uint32_t tr_apb_shift(uint32_t ppre)
{
    /* 0xx: 1; 100: 2 ... 111: 16. */
    return ppre < 4u ? 0 : ppre - 3u;
}
