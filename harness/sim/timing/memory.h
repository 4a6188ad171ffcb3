/* The memory system in front of a core: which accesses wait, and how long. */
#ifndef TINYRACK_MEMORY_H
#define TINYRACK_MEMORY_H

#include "timing.h"

enum { TR_CACHE_LINES_MAX = 1024 };

/* Tags of a cache, in sets; ways are kept in order of use, the most recent first. */
typedef struct {
    uint32_t sets, ways, line_shift;
    uint32_t tags[TR_CACHE_LINES_MAX]; /* line number + 1, 0 empty */
} tr_cache;

typedef struct {
    tr_memory setup;
    tr_cache l1_instruction, l1_data, art_instruction, art_data;
    uint32_t fetch_line;      /* line the last instruction came from, + 1 */
    uint32_t fetch_shift;     /* of which cache */
    uint64_t next_line_cycle; /* when the core can ask for the line after it */
    uint32_t data_line;       /* line of the last data access that hit or was filled, + 1 */
    uint32_t data_shift;
    uint32_t data_region;
    uint64_t fill_done_cycle; /* when the line fill under way has its last beat */
    uint64_t fetch_misses, data_misses, unaligned;
} tr_memory_system;

void tr_memory_configure(tr_memory_system *memory, const tr_memory *setup);
void tr_memory_reset(tr_memory_system *memory);
/* A block being fetched: it starts at `cycle` and would take `cycles` without a stall. */
typedef struct {
    uint32_t pc, bytes;
    uint64_t cycle;
    uint32_t cycles;
    int jumped; /* reached by a jump, not by running on */
} tr_fetch;

/* Stall of fetching a block. */
uint32_t tr_memory_fetch(tr_memory_system *memory, const tr_fetch *block);
/* Stall of a data read in a watched range, at that point of time. */
uint32_t tr_memory_read(tr_memory_system *memory, uint32_t address, uint64_t cycle);
/* A write: it goes through the store buffer and waits for nothing, but allocates its line and keeps the bus busy. */
void tr_memory_write(tr_memory_system *memory, uint32_t address, uint64_t cycle);

#endif
