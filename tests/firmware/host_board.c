/* A board without hardware: the real protocol and bench code on this machine, bytes on stdin and stdout.
 *
 * Arguments: boot count, bytes of spare RAM, how many repetitions to disturb, layer call at which to "crash" (0: never).
 * Cycles are invented: 1000 per call, plus 2^32 when argument 5 is 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "board.h"
#include "cycles.h"
#include "protocol.h"
#include "watermark.h"

static uint32_t boot_count, spare_bytes, disturb, crash_at, wraps;
static uint32_t calls;
static uint64_t time_cycles;
static _Alignas(16) uint8_t spare[1 << 16];

void tr_board_init(void)
{
}

uint32_t tr_board_boot_count(void)
{
    return boot_count;
}

void tr_board_read(uint32_t *numbers)
{
    for (uint32_t i = 0; i <= TR_HELLO_UART_HZ; i++) {
        numbers[i] = 1000u + i;
    }
    numbers[TR_HELLO_FLAGS] = TR_FLAG_DWT;
    numbers[TR_HELLO_CLOCK_STATUS] = 0;
}

uint8_t *tr_board_spare(uint32_t *size_bytes)
{
    *size_bytes = spare_bytes;
    return spare;
}

void tr_timer_init(uint32_t tim2_hz, uint32_t cpu_hz)
{
    (void)tim2_hz;
    (void)cpu_hz;
}

uint32_t tr_timer_ticks(void)
{
    return (uint32_t)(time_cycles / TR_TICK_CYCLES);
}

int tr_cycles_enable(void)
{
    return 1;
}

int tr_cycles_enabled(void)
{
    return 1;
}

static void serve(void)
{
    fflush(stdout);
    for (int byte; (byte = getchar()) != EOF;) {
        tr_protocol_feed((uint8_t)byte);
        if (byte == 0) {
            fflush(stdout);
        }
    }
}

uint32_t tr_cycles_of(void (*fn)(uint8_t *arena), uint8_t *arena)
{
    uint64_t cycles = 1000u + ((uint64_t)wraps << 32);

    fn(arena);
    calls++;
    if (crash_at != 0 && calls == crash_at) {
        static const uint32_t numbers[TR_CRASH_NUMBERS] = {3, 0x08001234, 0x08000001, 0x20000700, 1u << 24,
                                                           0x8200, 1u << 30, 0, 0xDEADBEEF};
        tr_protocol_crash(numbers);
        serve();
        exit(0);
    }
    time_cycles += cycles;
    if (disturb != 0 && calls > 2u) { /* the first two calls measure the overhead */
        disturb--;
        time_cycles += 5000u; /* a debugger held the counter */
    }
    return (uint32_t)cycles;
}

uint32_t tr_mask_interrupts(void)
{
    return 0;
}

void tr_unmask_interrupts(uint32_t saved)
{
    (void)saved;
}

uint32_t tr_stack_mark(void)
{
    return 512;
}

uint32_t tr_stack_of(void (*fn)(uint8_t *arena), uint8_t *arena)
{
    fn(arena);
    return 64;
}

uint32_t tr_stack_reserve(void)
{
    return 2048;
}

static void put(uint8_t byte)
{
    putchar(byte);
}

int main(int count, char **values)
{
    uint32_t *const settings[] = {&boot_count, &spare_bytes, &disturb, &crash_at, &wraps};

    for (int i = 1; i < count; i++) {
        *settings[i - 1] = (uint32_t)strtoul(values[i], 0, 10);
    }
    tr_protocol_start(tr_board_boot_count(), tr_build_digest, put);
    serve();
    return 0;
}
