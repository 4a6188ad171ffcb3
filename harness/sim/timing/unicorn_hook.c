/* Lets a Unicorn engine announce its blocks to a core of the timing model.
 *
 * Unicorn's functions are found in the library the Python package has loaded already, so nothing of Unicorn is
 * needed to build this file: the few declarations below are ours, of Unicorn's documented C interface.
 */
#include "timing.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int (*hook_add)(void *engine, size_t *hook, int type, void *callback, void *context, uint64_t begin, uint64_t end, ...);
    int (*hook_del)(void *engine, size_t hook);
    int (*emu_stop)(void *engine);
    int (*mem_read)(void *engine, uint64_t address, void *bytes, uint64_t size);
    int (*reg_read)(void *engine, int number, void *value);
    int (*reg_write)(void *engine, int number, const void *value);
} tr_unicorn_functions;

enum { HOOK_BLOCK = 1 << 3, HOOK_MEM_READ = 1 << 10, HOOK_MEM_WRITE = 1 << 11 };

typedef struct {
    tr_core *core;
    void *engine;
    tr_unicorn_functions unicorn;
    int register_ids[17]; /* r0 to r15, xpsr */
    size_t hook;
    size_t data_hooks[TR_REGIONS_MAX];
    tr_region watched[TR_REGIONS_MAX]; /* base and bytes only */
    uint32_t data_hook_count;
    uint32_t exhausted;
} tr_unicorn;

static int fetch(void *context, uint32_t address, void *destination, uint32_t bytes) {
    tr_unicorn *self = context;
    return self->unicorn.mem_read(self->engine, address, destination, bytes);
}

static uint32_t read_register(void *context, unsigned number) {
    tr_unicorn *self = context;
    uint32_t value = 0;
    self->unicorn.reg_read(self->engine, self->register_ids[number & 15u], &value);
    return value;
}

static void on_block(void *engine, uint64_t address, uint32_t bytes, void *context) {
    tr_unicorn *self = context;
    if (tr_core_block(self->core, (uint32_t)address, bytes)) {
        self->exhausted = 1;
        self->unicorn.emu_stop(engine);
    }
}

enum { UC_MEM_WRITE_TYPE = 17 };

/* Unicorn 2.1.4 rebuilds the core's state before it calls a hook on a data access, the IT state included, and leaves it
 * there: when the access is inside an IT block, the next block would run under the condition of this one. The
 * translated rest of this block does not look at it, and a block that ends inside an IT block stores it anew. */
static void clear_it_state(tr_unicorn *self) {
    uint32_t xpsr = 0;
    self->unicorn.reg_read(self->engine, self->register_ids[16], &xpsr);
    if ((xpsr & 0x0600FC00u) == 0) return;
    xpsr &= ~0x0600FC00u;
    self->unicorn.reg_write(self->engine, self->register_ids[16], &xpsr);
}

static void on_access(void *engine, int type, uint64_t address, int bytes, int64_t value, void *context) {
    (void)engine;
    (void)value;
    tr_core *core = ((tr_unicorn *)context)->core;
    if (type == UC_MEM_WRITE_TYPE) tr_core_write(core, (uint32_t)address, (uint32_t)bytes);
    else tr_core_read(core, (uint32_t)address, (uint32_t)bytes);
    if (tr_core_in_it(core)) clear_it_state(context);
}

static void drop_data_hooks(tr_unicorn *self) {
    while (self->data_hook_count > 0) self->unicorn.hook_del(self->engine, self->data_hooks[--self->data_hook_count]);
}

tr_unicorn *tr_unicorn_attach(int kind, void *engine, const tr_unicorn_functions *functions, const int *register_ids) {
    tr_unicorn *self = calloc(1, sizeof *self);
    if (self == NULL) return NULL;
    self->engine = engine;
    self->unicorn = *functions;
    for (unsigned n = 0; n < 17; n++) self->register_ids[n] = register_ids[n];
    const tr_host host = {.context = self, .fetch = fetch, .read_register = read_register};
    self->core = tr_core_new((tr_core_kind)kind, &host);
    if (self->core == NULL ||
        functions->hook_add(engine, &self->hook, HOOK_BLOCK, (void *)on_block, self, (uint64_t)1, (uint64_t)0) != 0) {
        tr_core_free(self->core);
        free(self);
        return NULL;
    }
    return self;
}

void tr_unicorn_detach(tr_unicorn *self, int engine_lives) {
    if (self == NULL) return;
    if (engine_lives) {
        drop_data_hooks(self);
        self->unicorn.hook_del(self->engine, self->hook);
    }
    tr_core_free(self->core);
    free(self);
}

/* Sets the memory system and watches the data accesses it needs: a watched range slows every access of the engine, so
 * none is watched without a penalty to charge. Wait states and cache switches may change while the engine runs; the
 * watched ranges then stay as they are. */
int tr_unicorn_set_memory(tr_unicorn *self, const tr_memory *memory) {
    tr_region wanted[TR_REGIONS_MAX] = {{0}};
    uint32_t count = 0;
    for (uint32_t n = 0; memory->enabled && n < memory->region_count && n < TR_REGIONS_MAX; n++) {
        if (!memory->regions[n].watch_data || memory->regions[n].bytes == 0) continue;
        wanted[count].base = memory->regions[n].base;
        wanted[count++].bytes = memory->regions[n].bytes;
    }
    if (tr_core_set_memory(self->core, memory) != 0) return -1;
    if (count == self->data_hook_count && memcmp(wanted, self->watched, sizeof wanted) == 0) return 0;
    drop_data_hooks(self);
    memcpy(self->watched, wanted, sizeof wanted);
    for (uint32_t n = 0; n < count; n++) {
        const uint64_t begin = wanted[n].base, end = begin + wanted[n].bytes - 1;
        if (self->unicorn.hook_add(self->engine, &self->data_hooks[n], HOOK_MEM_READ | HOOK_MEM_WRITE, (void *)on_access, self, begin, end) != 0)
            return -1;
        self->data_hook_count++;
    }
    return 0;
}

tr_core *tr_unicorn_core(tr_unicorn *self) { return self->core; }

void tr_unicorn_begin_slice(tr_unicorn *self, uint64_t instructions) {
    self->exhausted = 0;
    tr_core_set_budget(self->core, instructions);
}

uint32_t tr_unicorn_exhausted(const tr_unicorn *self) { return self->exhausted; }
