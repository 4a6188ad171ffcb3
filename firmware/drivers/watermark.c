/* Stack marks. The region lies at the bottom of its memory: an overflow faults instead of eating variables. */
#include "watermark.h"

extern uint32_t tr_ld_stack_bottom[];
extern uint32_t tr_ld_stack_top[];

/* The lowest address found used before the region was painted again. Null: nothing found yet. */
static uint32_t *lowest_seen;

static uint32_t *lowest_used(void)
{
    uint32_t *word = tr_ld_stack_bottom;

    while (word < tr_ld_stack_top && *word == TR_STACK_PAINT) {
        word++;
    }
    return word;
}

uint32_t tr_stack_mark(void)
{
    uint32_t *lowest = lowest_used();

    if (lowest_seen == 0 || lowest < lowest_seen) {
        lowest_seen = lowest;
    }
    return (uint32_t)((uint8_t *)tr_ld_stack_top - (uint8_t *)lowest_seen);
}

__attribute__((noinline)) uint32_t tr_stack_of(void (*fn)(uint8_t *arena), uint8_t *arena)
{
    uint32_t *sp;

    (void)tr_stack_mark();
    __asm volatile("mov %0, sp" : "=r"(sp));
    /* No call is made between here and fn: what lies below sp belongs to nobody. */
    for (volatile uint32_t *word = tr_ld_stack_bottom; word < sp; word++) {
        *word = TR_STACK_PAINT;
    }
    fn(arena);
    return (uint32_t)((uint8_t *)sp - (uint8_t *)lowest_used());
}

uint32_t tr_stack_reserve(void)
{
    return (uint32_t)((uint8_t *)tr_ld_stack_top - (uint8_t *)tr_ld_stack_bottom);
}
