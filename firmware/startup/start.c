/* From reset to main: FPU, VTOR, what is copied into RAM, .bss. Nothing here may rely on an initialised variable. */
#include "core_registers.h"
#include "fault.h"

/* Made by the linker script: .data, and constants and functions that are faster in RAM. */
struct copy {
    const volatile uint32_t *from;
    volatile uint32_t *to, *end;
};
extern const struct copy tr_ld_copies_start[], tr_ld_copies_end[];
extern uint32_t tr_ld_bss_start[], tr_ld_bss_end[];
extern const uint32_t tr_vectors[];

struct tr_fault_record tr_fault_record;

int main(void);
void tr_start(void);

void tr_start(void)
{
    REG(SCB_VTOR) = (uint32_t)(uintptr_t)tr_vectors;
    REG(SCB_CPACR) |= PUT(3, SCB_CPACR_CP10) | PUT(3, SCB_CPACR_CP11);
#if defined(__ARM_FEATURE_MVE)
    REG(SCB_CCR) |= PUT(1, SCB_CCR_LOB); /* Helium's loops then branch back for nothing */
#endif
    TR_DSB();
    TR_ISB();
    /* volatile keeps the compiler from calling memcpy and memset, which belong to the model's share of the flash. The
     * ITCM is on after reset; both words of an ECC word are written in a row, before anything reads it. */
    for (const struct copy *copy = tr_ld_copies_start; copy < tr_ld_copies_end; copy++) {
        const volatile uint32_t *from = copy->from;
        for (volatile uint32_t *to = copy->to; to < copy->end; to++) {
            *to = *from++;
        }
    }
    TR_DSB();
    for (volatile uint32_t *to = tr_ld_bss_start; to < tr_ld_bss_end; to++) {
        *to = 0;
    }
    (void)main();
}
