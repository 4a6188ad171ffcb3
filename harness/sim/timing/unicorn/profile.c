/* Where cycles go: each executed block's cost, by block, added up by function, with the times at which functions change.
 *
 * A second block hook behind the timing model's: what the model has charged since the last call is the cost of the block
 * that starts now. Nothing here changes a figure.
 */
#include "../instruction.h"
#include "../timing.h"
#include "unicorn.h"

#include <stdlib.h>
#include <string.h>

enum {
    BUCKETS = 1 << 14,
    SP = 13,
};

typedef struct tr_profile_block {
    struct tr_profile_block *next;
    uint32_t pc, bytes, function;
    int32_t deepest;   /* how far below its value at entry SP comes in the block */
    uint8_t moves_sp;  /* in a way that is not followed: look at it when the next block starts */
    uint8_t entry;     /* first block of its function */
    uint16_t ops[TR_OP_COUNT];
    uint64_t count, cycles, instructions;
} tr_profile_block;

typedef struct {
    uint64_t cycles;   /* since the engine was made, when the function came to run */
    uint32_t function; /* index among the starts; the top bit: at its first instruction */
    uint32_t reserved;
} tr_profile_event;

typedef struct {
    uint64_t cycles, instructions, entered;
} tr_profile_function;

/* One passage from the block at `begin` to the block at `end`, of which neither the end's cycles nor its instructions. */
typedef struct {
    uint64_t begin_cycles, begin_instructions, cycles, instructions;
    uint32_t sp, lowest_sp;
} tr_profile_window;

typedef struct {
    void *engine;
    tr_unicorn_functions unicorn;
    tr_core *core;
    size_t hook;
    int sp_register;
    uint64_t cycles, instructions; /* of the core, when the last block had started */
    uint32_t *starts;              /* ascending; function n lies from starts[n] to starts[n + 1] */
    uint32_t functions;
    uint32_t current;
    uint32_t lowest_sp;
    int look_at_sp;
    tr_profile_block *table[BUCKETS];
    tr_profile_event *events;
    uint64_t event_count, events_room, events_most, events_dropped;
    tr_profile_window *windows;
    uint32_t window_count, windows_most, inside;
    uint32_t begin, end, fixed_end; /* `fixed_end` 0: where the function at `begin` returns to */
    int lr_register;
} tr_profile;

static uint32_t function_at(const tr_profile *self, uint32_t pc) {
    uint32_t low = 0, high = self->functions;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (self->starts[middle] <= pc) low = middle;
        else high = middle;
    }
    return low;
}

static void study(tr_profile *self, tr_profile_block *block) {
    uint8_t *code = calloc(1, block->bytes + 4u);
    if (code == NULL) abort();
    if (self->unicorn.mem_read(self->engine, block->pc, code, block->bytes) == 0) {
        uint8_t it = 0;
        int32_t depth = 0;
        for (uint32_t offset = 0; offset + 2 <= block->bytes;) {
            tr_insn insn;
            tr_decode(&insn, block->pc + offset, (uint16_t)(code[offset] | code[offset + 1] << 8),
                      (uint16_t)(code[offset + 2] | code[offset + 3] << 8), &it);
            offset += insn.size;
            block->ops[insn.op]++;
            if (!(insn.writes & 1u << SP)) continue;
            if (insn.base == SP && insn.traits & TR_WRITEBACK) depth += insn.step;
            else if (insn.value == TR_VALUE_ADD && insn.rd == SP && insn.rn == SP) depth += (int32_t)insn.imm;
            else block->moves_sp = 1;
            if (depth < block->deepest) block->deepest = depth;
        }
    }
    free(code);
}

static tr_profile_block *find(tr_profile *self, uint32_t pc, uint32_t bytes) {
    tr_profile_block **slot = &self->table[(pc >> 1 ^ bytes << 6) & (BUCKETS - 1)];
    for (tr_profile_block *block = *slot; block != NULL; block = block->next)
        if (block->pc == pc && block->bytes == bytes) return block;
    tr_profile_block *block = calloc(1, sizeof *block);
    if (block == NULL) abort();
    block->pc = pc;
    block->bytes = bytes;
    block->function = function_at(self, pc);
    block->entry = self->starts[block->function] == pc;
    study(self, block);
    block->next = *slot;
    *slot = block;
    return block;
}

static void record(tr_profile *self, const tr_profile_block *block) {
    if (self->event_count == self->events_room) {
        const uint64_t room = self->events_room ? 2 * self->events_room : 4096;
        if (self->event_count >= self->events_most) {
            self->events_dropped++;
            return;
        }
        tr_profile_event *more = realloc(self->events, room * sizeof *more);
        if (more == NULL) {
            self->events_dropped++;
            return;
        }
        self->events = more;
        self->events_room = room;
    }
    self->events[self->event_count++] = (tr_profile_event){
        .cycles = self->cycles, .function = block->function | (block->entry ? UINT32_C(1) << 31 : 0)};
}

static uint32_t register_value(tr_profile *self, int number) {
    uint32_t value = 0;
    void *place = &value;
    self->unicorn.reg_read_batch(self->engine, &number, &place, 1);
    return value;
}

static uint32_t stack_pointer(tr_profile *self) { return register_value(self, self->sp_register); }

/* Opens and closes windows at the start of a block, whose own cost is not in self->cycles yet. */
static void watch(tr_profile *self, uint32_t address) {
    tr_profile_window *window = &self->windows[self->window_count];
    if (!self->inside) {
        if (address != self->begin) return;
        self->inside = 1;
        self->end = self->fixed_end ? self->fixed_end : register_value(self, self->lr_register) & ~UINT32_C(1);
        window->begin_cycles = self->cycles;
        window->begin_instructions = self->instructions;
        window->sp = window->lowest_sp = stack_pointer(self);
        return;
    }
    /* A function that calls itself returns to the same place with a lower stack. */
    if (address != self->end || (!self->fixed_end && stack_pointer(self) != window->sp)) return;
    window->cycles = self->cycles - window->begin_cycles;
    window->instructions = self->instructions - window->begin_instructions;
    self->inside = 0;
    if (++self->window_count == self->windows_most) self->unicorn.emu_stop(self->engine);
}

static void on_block(void *engine, uint64_t address, uint32_t bytes, void *context) {
    (void)engine;
    tr_profile *self = context;
    const uint64_t instructions = tr_core_instructions(self->core) - self->instructions;
    if (instructions == 0) return; /* not counted: the slice ends before it, or it is announced again */
    const uint64_t cycles = tr_core_cycles(self->core) - self->cycles;
    if (self->window_count < self->windows_most) watch(self, (uint32_t)address);
    tr_profile_block *block = find(self, (uint32_t)address, bytes);
    if (block->function != self->current) {
        record(self, block);
        self->current = block->function;
    }
    block->count++;
    block->cycles += cycles;
    block->instructions += instructions;
    self->cycles += cycles;
    self->instructions += instructions;
    if (block->deepest < 0 || self->look_at_sp) {
        const uint32_t sp = stack_pointer(self) + (uint32_t)block->deepest;
        if (sp < self->lowest_sp) self->lowest_sp = sp;
        if (self->inside && sp < self->windows[self->window_count].lowest_sp)
            self->windows[self->window_count].lowest_sp = sp;
    }
    self->look_at_sp = block->moves_sp;
}

/* `starts` are ascending; the first one is 0, so that every address lies in some function. */
tr_profile *tr_profile_attach(void *engine, const tr_unicorn_functions *functions, tr_core *core, int sp_register,
                              const uint32_t *starts, uint32_t count, uint64_t events_most) {
    tr_profile *self = calloc(1, sizeof *self);
    if (self == NULL) return NULL;
    self->engine = engine;
    self->unicorn = *functions;
    self->core = core;
    self->sp_register = sp_register;
    self->functions = count;
    self->current = UINT32_MAX;
    self->lowest_sp = UINT32_MAX;
    self->events_most = events_most;
    self->cycles = tr_core_cycles(core);
    self->instructions = tr_core_instructions(core);
    self->starts = malloc(count * sizeof *starts);
    if (self->starts != NULL) memcpy(self->starts, starts, count * sizeof *starts);
    if (self->starts == NULL || functions->hook_add(engine, &self->hook, TR_UNICORN_HOOK_BLOCK, (void *)on_block, self,
                                                    (uint64_t)1, (uint64_t)0) != 0) {
        free(self->starts);
        free(self);
        return NULL;
    }
    return self;
}

void tr_profile_detach(tr_profile *self, int engine_lives) {
    if (self == NULL) return;
    if (engine_lives) self->unicorn.hook_del(self->engine, self->hook);
    for (uint32_t n = 0; n < BUCKETS; n++) {
        while (self->table[n] != NULL) {
            tr_profile_block *next = self->table[n]->next;
            free(self->table[n]);
            self->table[n] = next;
        }
    }
    free(self->windows);
    free(self->events);
    free(self->starts);
    free(self);
}

/* Measures up to `count` passages from `begin` to `end`, then stops the engine; `end` 0: the return of a function. */
int tr_profile_watch(tr_profile *self, int lr_register, uint32_t begin, uint32_t end, uint32_t count) {
    free(self->windows);
    self->windows = calloc(count, sizeof *self->windows);
    if (self->windows == NULL) return -1;
    self->lr_register = lr_register;
    self->begin = begin;
    self->fixed_end = end;
    self->window_count = self->inside = 0;
    self->windows_most = count;
    return 0;
}

const tr_profile_window *tr_profile_windows(const tr_profile *self, uint32_t *count, uint32_t *inside) {
    *count = self->window_count;
    *inside = self->inside;
    return self->windows;
}

/* Adds up by function into `functions` (one a start) and by instruction class into `classes` (TR_OP_COUNT of them). */
void tr_profile_sum(const tr_profile *self, tr_profile_function *functions, uint64_t *classes) {
    for (uint32_t n = 0; n < BUCKETS; n++) {
        for (const tr_profile_block *block = self->table[n]; block != NULL; block = block->next) {
            functions[block->function].cycles += block->cycles;
            functions[block->function].instructions += block->instructions;
            if (block->entry) functions[block->function].entered += block->count;
            for (uint32_t op = 0; op < TR_OP_COUNT; op++) classes[op] += block->ops[op] * block->count;
        }
    }
}

uint32_t tr_profile_lowest_sp(const tr_profile *self) { return self->lowest_sp; }

/* Function changes in order; `dropped` counts those that came after the room was used up. */
const tr_profile_event *tr_profile_events(const tr_profile *self, uint64_t *count, uint64_t *dropped) {
    *count = self->event_count;
    *dropped = self->events_dropped;
    return self->events;
}
