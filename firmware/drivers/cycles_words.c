/* The cycle counter of an emulator that has no DWT: a 64-bit count that our plug-in keeps in two words of memory. It moves
 * at the start of every basic block, by what the timing model charges for the block. */
#include "cycles.h"

#include "chip_registers.h"
#include "registers.h"

static uint64_t count(void)
{
    uint32_t high, low;

    do {
        high = REG(TR_CYCLE_WORDS + 4u);
        low = REG(TR_CYCLE_WORDS);
    } while (high != REG(TR_CYCLE_WORDS + 4u));
    return (uint64_t)high << 32 | low;
}

void tr_timer_init(uint32_t tim2_hz, uint32_t cpu_hz)
{
    (void)tim2_hz;
    (void)cpu_hz;
}

/* There is no second time base that runs with modelled cycles: the count itself, in ticks. */
uint32_t tr_timer_ticks(void)
{
    return (uint32_t)(count() / TR_TICK_CYCLES);
}

int tr_cycles_enable(void)
{
    uint64_t before = count();

    for (uint32_t polls = 0; polls < 16u; polls++) {
        if (count() != before) {
            return 1;
        }
    }
    return 0;
}

int tr_cycles_enabled(void)
{
    return 1;
}

/* As on a chip (cycles.c), but for the counter's address. The two loads are wide ones (.w): by that encoding, which no
 * compiler chooses for them, the plug-in knows where a timed window begins and ends. */
__attribute__((naked, noinline)) uint32_t tr_cycles_of(void (*fn)(uint8_t *arena), uint8_t *arena)
{
    (void)fn;
    (void)arena;
    __asm volatile("push {r4, r5, r6, lr}\n"
                   "movw r4, %0\n"
                   "movt r4, %1\n"
                   "mov r6, r0\n"
                   "mov r0, r1\n"
                   "dsb\n"
                   "isb\n"
                   "ldr.w r5, [r4]\n"
                   "blx r6\n"
                   "ldr.w r0, [r4]\n"
                   "subs r0, r0, r5\n"
                   "pop {r4, r5, r6, pc}\n" ::"i"(TR_CYCLE_WORDS & 0xFFFFu),
                   "i"(TR_CYCLE_WORDS >> 16));
}

uint32_t tr_mask_interrupts(void)
{
    uint32_t saved;
    __asm volatile("mrs %0, primask\n\tcpsid i" : "=r"(saved)::"memory");
    return saved;
}

void tr_unmask_interrupts(uint32_t saved)
{
    __asm volatile("msr primask, %0" ::"r"(saved) : "memory");
}
