/* Both generations of ST's USART: v1 (SR, DR; F4) and v2 (ISR, ICR, RDR, TDR; F7, H7). */
#include "uart.h"

#include "chip_registers.h"

#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#define UART_BASE CONCAT(CONCAT(USART, TR_UART_NUMBER), _BASE)
#define UART_ON_APB2 (TR_UART_NUMBER == 1 || TR_UART_NUMBER == 6)

#if defined(TR_FAMILY_F4)
#define STATUS_OFFSET USART_OFFSET_SR
#define STATUS_RXNE MASK(USART_SR_RXNE)
#define STATUS_TXE MASK(USART_SR_TXE)
#define STATUS_ERRORS (MASK(USART_SR_ORE) | MASK(USART_SR_NF) | MASK(USART_SR_FE) | MASK(USART_SR_PE))
#define RX_OFFSET USART_OFFSET_DR
#define TX_OFFSET USART_OFFSET_DR
#else
#define STATUS_OFFSET USART_OFFSET_ISR
#define STATUS_RXNE MASK(USART_ISR_RXNE)
#define STATUS_TXE MASK(USART_ISR_TXE)
#define STATUS_ERRORS (MASK(USART_ISR_ORE) | MASK(USART_ISR_NF) | MASK(USART_ISR_FE) | MASK(USART_ISR_PE))
#define RX_OFFSET USART_OFFSET_RDR
#define TX_OFFSET USART_OFFSET_TDR
#endif

/* At 921,600 baud a byte takes 11 us: at most about 5,300 cycles at 480 MHz, under 1,000 polls. */
#define WRITE_POLLS 1000000u

static void pin_init(uint32_t port, uint32_t pin, uint32_t function)
{
    enum { MODE_ALTERNATE = 2, SPEED_HIGH = 2, PULL_UP = 1 };
    uint32_t base = GPIOA_BASE + GPIO_STRIDE * port;
    uint32_t afr = base + (pin < 8u ? GPIO_OFFSET_AFRL : GPIO_OFFSET_AFRH);

    REG(TR_RCC_GPIOEN) |= MASK(TR_RCC_GPIOEN_GPIOAEN) << port; /* one bit a port, in order */
    (void)REG(TR_RCC_GPIOEN);
    reg_modify(afr, TR_MASK_(4u * (pin & 7u), 4u), TR_PUT_(function, 4u * (pin & 7u), 4u));
    reg_modify(base + GPIO_OFFSET_OSPEEDR, TR_MASK_(2u * pin, 2u), TR_PUT_(SPEED_HIGH, 2u * pin, 2u));
    /* A pulled-up input is idle, not garbage, while nothing is plugged in. */
    reg_modify(base + GPIO_OFFSET_PUPDR, TR_MASK_(2u * pin, 2u), TR_PUT_(PULL_UP, 2u * pin, 2u));
    reg_modify(base + GPIO_OFFSET_MODER, TR_MASK_(2u * pin, 2u), TR_PUT_(MODE_ALTERNATE, 2u * pin, 2u));
}

uint32_t tr_uart_init(uint32_t apb1_hz, uint32_t apb2_hz)
{
    /* After a reset the kernel clock is the bus clock on all families (DCKCFGR2, D2CCIP2R = 0). */
    uint32_t kernel_hz = UART_ON_APB2 ? apb2_hz : apb1_hz;

    pin_init(TR_UART_TX_PORT, TR_UART_TX_PIN, TR_UART_TX_AF);
    pin_init(TR_UART_RX_PORT, TR_UART_RX_PIN, TR_UART_RX_AF);
#if TR_UART_NUMBER == 1
    REG(RCC_APB2ENR) |= MASK(RCC_APB2ENR_USART1EN);
    (void)REG(RCC_APB2ENR);
#elif TR_UART_NUMBER == 6
    REG(RCC_APB2ENR) |= MASK(RCC_APB2ENR_USART6EN);
    (void)REG(RCC_APB2ENR);
#elif TR_UART_NUMBER == 2
    REG(TR_RCC_APB1EN) |= MASK(TR_RCC_APB1EN_USART2EN);
    (void)REG(TR_RCC_APB1EN);
#else
    REG(TR_RCC_APB1EN) |= MASK(TR_RCC_APB1EN_USART3EN);
    (void)REG(TR_RCC_APB1EN);
#endif
    REG(UART_BASE + USART_OFFSET_CR1) = 0;
    /* Oversampling by 16: the divider is the plain quotient in both generations. */
    REG(UART_BASE + USART_OFFSET_BRR) = (kernel_hz + TR_UART_BAUD / 2u) / TR_UART_BAUD;
    REG(UART_BASE + USART_OFFSET_CR1) = MASK(USART_CR1_UE) | MASK(USART_CR1_TE) | MASK(USART_CR1_RE);
    return kernel_hz;
}

int tr_uart_read(void)
{
    uint32_t status = REG(UART_BASE + STATUS_OFFSET);

    if (status & STATUS_ERRORS) {
#if defined(TR_FAMILY_F4)
        /* v1 clears its error flags by reading SR, then DR; the byte in DR is still good on an overrun. */
        return (int)(REG(UART_BASE + RX_OFFSET) & 0xFFu);
#else
        REG(UART_BASE + USART_OFFSET_ICR) =
            MASK(USART_ICR_ORECF) | MASK(USART_ICR_NCF) | MASK(USART_ICR_FECF) | MASK(USART_ICR_PECF);
#endif
    }
    return (status & STATUS_RXNE) ? (int)(REG(UART_BASE + RX_OFFSET) & 0xFFu) : -1;
}

void tr_uart_write(uint8_t byte)
{
    for (uint32_t polls = 0; polls < WRITE_POLLS; polls++) {
        if (REG(UART_BASE + STATUS_OFFSET) & STATUS_TXE) {
            REG(UART_BASE + TX_OFFSET) = byte;
            return;
        }
    }
}
