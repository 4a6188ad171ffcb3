/* Registers of the Cortex-M4 and Cortex-M7 cores. Documents: ARMv7-M Architecture Reference Manual DDI 0403E.e
 * (B3.2 SCB and CPACR, B3.5 MPU, B3.2.3 fault status, C1.6 DEMCR, C1.8 DWT, B2.2.7 cache maintenance, B4.8 cache
 * identification), Cortex-M7 TRM DDI 0489F. Checked by tests/firmware/test_registers_svd.py. */
#ifndef TR_CORE_REGISTERS_H
#define TR_CORE_REGISTERS_H

#include "registers.h"

#define DWT_CTRL 0xE0001000u
#define DWT_CTRL_CYCCNTENA 0, 1
#define DWT_CYCCNT 0xE0001004u
#define DWT_LAR 0xE0001FB0u
#define DWT_LAR_KEY 0xC5ACCE55u

#define DCB_DEMCR 0xE000EDFCu
#define DCB_DEMCR_TRCENA 24, 1

#define SCB_CPUID 0xE000ED00u
#define SCB_VTOR 0xE000ED08u
#define SCB_CCR 0xE000ED14u
#define SCB_CCR_DC 16, 1
#define SCB_CCR_IC 17, 1
#define SCB_CCR_LOB 19, 1 /* Armv8.1-M, DDI 0553B */
#define SCB_CFSR 0xE000ED28u
#define SCB_HFSR 0xE000ED2Cu
#define SCB_MMFAR 0xE000ED34u
#define SCB_BFAR 0xE000ED38u
#define SCB_CPACR 0xE000ED88u
#define SCB_CPACR_CP10 20, 2
#define SCB_CPACR_CP11 22, 2

#define SCB_CCSIDR 0xE000ED80u
#define SCB_CCSIDR_ASSOCIATIVITY 3, 10
#define SCB_CCSIDR_NUMSETS 13, 15
#define SCB_CSSELR 0xE000ED84u
#define SCB_ICIALLU 0xE000EF50u
#define SCB_DCISW 0xE000EF60u

#define MPU_CTRL 0xE000ED94u
#define MPU_CTRL_ENABLE 0, 1
#define MPU_CTRL_PRIVDEFENA 2, 1
#define MPU_RNR 0xE000ED98u
#define MPU_RBAR 0xE000ED9Cu
#define MPU_RASR 0xE000EDA0u
#define MPU_RASR_ENABLE 0, 1
#define MPU_RASR_SIZE 1, 5
#define MPU_RASR_SRD 8, 8
#define MPU_RASR_XN 28, 1

#define TR_DSB() __asm volatile("dsb" ::: "memory")
#define TR_ISB() __asm volatile("isb" ::: "memory")

#endif
