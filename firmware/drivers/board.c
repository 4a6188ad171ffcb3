/* Brings the chip up and reads it back. */
#include "board.h"

#include "bench.h"
#include "cache.h"
#include "chip_registers.h"
#include "clock.h"
#include "core_registers.h"
#include "crc32.h"
#include "cycles.h"
#include "uart.h"

#define BOOT_MAGIC 0x74726163u

extern uint8_t tr_ld_spare_start[], tr_ld_spare_end[];

/* Survives a reset: start-up neither clears nor copies .noinit. */
static struct {
    uint32_t magic;
    uint32_t count;
    uint32_t crc;
} boot __attribute__((section(".noinit")));

static uint32_t reset_cause;
static uint32_t uart_hz;
static enum tr_clock_status clock_status;

/* After a power-on nothing is read: there is nothing to find, and on parts with ECC a word never written is an error. */
static void count_boot(int power_on)
{
    int sound = !power_on && boot.magic == BOOT_MAGIC && boot.crc == tr_crc32(BOOT_MAGIC, &boot.count, sizeof boot.count);

    boot.count = sound ? boot.count + 1u : 1u;
    boot.magic = BOOT_MAGIC;
    boot.crc = tr_crc32(BOOT_MAGIC, &boot.count, sizeof boot.count);
}

void tr_board_init(void)
{
    struct tr_clocks clocks;

#if defined(TR_RCC_RESET_CAUSE)
    reset_cause = REG(TR_RCC_RESET_CAUSE);
    REG(TR_RCC_RESET_CAUSE) |= MASK(TR_RCC_RESET_CAUSE_RMVF);
    count_boot((reset_cause & MASK(TR_RCC_RESET_CAUSE_POR)) != 0);
#else
    count_boot(0);
#endif
    clock_status = tr_clock_init();
    tr_cache_init();
    tr_clock_read(&clocks);
    tr_timer_init(clocks.tim2_hz, clocks.cpu_hz);
    (void)tr_cycles_enable();
    uart_hz = tr_uart_init(clocks.apb1_hz, clocks.apb2_hz);
}

uint32_t tr_board_boot_count(void)
{
    return boot.count;
}

static uint32_t flags(void)
{
    uint32_t set = 0;

#if defined(TR_CORE_M7)
    uint32_t ccr = REG(SCB_CCR);
    set |= ccr & MASK(SCB_CCR_IC) ? TR_FLAG_ICACHE : 0;
    set |= ccr & MASK(SCB_CCR_DC) ? TR_FLAG_DCACHE : 0;
#endif
#if defined(TR_FLASH_ACR_ART)
    uint32_t acr = REG(FLASH_ACR);
    set |= acr & MASK(FLASH_ACR_PRFTEN) ? TR_FLAG_PREFETCH : 0;
    set |= (acr & (TR_FLASH_ACR_ART)) == (TR_FLASH_ACR_ART) ? TR_FLAG_ART : 0;
#endif
    set |= tr_cycles_enable() ? TR_FLAG_DWT : 0;
    uint32_t fpu = MASK(SCB_CPACR_CP10) | MASK(SCB_CPACR_CP11);
    set |= (REG(SCB_CPACR) & fpu) == fpu ? TR_FLAG_FPU : 0;
    return set;
}

void tr_board_read(uint32_t *numbers)
{
    struct tr_clocks clocks;
    uint32_t id = REG(DBGMCU_IDCODE);

    tr_clock_read(&clocks);
    numbers[TR_HELLO_CPUID] = REG(SCB_CPUID);
    numbers[TR_HELLO_DEVICE_ID] = GET(id, DBGMCU_IDCODE_DEV_ID);
    numbers[TR_HELLO_REVISION_ID] = GET(id, DBGMCU_IDCODE_REV_ID);
    numbers[TR_HELLO_CLOCK_HZ] = clocks.cpu_hz;
    numbers[TR_HELLO_WAIT_STATES] = clocks.wait_states;
    numbers[TR_HELLO_FLAGS] = flags();
    numbers[TR_HELLO_CLOCK_STATUS] = (uint32_t)clock_status;
    numbers[TR_HELLO_RESET_CAUSE] = reset_cause;
    numbers[TR_HELLO_UART_HZ] = uart_hz;
}

uint8_t *tr_board_spare(uint32_t *size_bytes)
{
    *size_bytes = (uint32_t)(tr_ld_spare_end - tr_ld_spare_start);
    return tr_ld_spare_start;
}
