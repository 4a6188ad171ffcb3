/* The bench firmware: brings the board up, says so, and answers requests for ever. */
#include "bench.h"
#include "board.h"
#include "core_registers.h"
#include "fault.h"
#include "protocol.h"
#include "uart.h"

int main(void);
void tr_fault_report(void);

static void serve(void)
{
    for (;;) {
        int byte = tr_uart_read();
        if (byte >= 0) {
            tr_protocol_feed((uint8_t)byte);
        }
    }
}

int main(void)
{
    tr_board_init();
    tr_protocol_start(tr_board_boot_count(), tr_build_digest, tr_uart_write);
    serve();
    return 0;
}

/* Entered from startup/vectors.S with a fresh stack after any fault; never returns. */
void tr_fault_report(void)
{
    uint32_t exception;

    __asm volatile("mrs %0, ipsr" : "=r"(exception));
    uint32_t numbers[TR_CRASH_NUMBERS] = {
        exception,     tr_fault_record.frame[6], tr_fault_record.frame[5], tr_fault_record.sp, tr_fault_record.frame[7],
        REG(SCB_CFSR), REG(SCB_HFSR),            REG(SCB_MMFAR),           REG(SCB_BFAR),
    };
    tr_protocol_crash(numbers);
    serve();
}
