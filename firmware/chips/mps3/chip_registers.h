/* Arm's MPS3 FPGA board with the image AN547 (Corstone-300, Cortex-M55), as QEMU emulates it. Documents: Arm DAI 0547
 * (memory map, interrupts), DDI 0479 4.3 (CMSDK APB UART), 100765 (SCC). The core stays in the Secure state, in which
 * everything is reached at its Non-secure address. No clock tree, no flash controller, no pin to switch. */
#ifndef TR_CHIP_REGISTERS_H
#define TR_CHIP_REGISTERS_H

#define TR_BOARD_HZ 32000000u

#define UART0_BASE 0x49303000u
#define TR_UART_IRQ_FIRST 33u /* receive, then transmit */

#define NVIC_ISER 0xE000E100u /* DDI 0403E.e B3.4 */
#define NVIC_ICPR 0xE000E280u

#define SCC_ID 0x49300FFCu
#define DBGMCU_IDCODE SCC_ID
#define DBGMCU_IDCODE_DEV_ID 4, 12
#define DBGMCU_IDCODE_REV_ID 20, 4

/* Not a register: 64 bits of the code memory that our QEMU plug-in keeps at the number of executed instructions. */
#define TR_CYCLE_WORDS 0x011FFFF0u

#endif
