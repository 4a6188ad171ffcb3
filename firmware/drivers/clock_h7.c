/* Clock tree of the STM32H743 (RM0433: 6.6.2 voltage scaling and VOS0, table 17 flash wait states, 8.5 RCC).
 * Only revision V reaches 480 MHz with VOS0; every other one runs 400 MHz at VOS1 and says so. */
#include "clock.h"

#include "chip_registers.h"

#define HSI_HZ 64000000u
#define REVISION_V 0x2003u
#define FIRST_SOUND_AXI 0x2000u

#if TR_HSE_HZ
#define TR_SOURCE_HZ TR_HSE_HZ
#else
#define TR_SOURCE_HZ HSI_HZ
#endif

/* PLL1 input: 16 MHz from the HSI; from a crystal the largest of 16, 8 and 5 MHz that divides it. All three divide the
 * 960 and the 800 MHz of the VCO. The input range code must name the range that holds it (8 to 16, 4 to 8 MHz). */
#if TR_SOURCE_HZ % 16000000u == 0
#define TR_PLL_INPUT_HZ 16000000u
#define TR_PLL_RANGE 3u
#elif TR_SOURCE_HZ % 8000000u == 0
#define TR_PLL_INPUT_HZ 8000000u
#define TR_PLL_RANGE 3u
#elif TR_SOURCE_HZ % 5000000u == 0
#define TR_PLL_INPUT_HZ 5000000u
#define TR_PLL_RANGE 2u
#else
#error "the external clock must be a multiple of 8 or 5 MHz"
#endif

enum { SW_HSI = 0, SW_HSE = 2, SW_PLL1 = 3, PLLSRC_HSI = 0, PLLSRC_HSE = 2, VOS_SCALE_1 = 3, AHB_BY_2 = 8, APB_BY_2 = 4 };

static void back_to_hsi(void)
{
    REG(RCC_CR) |= MASK(RCC_CR_HSION);
    (void)tr_wait_for(RCC_CR, MASK(RCC_CR_HSIRDY), MASK(RCC_CR_HSIRDY));
    reg_modify(RCC_CFGR, MASK(RCC_CFGR_SW), PUT(SW_HSI, RCC_CFGR_SW));
    (void)tr_wait_for(RCC_CFGR, MASK(RCC_CFGR_SWS), PUT(SW_HSI, RCC_CFGR_SWS));
    REG(RCC_CR) &= ~(MASK(RCC_CR_PLL1ON) | MASK(RCC_CR_HSEON));
    REG(RCC_D1CFGR) &= ~(MASK(RCC_D1CFGR_HPRE) | MASK(RCC_D1CFGR_D1PPRE) | MASK(RCC_D1CFGR_D1CPRE));
    REG(RCC_D2CFGR) &= ~(MASK(RCC_D2CFGR_D2PPRE1) | MASK(RCC_D2CFGR_D2PPRE2));
    REG(RCC_D3CFGR) &= ~MASK(RCC_D3CFGR_D3PPRE);
}

static enum tr_clock_status to_rated_speed(void)
{
    int full_speed = GET(REG(DBGMCU_IDCODE), DBGMCU_IDCODE_REV_ID) == REVISION_V;
    uint32_t vco_hz = full_speed ? 960000000u : 800000000u;
    uint32_t wait_states = full_speed ? 4u : 2u; /* AXI 240 MHz at VOS0; 200 MHz at VOS1 */

    /* The supply configuration must be written once after power-on before the voltage scale may change. */
    reg_modify(PWR_CR3, MASK(PWR_CR3_BYPASS), MASK(PWR_CR3_LDOEN) | MASK(PWR_CR3_SCUEN));
    if (!tr_wait_for(PWR_CSR1, MASK(PWR_CSR1_ACTVOSRDY), MASK(PWR_CSR1_ACTVOSRDY))) {
        return TR_CLOCK_NO_REGULATOR;
    }
    reg_modify(PWR_D3CR, MASK(PWR_D3CR_VOS), PUT(VOS_SCALE_1, PWR_D3CR_VOS));
    if (!tr_wait_for(PWR_D3CR, MASK(PWR_D3CR_VOSRDY), MASK(PWR_D3CR_VOSRDY))) {
        return TR_CLOCK_NO_REGULATOR;
    }
    if (full_speed) {
        REG(RCC_APB4ENR) |= MASK(RCC_APB4ENR_SYSCFGEN);
        (void)REG(RCC_APB4ENR);
        REG(SYSCFG_PWRCR) |= MASK(SYSCFG_PWRCR_ODEN);
        (void)REG(SYSCFG_PWRCR);
        if (!tr_wait_for(PWR_D3CR, MASK(PWR_D3CR_VOSRDY), MASK(PWR_D3CR_VOSRDY))) {
            return TR_CLOCK_NO_REGULATOR;
        }
    }

#if TR_HSE_HZ
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

    reg_modify(RCC_PLLCKSELR, MASK(RCC_PLLCKSELR_PLLSRC) | MASK(RCC_PLLCKSELR_DIVM1),
               PUT(TR_HSE_HZ ? PLLSRC_HSE : PLLSRC_HSI, RCC_PLLCKSELR_PLLSRC) |
                   PUT(TR_SOURCE_HZ / TR_PLL_INPUT_HZ, RCC_PLLCKSELR_DIVM1));
    /* Wide VCO range, integer mode, only the P output. */
    reg_modify(RCC_PLLCFGR,
               MASK(RCC_PLLCFGR_PLL1FRACEN) | MASK(RCC_PLLCFGR_PLL1VCOSEL) | MASK(RCC_PLLCFGR_PLL1RGE) |
                   MASK(RCC_PLLCFGR_DIVQ1EN) | MASK(RCC_PLLCFGR_DIVR1EN),
               PUT(TR_PLL_RANGE, RCC_PLLCFGR_PLL1RGE) | MASK(RCC_PLLCFGR_DIVP1EN));
    reg_modify(RCC_PLL1DIVR, MASK(RCC_PLL1DIVR_DIVN1) | MASK(RCC_PLL1DIVR_DIVP1),
               PUT(vco_hz / TR_PLL_INPUT_HZ - 1u, RCC_PLL1DIVR_DIVN1) | PUT(1, RCC_PLL1DIVR_DIVP1) /* /2 */);
    REG(RCC_CR) |= MASK(RCC_CR_PLL1ON);
    if (!tr_wait_for(RCC_CR, MASK(RCC_CR_PLL1RDY), MASK(RCC_CR_PLL1RDY))) {
        return TR_CLOCK_NO_PLL;
    }

    /* Wait states and prescalers go up before the clock does: AXI and AHB at half, APBs at a quarter of the core. */
    reg_modify(FLASH_ACR, MASK(FLASH_ACR_LATENCY) | MASK(FLASH_ACR_WRHIGHFREQ),
               PUT(wait_states, FLASH_ACR_LATENCY) | PUT(2, FLASH_ACR_WRHIGHFREQ));
    if (GET(REG(FLASH_ACR), FLASH_ACR_LATENCY) != wait_states) {
        return TR_CLOCK_NO_SWITCH;
    }
    reg_modify(RCC_D1CFGR, MASK(RCC_D1CFGR_HPRE) | MASK(RCC_D1CFGR_D1PPRE) | MASK(RCC_D1CFGR_D1CPRE),
               PUT(AHB_BY_2, RCC_D1CFGR_HPRE) | PUT(APB_BY_2, RCC_D1CFGR_D1PPRE));
    reg_modify(RCC_D2CFGR, MASK(RCC_D2CFGR_D2PPRE1) | MASK(RCC_D2CFGR_D2PPRE2),
               PUT(APB_BY_2, RCC_D2CFGR_D2PPRE1) | PUT(APB_BY_2, RCC_D2CFGR_D2PPRE2));
    reg_modify(RCC_D3CFGR, MASK(RCC_D3CFGR_D3PPRE), PUT(APB_BY_2, RCC_D3CFGR_D3PPRE));
    reg_modify(RCC_CFGR, MASK(RCC_CFGR_SW), PUT(SW_PLL1, RCC_CFGR_SW));
    if (!tr_wait_for(RCC_CFGR, MASK(RCC_CFGR_SWS), PUT(SW_PLL1, RCC_CFGR_SWS))) {
        return TR_CLOCK_NO_SWITCH;
    }
    return full_speed ? TR_CLOCK_RATED : TR_CLOCK_REDUCED_REVISION;
}

/* Before revision X a read of the AXI SRAM, where the arena lies, can return wrong data while another one is under way.
 * ES0392, "Reading from AXI SRAM may lead to data read corruption": one read at a time, as ST's own start-up does. */
static void read_axi_sram_one_at_a_time(void)
{
    if (GET(REG(DBGMCU_IDCODE), DBGMCU_IDCODE_REV_ID) < FIRST_SOUND_AXI) {
        REG(AXI_TARG7_FN_MOD) |= MASK(AXI_TARG7_FN_MOD_READ_ISS_OVERRIDE);
    }
}

enum tr_clock_status tr_clock_init(void)
{
    read_axi_sram_one_at_a_time();
    enum tr_clock_status status = to_rated_speed();
    if (status != TR_CLOCK_RATED && status != TR_CLOCK_REDUCED_REVISION) {
        back_to_hsi();
    }
    return status;
}

void tr_clock_read(struct tr_clocks *clocks)
{
    uint32_t select = REG(RCC_PLLCKSELR);
    uint32_t divide = REG(RCC_PLL1DIVR);
    uint32_t d1 = REG(RCC_D1CFGR);
    uint32_t d2 = REG(RCC_D2CFGR);
    uint32_t hsi_hz = HSI_HZ >> GET(REG(RCC_CR), RCC_CR_HSIDIV);
    uint32_t sysclk = hsi_hz;

    if (GET(REG(RCC_CFGR), RCC_CFGR_SWS) == SW_HSE) {
        sysclk = TR_HSE_HZ;
    } else if (GET(REG(RCC_CFGR), RCC_CFGR_SWS) == SW_PLL1) {
        uint32_t source = GET(select, RCC_PLLCKSELR_PLLSRC) == PLLSRC_HSE ? (uint32_t)TR_HSE_HZ : hsi_hz;
        uint32_t m = GET(select, RCC_PLLCKSELR_DIVM1);
        uint32_t vco = m ? source / m * (GET(divide, RCC_PLL1DIVR_DIVN1) + 1u) : 0;
        sysclk = vco / (GET(divide, RCC_PLL1DIVR_DIVP1) + 1u);
    }
    clocks->cpu_hz = sysclk >> tr_ahb_shift(GET(d1, RCC_D1CFGR_D1CPRE));
    uint32_t hclk = clocks->cpu_hz >> tr_ahb_shift(GET(d1, RCC_D1CFGR_HPRE));
    uint32_t shift1 = tr_apb_shift(GET(d2, RCC_D2CFGR_D2PPRE1));
    clocks->apb1_hz = hclk >> shift1;
    clocks->apb2_hz = hclk >> tr_apb_shift(GET(d2, RCC_D2CFGR_D2PPRE2));
    /* TIMPRE = 0: the bus clock when it is not divided, else twice it. */
    clocks->tim2_hz = shift1 ? 2u * clocks->apb1_hz : clocks->apb1_hz;
    clocks->wait_states = GET(REG(FLASH_ACR), FLASH_ACR_LATENCY);
}
