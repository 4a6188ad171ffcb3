/* Flash with wait states, ST's accelerator, L1 caches, tightly coupled memory. Sources: penalties.h, README.md. */
#include "memory.h"

#include "penalties.h"

#include <string.h>

static void shape(tr_cache *cache, const tr_cache_shape *wanted) {
    memset(cache, 0, sizeof *cache);
    uint32_t lines = wanted->line_bytes ? wanted->bytes / wanted->line_bytes : 0;
    if (lines == 0) return;
    if (lines > TR_CACHE_LINES_MAX) lines = TR_CACHE_LINES_MAX;
    cache->ways = wanted->ways == 0 || wanted->ways > lines ? lines : wanted->ways;
    cache->sets = lines / cache->ways;
    while (cache->sets & (cache->sets - 1)) cache->sets &= cache->sets - 1; /* a power of two indexes by mask */
    cache->line_shift = (uint32_t)__builtin_ctz(wanted->line_bytes);
}

/* Looks a line up and makes it the set's most recent. A missing one takes the place of the least recent. */
static int touch(tr_cache *cache, uint32_t line) {
    uint32_t *way = &cache->tags[(line & (cache->sets - 1)) * cache->ways];
    const uint32_t tag = line + 1;
    if (way[0] == tag) return 1;
    uint32_t n = 1;
    while (n < cache->ways && way[n] != tag) n++;
    const int hit = n < cache->ways;
    if (!hit) n = cache->ways - 1;
    memmove(way + 1, way, n * sizeof *way);
    way[0] = tag;
    return hit;
}

void tr_memory_reset(tr_memory_system *memory) {
    memset(memory->l1_instruction.tags, 0, sizeof memory->l1_instruction.tags);
    memset(memory->l1_data.tags, 0, sizeof memory->l1_data.tags);
    memset(memory->art_instruction.tags, 0, sizeof memory->art_instruction.tags);
    memset(memory->art_data.tags, 0, sizeof memory->art_data.tags);
    memory->fetch_line = memory->data_line = 0;
    memory->fill_done_cycle = memory->next_line_cycle = 0;
}

void tr_memory_configure(tr_memory_system *memory, const tr_memory *setup) {
    memory->setup = *setup;
    if (memory->setup.region_count > TR_REGIONS_MAX) memory->setup.region_count = TR_REGIONS_MAX;
    shape(&memory->l1_instruction, &setup->l1_instruction);
    shape(&memory->l1_data, &setup->l1_data);
    shape(&memory->art_instruction, &setup->art_instruction);
    shape(&memory->art_data, &setup->art_data);
    tr_memory_reset(memory);
}

static const tr_region *region_of(const tr_memory_system *memory, uint32_t address) {
    for (uint32_t n = 0; n < memory->setup.region_count; n++)
        if (address - memory->setup.regions[n].base < memory->setup.regions[n].bytes) return &memory->setup.regions[n];
    return NULL;
}

static uint32_t miss_cycles(const tr_memory_system *memory, const tr_region *region) {
    return region->first_word_cycles + memory->setup.wait_states * region->wait_state_cycles;
}

/* Behind the accelerator: a jump to a line that is not kept waits; the lines after it come by prefetch. */
static uint32_t fetch_art(tr_memory_system *memory, const tr_region *region, uint32_t pc, uint32_t bytes) {
    const int cached = memory->art_instruction.ways != 0;
    const uint32_t shift = cached ? memory->art_instruction.line_shift : 4;
    const uint32_t last = (pc + bytes - 1) >> shift, wait = miss_cycles(memory, region);
    uint32_t stall = 0;
    for (uint32_t line = pc >> shift; line <= last; line++) {
        if (line + 1 == memory->fetch_line && shift == memory->fetch_shift) continue;
        const int follows = memory->fetch_line == line && shift == memory->fetch_shift;
        memory->fetch_line = line + 1;
        memory->fetch_shift = shift;
        if (follows && memory->setup.prefetch) {
            stall += wait > TR_ART_PREFETCH_HIDES_CYCLES ? wait - TR_ART_PREFETCH_HIDES_CYCLES : 0;
            continue; /* prefetched lines are not kept */
        }
        if (cached && touch(&memory->art_instruction, line)) continue;
        stall += wait;
        memory->fetch_misses++;
    }
    return stall;
}

/* The core fetches ahead of execution, up to a line: the fill of the next line starts when the present one has come, and
 * what the core has to execute meanwhile hides part of it. A jump to a line that is not there waits for all of it. */
static uint32_t fetch_l1(tr_memory_system *memory, const tr_region *region, const tr_fetch *block) {
    tr_cache *cache = &memory->l1_instruction;
    const uint32_t miss = miss_cycles(memory, region), end = block->pc + block->bytes - 1;
    uint32_t stall = 0;
    if (cache->ways == 0) return (end / TR_FETCH_BYTES - block->pc / TR_FETCH_BYTES + 1) * miss;
    const uint32_t shift = cache->line_shift, first = block->pc >> shift, last = end >> shift;
    for (uint32_t line = first; line <= last; line++) {
        const int present = line + 1 == memory->fetch_line && shift == memory->fetch_shift;
        const int restarts = block->jumped && line == first;
        if (present && !restarts) continue;
        const int follows = line == memory->fetch_line && shift == memory->fetch_shift && !restarts;
        memory->fetch_line = line + 1;
        memory->fetch_shift = shift;
        /* When execution would reach the line: the block's cycles are spread evenly over its bytes. */
        const uint32_t start = line << shift > block->pc ? line << shift : block->pc;
        const uint64_t now = block->cycle + stall + (uint64_t)block->cycles * (start - block->pc) / block->bytes;
        const uint32_t words = (((line + 1) << shift) - start + TR_FETCH_BYTES - 1) / TR_FETCH_BYTES;
        if (present || touch(cache, line)) {
            memory->next_line_cycle = now + words;
            continue;
        }
        const uint64_t come = (follows ? memory->next_line_cycle : now) + miss;
        if (come > now) stall += (uint32_t)(come - now);
        memory->next_line_cycle = (come > now ? come : now) + region->line_cycles;
        memory->fetch_misses++;
    }
    return stall;
}

uint32_t tr_memory_fetch(tr_memory_system *memory, const tr_fetch *block) {
    const tr_region *region = region_of(memory, block->pc);
    if (region == NULL || region->kind == TR_ZERO_WAIT) return 0;
    if (region->kind == TR_ART) return fetch_art(memory, region, block->pc, block->bytes);
    return fetch_l1(memory, region, block);
}

/* Brings a line into the data cache of its range. Returns 0 on a hit, else the cycles till its first word is there. */
static uint32_t fill(tr_memory_system *memory, uint32_t address, uint64_t cycle, int for_write) {
    const tr_region *region = region_of(memory, address);
    if (region == NULL || region->kind == TR_ZERO_WAIT || !region->watch_data) return 0;
    tr_cache *cache = region->kind == TR_ART ? &memory->art_data : &memory->l1_data;
    const uint32_t miss = miss_cycles(memory, region);
    if (cache->ways == 0) return miss;
    const uint32_t line = address >> cache->line_shift;
    memory->data_line = line + 1;
    memory->data_shift = cache->line_shift;
    if (touch(cache, line)) return 0;
    memory->data_misses++;
    /* One line fill at a time: a miss that comes before the last beat of the one before waits for it. */
    const uint64_t start = cycle < memory->fill_done_cycle ? memory->fill_done_cycle : cycle;
    memory->fill_done_cycle = start + region->line_cycles + (for_write ? miss / TR_WRITE_FILLS : miss);
    return (uint32_t)(start - cycle) + miss;
}

uint32_t tr_memory_read(tr_memory_system *memory, uint32_t address, uint64_t cycle) {
    return memory->data_line == (address >> memory->data_shift) + 1 ? 0 : fill(memory, address, cycle, 0);
}

void tr_memory_write(tr_memory_system *memory, uint32_t address, uint64_t cycle) {
    if (memory->data_line != (address >> memory->data_shift) + 1) fill(memory, address, cycle, 1);
}
