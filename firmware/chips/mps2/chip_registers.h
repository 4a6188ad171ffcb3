/* Arm's MPS2 FPGA board with the images AN386 (Cortex-M4) and AN500 (Cortex-M7), as QEMU emulates it. Documents: Arm
 * DAI 0386 and DAI 0500 (memory map, interrupts), DDI 0479 4.3 (CMSDK APB UART), 100112 4.2 (SCC). There is no clock tree,
 * no flash controller and no pin to switch; the "flash" is static RAM that the debugger fills. */
#ifndef TR_CHIP_REGISTERS_H
#define TR_CHIP_REGISTERS_H

#define TR_BOARD_HZ 25000000u

#define UART0_BASE 0x40004000u
#define TR_UART_IRQ_FIRST 0u /* receive, then transmit */

#define NVIC_ISER 0xE000E100u /* DDI 0403E.e B3.4 */
#define NVIC_ICPR 0xE000E280u

/* SCC: the application note that the FPGA image belongs to, in BCD, and the board's revision. */
#define SCC_ID 0x4002FFFCu
#define DBGMCU_IDCODE SCC_ID
#define DBGMCU_IDCODE_DEV_ID 4, 12
#define DBGMCU_IDCODE_REV_ID 20, 4

/* Not a register: 64 bits of the code memory that our QEMU plug-in keeps at the modelled cycle count. */
#define TR_CYCLE_WORDS 0x003FFFF0u

#endif
