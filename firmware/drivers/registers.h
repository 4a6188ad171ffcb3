/* How registers and fields are written down, and access to them.
 *
 * A register is an address; a field is the pair `position, width`:
 *     #define RCC_CR        0x40023800u
 *     #define RCC_CR_HSEON  16, 1
 * so that a test can compare every one of them with ST's SVD files (tests/firmware/test_registers_svd.py). */
#ifndef TR_REGISTERS_H
#define TR_REGISTERS_H

#include <stdint.h>

#define REG(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define TR_MASK_(position, width) ((((width) < 32u) ? ((1u << ((width) & 31u)) - 1u) : 0xFFFFFFFFu) << (position))
#define TR_PUT_(value, position, width) (((uint32_t)(value) << (position)) & TR_MASK_(position, width))
#define TR_GET_(word, position, width) (((word) & TR_MASK_(position, width)) >> (position))

/* MASK(field), PUT(value, field), GET(word, field): the argument `field` expands to `position, width`. */
#define MASK(...) TR_MASK_(__VA_ARGS__)
#define PUT(...) TR_PUT_(__VA_ARGS__)
#define GET(...) TR_GET_(__VA_ARGS__)

static inline void reg_modify(uint32_t address, uint32_t clear, uint32_t set)
{
    REG(address) = (REG(address) & ~clear) | set;
}

#endif
