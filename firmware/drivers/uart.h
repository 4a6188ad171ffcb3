/* Polled UART, 8N1. Instance, pins and alternate functions come from the board (-DTR_UART_...). */
#ifndef TR_UART_H
#define TR_UART_H

#include <stdint.h>

/* Programs pins and baud rate for the kernel clock that runs; returns that clock. */
uint32_t tr_uart_init(uint32_t apb1_hz, uint32_t apb2_hz);

/* One received byte, or -1. An overrun or a framing error is cleared; the frame's CRC finds what was lost. */
int tr_uart_read(void);

/* Waits, bounded, for room and sends. A UART that never has room is given up on: the host's deadline reports it. */
void tr_uart_write(uint8_t byte);

#endif
