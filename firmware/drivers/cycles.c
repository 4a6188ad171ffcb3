/* DWT and TIM2. */
#include "cycles.h"

#include "chip_registers.h"
#include "core_registers.h"

void tr_timer_init(uint32_t tim2_hz, uint32_t cpu_hz)
{
    /* TIM2 runs at the CPU clock or at half of it, so this is 16 or 8. */
    uint32_t divider = tim2_hz >= cpu_hz ? TR_TICK_CYCLES : TR_TICK_CYCLES / 2u;

    REG(TR_RCC_APB1EN) |= MASK(TR_RCC_APB1EN_TIM2EN);
    (void)REG(TR_RCC_APB1EN);
    REG(TIM2_CR1) = 0;
    REG(TIM2_PSC) = divider - 1u;
    REG(TIM2_ARR) = 0xFFFFFFFFu;
    REG(TIM2_EGR) = MASK(TIM2_EGR_UG); /* takes the prescaler over and clears the count */
    REG(TIM2_CR1) = MASK(TIM2_CR1_CEN);
}

uint32_t tr_timer_ticks(void)
{
    return REG(TIM2_CNT);
}

int tr_cycles_enable(void)
{
    REG(DCB_DEMCR) |= MASK(DCB_DEMCR_TRCENA);
    TR_DSB();
    REG(DWT_LAR) = DWT_LAR_KEY; /* the Cortex-M7 ignores writes to its DWT until unlocked; the M4 has no lock */
    REG(DWT_CTRL) |= MASK(DWT_CTRL_CYCCNTENA);
    TR_DSB();
    uint32_t before = REG(DWT_CYCCNT);
    for (uint32_t polls = 0; polls < 16u; polls++) {
        if (REG(DWT_CYCCNT) != before) {
            return 1;
        }
    }
    return 0;
}

int tr_cycles_enabled(void)
{
    return (REG(DCB_DEMCR) & MASK(DCB_DEMCR_TRCENA)) != 0 && (REG(DWT_CTRL) & MASK(DWT_CTRL_CYCCNTENA)) != 0;
}

/* Assembly so that no compiler moves anything into the window. DSB and ISB drain the write buffer and the pipeline
 * before the first read; nothing stands between the second read and the return of fn. */
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
                   "ldr r5, [r4]\n"
                   "blx r6\n"
                   "ldr r0, [r4]\n"
                   "subs r0, r0, r5\n"
                   "pop {r4, r5, r6, pc}\n" ::"i"(DWT_CYCCNT & 0xFFFFu),
                   "i"(DWT_CYCCNT >> 16));
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
