/* Lets a Unicorn engine announce its blocks to a core of the timing model.
 *
 * Unicorn's functions are found in the library the Python package has loaded already, so nothing of Unicorn is needed to
 * build this file: the few declarations in unicorn.h are ours. Only blocks are hooked. A hook on data accesses would make
 * every access of the engine rebuild the core's state: twenty times slower, and in 2.1.4 it leaves a stale IT state behind.
 */
#include "../instruction.h"
#include "../timing.h"
#include "unicorn.h"

#include <stddef.h>
#include <stdlib.h>

enum {
    REGISTERS = TR_XPSR + 1,
    PC = 15,
    ALWAYS = 14,
};

#define NOWHERE 0xf0000000u /* nothing answers there */

/* Peripherals in the architecture's map (Arm DDI 0403, B3.1): reading one could change it, and none holds a pointer. */
static int is_peripheral(uint32_t address) {
    return (address >= 0x40000000u && address < 0x60000000u) || address >= 0xa0000000u;
}

struct watched;

typedef struct {
    tr_core *core;
    void *engine;
    tr_unicorn_functions unicorn;
    int register_ids[REGISTERS];
    size_t hook;
    uint32_t exhausted;
    struct watched *watched;
    const struct watched *unaligned; /* what the slice was stopped for */
    uint32_t base;                   /* of that, if it was taken away */
} tr_unicorn;

/* An instruction whose address is looked at each time it is about to execute. */
typedef struct watched {
    struct watched *next;
    tr_unicorn *owner;
    tr_insn insn;
    size_t hook;
} watched;

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

static uint32_t read_register(tr_unicorn *self, int n) {
    uint32_t value = 0;
    void *place = &value;
    self->unicorn.reg_read_batch(self->engine, &self->register_ids[n], &place, 1);
    return value;
}

/* Condition codes of Arm DDI 0403, A7.3. */
static int passes(uint32_t condition, uint32_t xpsr) {
    const uint32_t n = xpsr >> 31, z = xpsr >> 30 & 1u, c = xpsr >> 29 & 1u, v = xpsr >> 28 & 1u;
    uint32_t result;
    switch (condition >> 1) {
    case 0: result = z; break;
    case 1: result = c; break;
    case 2: result = n; break;
    case 3: result = v; break;
    case 4: result = c && !z; break;
    case 5: result = n == v; break;
    case 6: result = n == v && !z; break;
    default: return 1;
    }
    return result != (condition & 1u);
}

static void on_watched(void *engine, uint64_t address, uint32_t bytes, void *context) {
    const watched *w = context;
    (void)address, (void)bytes;
    const uint32_t base = w->insn.base == PC ? (w->insn.pc & ~3u) + 4 : read_register(w->owner, w->insn.base);
    if (((base + (uint32_t)w->insn.offset) & (w->insn.multiple - 1u)) == 0) return;
    if (!passes(w->insn.condition, read_register(w->owner, TR_XPSR))) return;
    w->owner->unaligned = w;
    w->owner->base = base;
    if (w->insn.condition != ALWAYS) { /* the engine does not stop inside of an IT block, but for a fault it does */
        const uint32_t nowhere = NOWHERE;
        w->owner->unicorn.reg_write(engine, w->owner->register_ids[w->insn.base], &nowhere);
    }
    w->owner->unicorn.emu_stop(engine);
}

static int watch(void *context, const tr_insn *insn) {
    tr_unicorn *self = context;
    for (const watched *w = self->watched; w != NULL; w = w->next)
        if (w->insn.pc == insn->pc) return 0;
    watched *w = calloc(1, sizeof *w);
    if (w == NULL) abort();
    w->owner = self;
    w->insn = *insn;
    if (self->unicorn.hook_add(self->engine, &w->hook, TR_UNICORN_HOOK_CODE, (void *)on_watched, w, (uint64_t)insn->pc,
                               (uint64_t)insn->pc) != 0)
        abort();
    w->next = self->watched;
    self->watched = w;
    return 1;
}

static void watch_nothing(tr_unicorn *self, int engine_lives) {
    while (self->watched != NULL) {
        watched *next = self->watched->next;
        if (engine_lives) self->unicorn.hook_del(self->engine, self->watched->hook);
        free(self->watched);
        self->watched = next;
    }
}

static void on_block(void *engine, uint64_t address, uint32_t bytes, void *context) {
    tr_unicorn *self = context;
    switch (tr_core_block(self->core, (uint32_t)address, bytes)) {
    case TR_RUN:
        return;
    case TR_EXHAUSTED:
        self->exhausted = 1;
        self->unicorn.emu_stop(engine);
        return;
    case TR_TRANSLATE: {
        const uint32_t again = (uint32_t)address | 1u;
        self->unicorn.ctl(engine, TR_UNICORN_CTL_TB_REMOVE_CACHE, address, address + bytes);
        self->unicorn.reg_write(engine, self->register_ids[PC], &again); /* leaves the block it is in */
        return;
    }
    }
}

tr_unicorn *tr_unicorn_attach(int kind, void *engine, const tr_unicorn_functions *functions, const int *register_ids) {
    tr_unicorn *self = calloc(1, sizeof *self);
    if (self == NULL) return NULL;
    self->engine = engine;
    self->unicorn = *functions;
    for (unsigned n = 0; n < REGISTERS; n++) self->register_ids[n] = register_ids[n];
    const tr_host host = {.context = self, .fetch = fetch, .read_registers = read_registers, .watch = watch};
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
    watch_nothing(self, engine_lives);
    if (engine_lives) self->unicorn.hook_del(self->engine, self->hook);
    tr_core_free(self->core);
    free(self);
}

tr_core *tr_unicorn_core(tr_unicorn *self) { return self->core; }

void tr_unicorn_begin_slice(tr_unicorn *self, uint64_t instructions) {
    self->exhausted = 0;
    self->unaligned = NULL;
    tr_core_set_budget(self->core, instructions);
}

uint32_t tr_unicorn_exhausted(const tr_unicorn *self) { return self->exhausted; }

/* Whether the slice ended for an instruction whose address has to be aligned and is not. If so, puts the engine before it,
 * with the registers of then. */
uint32_t tr_unicorn_rewind_to_unaligned(tr_unicorn *self) {
    if (self->unaligned == NULL) return 0;
    const tr_insn *insn = &self->unaligned->insn;
    const uint32_t pc = insn->pc | 1u;
    self->unicorn.reg_write(self->engine, self->register_ids[insn->base], &self->base);
    self->unicorn.reg_write(self->engine, self->register_ids[PC], &pc);
    return 1;
}

void tr_unicorn_invalidate(tr_unicorn *self) {
    watch_nothing(self, 1);
    self->unaligned = NULL;
    tr_core_invalidate(self->core);
}
