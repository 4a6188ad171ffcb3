/* Clock tree of STM32F412 (RM0402: 5.4.2 voltage scaling, 3.4.1 wait states, 6.3 RCC) and STM32F74x/F76x (RM0385 and
 * RM0410: 4.1.4 overdrive, 3.3.2 wait states, 5.3 RCC). The two differ in names, in overdrive and in the speed. */
#include "clock.h"

#include "chip_registers.h"

#define HSI_HZ 16000000u

#if defined(TR_FAMILY_F4)
#define TR_VCO_HZ 200000000u /* 100 MHz; the VCO may run 100 to 432 MHz */
#define TR_WAIT_STATES 3u    /* 90 < HCLK <= 100 MHz at 2.7 to 3.6 V */
#define TR_PPRE1 4u          /* /2: APB1 at most 50 MHz */
#define TR_PPRE2 0u          /* /1: APB2 at most 100 MHz */
#define TR_PLLQ 5u           /* 40 MHz, unused; at most 48 MHz */
#define TR_PWR PWR_CR
#define TR_PWR_VOS PWR_CR_VOS
#define TR_PWR_STATUS PWR_CSR
#define TR_PWR_VOSRDY PWR_CSR_VOSRDY
#else
#define TR_VCO_HZ 432000000u /* 216 MHz */
#define TR_WAIT_STATES 7u    /* 210 < HCLK <= 216 MHz at 2.7 to 3.6 V */
#define TR_PPRE1 5u          /* /4: APB1 at most 54 MHz */
#define TR_PPRE2 4u          /* /2: APB2 at most 108 MHz */
#define TR_PLLQ 9u           /* 48 MHz, unused */
#define TR_PWR PWR_CR1
#define TR_PWR_VOS PWR_CR1_VOS
#define TR_PWR_STATUS PWR_CSR1
#define TR_PWR_VOSRDY PWR_CSR1_VOSRDY
#endif

#if TR_HSE_HZ
#define TR_SOURCE_HZ TR_HSE_HZ
#else
#define TR_SOURCE_HZ HSI_HZ
#endif

/* The PLL input: 2 MHz has the least jitter, 1 MHz is allowed. */
#if TR_SOURCE_HZ % 2000000u == 0 && TR_SOURCE_HZ / 2000000u >= 2
#define TR_PLL_INPUT_HZ 2000000u
#elif TR_SOURCE_HZ % 1000000u == 0 && TR_SOURCE_HZ / 1000000u >= 2
#define TR_PLL_INPUT_HZ 1000000u
#else
#error "the external clock must be a multiple of 1 MHz"
#endif

enum { SW_HSI = 0, SW_HSE = 1, SW_PLL = 2, VOS_SCALE_1 = 3 };

static void back_to_hsi(void)
{
    REG(RCC_CR) |= MASK(RCC_CR_HSION);
    (void)tr_wait_for(RCC_CR, MASK(RCC_CR_HSIRDY), MASK(RCC_CR_HSIRDY));
    reg_modify(RCC_CFGR, MASK(RCC_CFGR_SW) | MASK(RCC_CFGR_HPRE) | MASK(RCC_CFGR_PPRE1) | MASK(RCC_CFGR_PPRE2), 0);
    (void)tr_wait_for(RCC_CFGR, MASK(RCC_CFGR_SWS), PUT(SW_HSI, RCC_CFGR_SWS));
    REG(RCC_CR) &= ~(MASK(RCC_CR_PLLON) | MASK(RCC_CR_HSEON));
}

static enum tr_clock_status to_rated_speed(void)
{
    REG(RCC_APB1ENR) |= MASK(RCC_APB1ENR_PWREN);
    (void)REG(RCC_APB1ENR); /* the enable needs two peripheral clocks before the first access */

#if TR_HSE_HZ
    /* HSEBYP may be written only while the HSE is off. */
    reg_modify(RCC_CR, MASK(RCC_CR_HSEBYP), PUT(TR_HSE_BYPASS, RCC_CR_HSEBYP));
    REG(RCC_CR) |= MASK(RCC_CR_HSEON);
    if (!tr_wait_for(RCC_CR, MASK(RCC_CR_HSERDY), MASK(RCC_CR_HSERDY))) {
        return TR_CLOCK_NO_OSCILLATOR;
    }
#else
    REG(RCC_CR) |= MASK(RCC_CR_HSION);
    if (!tr_wait_for(RCC_CR, MASK(RCC_CR_HSIRDY), MASK(RCC_CR_HSIRDY))) {
        return TR_CLOCK_NO_OSCILLATOR;
    }
#endif

    /* The scale may be changed only while the PLL is off and takes effect, with VOSRDY, once it is on. */
    reg_modify(TR_PWR, MASK(TR_PWR_VOS), PUT(VOS_SCALE_1, TR_PWR_VOS));
    reg_modify(RCC_PLLCFGR,
               MASK(RCC_PLLCFGR_PLLM) | MASK(RCC_PLLCFGR_PLLN) | MASK(RCC_PLLCFGR_PLLP) | MASK(RCC_PLLCFGR_PLLQ) |
                   MASK(RCC_PLLCFGR_PLLSRC),
               PUT(TR_SOURCE_HZ / TR_PLL_INPUT_HZ, RCC_PLLCFGR_PLLM) |
                   PUT(TR_VCO_HZ / TR_PLL_INPUT_HZ, RCC_PLLCFGR_PLLN) | PUT(0, RCC_PLLCFGR_PLLP) /* /2 */ |
                   PUT(TR_PLLQ, RCC_PLLCFGR_PLLQ) | PUT(TR_HSE_HZ != 0, RCC_PLLCFGR_PLLSRC));
    REG(RCC_CR) |= MASK(RCC_CR_PLLON);

#if !defined(TR_FAMILY_F4)
    /* Overdrive is entered from HSI or HSE with the PLL switched on, before the wait states and the prescalers. */
    REG(PWR_CR1) |= MASK(PWR_CR1_ODEN);
    if (!tr_wait_for(PWR_CSR1, MASK(PWR_CSR1_ODRDY), MASK(PWR_CSR1_ODRDY))) {
        return TR_CLOCK_NO_REGULATOR;
    }
    REG(PWR_CR1) |= MASK(PWR_CR1_ODSWEN);
    if (!tr_wait_for(PWR_CSR1, MASK(PWR_CSR1_ODSWRDY), MASK(PWR_CSR1_ODSWRDY))) {
        return TR_CLOCK_NO_REGULATOR;
    }
#endif

    reg_modify(FLASH_ACR, MASK(FLASH_ACR_LATENCY), PUT(TR_WAIT_STATES, FLASH_ACR_LATENCY));
    if (GET(REG(FLASH_ACR), FLASH_ACR_LATENCY) != TR_WAIT_STATES) {
        return TR_CLOCK_NO_SWITCH;
    }
    reg_modify(RCC_CFGR, MASK(RCC_CFGR_HPRE) | MASK(RCC_CFGR_PPRE1) | MASK(RCC_CFGR_PPRE2),
               PUT(TR_PPRE1, RCC_CFGR_PPRE1) | PUT(TR_PPRE2, RCC_CFGR_PPRE2));
    if (!tr_wait_for(RCC_CR, MASK(RCC_CR_PLLRDY), MASK(RCC_CR_PLLRDY))) {
        return TR_CLOCK_NO_PLL;
    }
    if (!tr_wait_for(TR_PWR_STATUS, MASK(TR_PWR_VOSRDY), MASK(TR_PWR_VOSRDY))) {
        return TR_CLOCK_NO_REGULATOR;
    }
    reg_modify(RCC_CFGR, MASK(RCC_CFGR_SW), PUT(SW_PLL, RCC_CFGR_SW));
    if (!tr_wait_for(RCC_CFGR, MASK(RCC_CFGR_SWS), PUT(SW_PLL, RCC_CFGR_SWS))) {
        return TR_CLOCK_NO_SWITCH;
    }
    return TR_CLOCK_RATED;
}

enum tr_clock_status tr_clock_init(void)
{
    enum tr_clock_status status = to_rated_speed();
    if (status != TR_CLOCK_RATED) {
        back_to_hsi();
    }
#if defined(TR_FAMILY_F4)
    /* Both flash caches may be reset only while they are off; they are, after a reset. */
    REG(FLASH_ACR) |= MASK(FLASH_ACR_ICRST) | MASK(FLASH_ACR_DCRST);
    REG(FLASH_ACR) &= ~(MASK(FLASH_ACR_ICRST) | MASK(FLASH_ACR_DCRST));
    REG(FLASH_ACR) |= MASK(FLASH_ACR_PRFTEN) | MASK(FLASH_ACR_ICEN) | MASK(FLASH_ACR_DCEN);
#else
    /* ART and prefetch serve only the ITCM alias of the flash (0x00200000). Code here runs from 0x08000000 through the
     * AXI port and the L1 caches; both are switched on so that a placement at the alias needs no other start-up. */
    REG(FLASH_ACR) |= MASK(FLASH_ACR_ARTRST);
    REG(FLASH_ACR) &= ~MASK(FLASH_ACR_ARTRST);
    REG(FLASH_ACR) |= MASK(FLASH_ACR_PRFTEN) | MASK(FLASH_ACR_ARTEN);
#endif
    return status;
}

void tr_clock_read(struct tr_clocks *clocks)
{
    uint32_t cfgr = REG(RCC_CFGR);
    uint32_t pll = REG(RCC_PLLCFGR);
    uint32_t sysclk = HSI_HZ;
    uint32_t source = GET(pll, RCC_PLLCFGR_PLLSRC) ? (uint32_t)TR_HSE_HZ : HSI_HZ;

    if (GET(cfgr, RCC_CFGR_SWS) == SW_HSE) {
        sysclk = TR_HSE_HZ;
    } else if (GET(cfgr, RCC_CFGR_SWS) == SW_PLL) {
        uint32_t m = GET(pll, RCC_PLLCFGR_PLLM);
        uint32_t p = 2u * (GET(pll, RCC_PLLCFGR_PLLP) + 1u);
        sysclk = m ? source / m * GET(pll, RCC_PLLCFGR_PLLN) / p : 0;
    }
    uint32_t shift1 = tr_apb_shift(GET(cfgr, RCC_CFGR_PPRE1));
    clocks->cpu_hz = sysclk >> tr_ahb_shift(GET(cfgr, RCC_CFGR_HPRE));
    clocks->apb1_hz = clocks->cpu_hz >> shift1;
    clocks->apb2_hz = clocks->cpu_hz >> tr_apb_shift(GET(cfgr, RCC_CFGR_PPRE2));
    /* Timers run at the bus clock when it is not divided, else at twice it (TIMPRE stays at its reset value 0). */
    clocks->tim2_hz = shift1 ? 2u * clocks->apb1_hz : clocks->apb1_hz;
    clocks->wait_states = GET(REG(FLASH_ACR), FLASH_ACR_LATENCY);
}
