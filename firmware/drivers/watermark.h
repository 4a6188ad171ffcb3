/* How deep the stack went: from reset, and for one call. */
#ifndef TR_WATERMARK_H
#define TR_WATERMARK_H

#include <stdint.h>

/* Start-up paints the stack with this word before the first C function runs. */
#define TR_STACK_PAINT 0xC7C7C7C7u

/* Bytes of stack used at most since reset. */
uint32_t tr_stack_mark(void);

/* Runs fn(arena) and returns the bytes of stack that it used, its own frame and all below. */
uint32_t tr_stack_of(void (*fn)(uint8_t *arena), uint8_t *arena);

/* Bytes reserved for the stack by the linker script. */
uint32_t tr_stack_reserve(void);

#endif
