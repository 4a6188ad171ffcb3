/* Cache policy: both caches on, default memory map. Flash (0x08000000) is then write-through, RAM from 0x20000000
 * write-back with write-allocate, TCM is never cached. Nothing here uses DMA, so nothing needs cache maintenance; a
 * debugger's accesses through the core's AHB-AP look the caches up. */
#include "cache.h"

#include "core_registers.h"

/* An emulator's M7 has no caches that could be switched. */
#if defined(TR_CORE_M7) && !defined(TR_FAMILY_MPS)

static void forbid_speculation(void)
{
    /* A Cortex-M7 may read ahead anywhere in Normal memory. The external memory range (0x60000000 to 0xDFFFFFFF) has no
     * memory behind it here and a speculative read there can hang the bus, so one region makes it inaccessible: 4 GB
     * (SIZE = 31) with the sub-regions 0, 1, 2 and 7 (512 MB each) left to the default map. See ST AN4838, AN4861. */
    REG(MPU_CTRL) = 0;
    REG(MPU_RNR) = 0;
    REG(MPU_RBAR) = 0;
    REG(MPU_RASR) = MASK(MPU_RASR_XN) | PUT(0x87, MPU_RASR_SRD) | PUT(31, MPU_RASR_SIZE) | MASK(MPU_RASR_ENABLE);
    REG(MPU_CTRL) = MASK(MPU_CTRL_PRIVDEFENA) | MASK(MPU_CTRL_ENABLE);
    TR_DSB();
    TR_ISB();
}

static void invalidate_dcache(void)
{
    REG(SCB_CSSELR) = 0; /* level 1, data */
    TR_DSB();
    uint32_t size = REG(SCB_CCSIDR);
    uint32_t last_set = GET(size, SCB_CCSIDR_NUMSETS);
    uint32_t last_way = GET(size, SCB_CCSIDR_ASSOCIATIVITY);
    /* 4 ways: the way stands in the top two bits; lines of 32 bytes: the set starts at bit 5 (DDI 0489, DCISW). */
    for (uint32_t set = 0; set <= last_set; set++) {
        for (uint32_t way = 0; way <= last_way; way++) {
            REG(SCB_DCISW) = (way << 30) | (set << 5);
        }
    }
    TR_DSB();
}

void tr_cache_init(void)
{
    forbid_speculation();
    REG(SCB_ICIALLU) = 0;
    TR_DSB();
    TR_ISB();
    REG(SCB_CCR) |= MASK(SCB_CCR_IC);
    TR_DSB();
    TR_ISB();
    if ((REG(SCB_CCR) & MASK(SCB_CCR_DC)) == 0) {
        invalidate_dcache();
        REG(SCB_CCR) |= MASK(SCB_CCR_DC);
    }
    TR_DSB();
    TR_ISB();
}

#else

void tr_cache_init(void)
{
}

#endif
