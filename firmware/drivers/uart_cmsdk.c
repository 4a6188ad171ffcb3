/* Arm's CMSDK APB UART (DDI 0479 4.3), polled, 8N1. While nothing comes the core sleeps: an emulator that spins costs
 * its host a processor. */
#include "uart.h"

#include "chip_registers.h"
#include "registers.h"

#define UART_DATA 0x00u
#define UART_STATE 0x04u
#define UART_STATE_TXFULL 0, 1
#define UART_STATE_RXFULL 1, 1
#define UART_STATE_TXOVERRUN 2, 1
#define UART_STATE_RXOVERRUN 3, 1
#define UART_CTRL 0x08u
#define UART_CTRL_TX_EN 0, 1
#define UART_CTRL_RX_EN 1, 1
#define UART_CTRL_RX_INT 3, 1
#define UART_INTCLEAR 0x0Cu
#define UART_INTCLEAR_ALL 0, 4
#define UART_BAUDDIV 0x10u
#define UART_BAUDDIV_LEAST 16u

#define IRQ_WORD (4u * (TR_UART_IRQ_FIRST / 32u))
#define IRQ_BITS (3u << (TR_UART_IRQ_FIRST % 32u))

#define WRITE_POLLS 1000000u

uint32_t tr_uart_init(uint32_t apb1_hz, uint32_t apb2_hz)
{
    uint32_t divider = (apb1_hz + TR_UART_BAUD / 2u) / TR_UART_BAUD;

    (void)apb2_hz;
    REG(UART0_BASE + UART_CTRL) = 0;
    REG(UART0_BASE + UART_BAUDDIV) = divider < UART_BAUDDIV_LEAST ? UART_BAUDDIV_LEAST : divider;
    REG(UART0_BASE + UART_CTRL) = MASK(UART_CTRL_TX_EN) | MASK(UART_CTRL_RX_EN) | MASK(UART_CTRL_RX_INT);
    /* Drops what stands there from before; and QEMU looks for input again only when this register is read: bytes that came
     * while the receiver was off would otherwise wait, and with them all that follow. */
    (void)REG(UART0_BASE + UART_DATA);
    /* Interrupts are masked for good (PRIMASK): this one only ends a WFI. */
    REG(NVIC_ISER + IRQ_WORD) = IRQ_BITS;
    return apb1_hz;
}

int tr_uart_read(void)
{
    uint32_t state = REG(UART0_BASE + UART_STATE);

    if (state & MASK(UART_STATE_RXOVERRUN)) {
        REG(UART0_BASE + UART_STATE) = MASK(UART_STATE_RXOVERRUN);
    }
    if ((state & MASK(UART_STATE_RXFULL)) == 0) {
        __asm volatile("wfi" ::: "memory");
        return -1;
    }
    int byte = (int)(REG(UART0_BASE + UART_DATA) & 0xFFu);
    REG(UART0_BASE + UART_INTCLEAR) = MASK(UART_INTCLEAR_ALL);
    REG(NVIC_ICPR + IRQ_WORD) = IRQ_BITS;
    return byte;
}

void tr_uart_write(uint8_t byte)
{
    for (uint32_t polls = 0; polls < WRITE_POLLS; polls++) {
        if ((REG(UART0_BASE + UART_STATE) & MASK(UART_STATE_TXFULL)) == 0) {
            REG(UART0_BASE + UART_DATA) = byte;
            return;
        }
    }
}

/* Room for a byte means that the one before has left: there is no state for the shift register. */
void tr_uart_flush(void)
{
    for (uint32_t polls = 0; polls < WRITE_POLLS; polls++) {
        if ((REG(UART0_BASE + UART_STATE) & MASK(UART_STATE_TXFULL)) == 0) {
            return;
        }
    }
}
