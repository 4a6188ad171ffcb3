/* Symbolic execution of address arithmetic over one block. */
#include "access.h"

#include <string.h>

typedef struct {
    tr_address registers[16];
    /* Stores so far whose address and value are known: a load of the same address gets that value. */
    struct {
        tr_address at, value;
    } stores[8];
    uint32_t store_count;
} values;

static const tr_address UNKNOWN = {0, TR_NO_TERM, TR_NO_TERM, 0, 0};

static tr_address constant(uint32_t value) {
    return (tr_address){.known = 1, .base = TR_NO_TERM, .index = TR_NO_TERM, .constant = value};
}

static tr_address term(uint8_t number) {
    return (tr_address){.known = 1, .base = number, .index = TR_NO_TERM};
}

static tr_address plus(tr_address a, uint32_t value) {
    a.constant += value;
    return a;
}

/* a + (b << shift), if that is still of the form. */
static tr_address sum(tr_address a, tr_address b, uint32_t shift) {
    if (!a.known || !b.known || shift > 31) return UNKNOWN;
    if (b.index != TR_NO_TERM) {
        if (shift != 0 || a.index != TR_NO_TERM || (a.base != TR_NO_TERM && b.base != TR_NO_TERM)) return UNKNOWN;
        b.constant += a.constant;
        if (b.base == TR_NO_TERM) b.base = a.base;
        return b;
    }
    a.constant += b.constant << shift;
    if (b.base == TR_NO_TERM) return a;
    if (a.base == TR_NO_TERM && shift == 0) {
        a.base = b.base;
        return a;
    }
    if (a.index != TR_NO_TERM) return UNKNOWN;
    a.index = b.base;
    a.shift = (uint8_t)shift;
    return a;
}

static int same(const tr_address *a, const tr_address *b) {
    return a->known && b->known && a->base == b->base && a->index == b->index && a->shift == b->shift &&
           a->constant == b->constant;
}

static tr_address address_of(const tr_insn *i, const values *v) {
    tr_address at = i->base == 15 ? constant((i->pc & ~3u) + 4) : v->registers[i->base & 15u];
    if (i->op == TR_OP_TABLE_BRANCH && i->base == 15) at = constant(i->pc + 4);
    if (i->traits & TR_REGISTER_OFFSET) {
        if (i->rm > 14) return UNKNOWN;
        return sum(at, v->registers[i->rm], i->shift);
    }
    return plus(at, (uint32_t)i->offset);
}

/* The word a load brings, as a term that can be had at the block's entry. */
static tr_address loaded_word(tr_trace *trace, const values *v, tr_address at) {
    if (!at.known) return UNKNOWN;
    for (uint32_t n = v->store_count; n-- > 0;)
        if (same(&v->stores[n].at, &at)) return v->stores[n].value;
    if (trace->slot_count == TR_SLOTS_MAX) return UNKNOWN;
    trace->slots[trace->slot_count] = at;
    return term((uint8_t)(16 + trace->slot_count++));
}

static int accesses_memory(const tr_insn *i) {
    switch (i->op) {
    case TR_OP_LOAD: case TR_OP_STORE: case TR_OP_LOAD_DUAL: case TR_OP_STORE_DUAL: case TR_OP_LOAD_MULTI:
    case TR_OP_STORE_MULTI: case TR_OP_TABLE_BRANCH:
        return i->base < 16;
    default:
        return 0;
    }
}

static void need(tr_trace *trace, const tr_address *address) {
    if (address->base < 16) trace->registers |= 1u << address->base;
    if (address->index < 16) trace->registers |= 1u << address->index;
}

/* Slots nobody uses need not be loaded: drops them, keeping the order of the rest. */
static void drop_unused_slots(tr_trace *trace) {
    uint32_t used = 0;
    for (uint32_t n = 0; n < trace->count; n++) {
        const tr_address *at = &trace->accesses[n].at;
        if (at->base != TR_NO_TERM && at->base >= 16) used |= 1u << (at->base - 16);
        if (at->index != TR_NO_TERM && at->index >= 16) used |= 1u << (at->index - 16);
    }
    for (uint32_t n = trace->slot_count; n-- > 0;) {
        if (!(used >> n & 1u)) continue;
        const tr_address *at = &trace->slots[n];
        if (at->base != TR_NO_TERM && at->base >= 16) used |= 1u << (at->base - 16);
        if (at->index != TR_NO_TERM && at->index >= 16) used |= 1u << (at->index - 16);
    }
    uint8_t moved[TR_SLOTS_MAX];
    uint32_t kept = 0;
    for (uint32_t n = 0; n < trace->slot_count; n++) {
        moved[n] = (uint8_t)(16 + kept);
        if (used >> n & 1u) trace->slots[kept++] = trace->slots[n];
    }
    trace->slot_count = kept;
    for (uint32_t n = 0; n < trace->count + kept; n++) {
        tr_address *at = n < trace->count ? &trace->accesses[n].at : &trace->slots[n - trace->count];
        if (at->base != TR_NO_TERM && at->base >= 16) at->base = moved[at->base - 16];
        if (at->index != TR_NO_TERM && at->index >= 16) at->index = moved[at->index - 16];
        need(trace, at);
    }
}

static tr_address result_of(const tr_insn *i, const values *v) {
    const tr_address *r = v->registers;
    switch (i->value) {
    case TR_VALUE_CONSTANT:
        return constant(i->imm);
    case TR_VALUE_HIGH_HALF:
        if (r[i->rd & 15u].known && r[i->rd & 15u].base == TR_NO_TERM && r[i->rd & 15u].index == TR_NO_TERM)
            return constant((r[i->rd & 15u].constant & 0xffffu) | i->imm << 16);
        return UNKNOWN;
    case TR_VALUE_ADD:
        return i->rn < 15 ? plus(r[i->rn], i->imm) : UNKNOWN;
    case TR_VALUE_ADD_REGISTER:
        return i->rn < 15 && i->rm < 15 ? sum(r[i->rn], r[i->rm], i->shift) : UNKNOWN;
    default:
        return UNKNOWN;
    }
}

void tr_trace_block(tr_trace *trace, const tr_insn *insns, uint32_t count) {
    values v;
    memset(&v, 0, sizeof v);
    for (uint8_t n = 0; n < 15; n++) v.registers[n] = term(n);
    v.registers[15] = UNKNOWN;
    trace->count = trace->unknown = trace->registers = trace->slot_count = 0;
    for (uint32_t n = 0; n < count; n++) {
        const tr_insn *i = &insns[n];
        const int conditional = (i->traits & TR_CONDITIONAL) && i->op != TR_OP_BRANCH;
        tr_address result = i->value ? result_of(i, &v) : UNKNOWN;
        uint32_t set = 0; /* the register `result` is for */
        if (i->value) set = 1u << (i->rd & 15u);
        tr_address stepped = UNKNOWN;
        if (accesses_memory(i)) {
            const tr_address at = address_of(i, &v);
            if (at.known && !conditional) {
                tr_access *access = &trace->accesses[trace->count++];
                access->at = at;
                access->bytes = i->access_bytes;
                access->words = i->count ? i->count : 1;
                access->writes = i->op == TR_OP_STORE || i->op == TR_OP_STORE_DUAL || i->op == TR_OP_STORE_MULTI;
            } else {
                trace->unknown++;
            }
            if (i->op == TR_OP_LOAD && i->access_bytes == 4 && i->rd < 15 && !i->fp_writes) {
                result = loaded_word(trace, &v, at);
                set = 1u << i->rd;
            }
            if (i->op == TR_OP_STORE && i->access_bytes == 4 && i->rd < 15 && !i->fp_reads && !conditional && at.known) {
                const uint32_t slot = v.store_count < 8 ? v.store_count++ : 7;
                v.stores[slot].at = at;
                v.stores[slot].value = v.registers[i->rd];
            }
            if (i->traits & TR_WRITEBACK && v.registers[i->base].known)
                stepped = plus(v.registers[i->base], (uint32_t)i->step);
        }
        for (uint32_t rest = i->writes & 0x7fffu; rest != 0; rest &= rest - 1) {
            const unsigned r = (unsigned)__builtin_ctz(rest);
            if (conditional) v.registers[r] = UNKNOWN;
            else if (set >> r & 1u) v.registers[r] = result;
            else if ((i->traits & TR_WRITEBACK) && r == i->base) v.registers[r] = stepped;
            else v.registers[r] = UNKNOWN;
        }
    }
    drop_unused_slots(trace);
}
