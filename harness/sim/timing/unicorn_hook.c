/* Lets a Unicorn engine announce its blocks to a core of the timing model.
 *
 * Unicorn's functions are found in the library the Python package has loaded already, so nothing of Unicorn is needed to
 * build this file: the few declarations in unicorn.h are ours. Only blocks are hooked. A hook on data accesses would make
 * every access of the engine rebuild the core's state: twenty times slower, and in 2.1.4 it leaves a stale IT state behind.
 */
#include "timing.h"
#include "unicorn.h"

#include <stddef.h>
#include <stdlib.h>

enum {
    REGISTERS = 48, /* r0 to r15, s0 to s31 */
};

/* Peripherals in the architecture's map (Arm DDI 0403, B3.1): reading one could change it, and none holds a pointer. */
static int is_peripheral(uint32_t address) {
    return (address >= 0x40000000u && address < 0x60000000u) || address >= 0xa0000000u;
}

typedef struct {
    tr_core *core;
    void *engine;
    tr_unicorn_functions unicorn;
    int register_ids[REGISTERS];
    size_t hook;
    uint32_t exhausted;
} tr_unicorn;

static int fetch(void *context, uint32_t address, void *destination, uint32_t bytes) {
    tr_unicorn *self = context;
    if (is_peripheral(address)) return -1;
    return self->unicorn.mem_read(self->engine, address, destination, bytes);
}

static void read_registers(void *context, uint64_t mask, uint32_t *values) {
    tr_unicorn *self = context;
    int numbers[REGISTERS], count = 0;
    void *places[REGISTERS];
    for (uint64_t rest = mask & ((UINT64_C(1) << REGISTERS) - 1); rest != 0; rest &= rest - 1) {
        const int n = __builtin_ctzll(rest);
        numbers[count] = self->register_ids[n];
        places[count++] = &values[n];
    }
    self->unicorn.reg_read_batch(self->engine, numbers, places, count);
}

static void on_block(void *engine, uint64_t address, uint32_t bytes, void *context) {
    tr_unicorn *self = context;
    if (tr_core_block(self->core, (uint32_t)address, bytes)) {
        self->exhausted = 1;
        self->unicorn.emu_stop(engine);
    }
}

tr_unicorn *tr_unicorn_attach(int kind, void *engine, const tr_unicorn_functions *functions, const int *register_ids) {
    tr_unicorn *self = calloc(1, sizeof *self);
    if (self == NULL) return NULL;
    self->engine = engine;
    self->unicorn = *functions;
    for (unsigned n = 0; n < REGISTERS; n++) self->register_ids[n] = register_ids[n];
    const tr_host host = {.context = self, .fetch = fetch, .read_registers = read_registers};
    self->core = tr_core_new((tr_core_kind)kind, &host);
    if (self->core == NULL ||
        functions->hook_add(engine, &self->hook, TR_UNICORN_HOOK_BLOCK, (void *)on_block, self, (uint64_t)1,
                            (uint64_t)0) != 0) {
        tr_core_free(self->core);
        free(self);
        return NULL;
    }
    return self;
}

void tr_unicorn_detach(tr_unicorn *self, int engine_lives) {
    if (self == NULL) return;
    if (engine_lives) self->unicorn.hook_del(self->engine, self->hook);
    tr_core_free(self->core);
    free(self);
}

tr_core *tr_unicorn_core(tr_unicorn *self) { return self->core; }

void tr_unicorn_begin_slice(tr_unicorn *self, uint64_t instructions) {
    self->exhausted = 0;
    tr_core_set_budget(self->core, instructions);
}

uint32_t tr_unicorn_exhausted(const tr_unicorn *self) { return self->exhausted; }
