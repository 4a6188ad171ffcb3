/* What the bench and main need from the hardware besides cycles, stack marks and the UART. The host tests answer the
 * same questions without any hardware. */
#ifndef TR_BOARD_H
#define TR_BOARD_H

#include <stdint.h>

/* Clocks, caches, FPU, counter, timer, UART. Keeps what happened for tr_board_read. */
void tr_board_init(void);

/* Boots since power was last lost, this one included: 1 after a power-up. */
uint32_t tr_board_boot_count(void);

/* Fills the HELLO numbers that come from the chip (tr_hello_number up to TR_HELLO_UART_HZ), read back now. */
void tr_board_read(uint32_t *numbers);

/* RAM that the image does not use; aligned to 16 bytes. */
uint8_t *tr_board_spare(uint32_t *size_bytes);

#endif
