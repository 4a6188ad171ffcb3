/* Symbolic execution of address arithmetic over one block. */
#include "access.h"
#include "alignment.h"

#include <string.h>

enum { TR_STORES = 24 };

typedef struct {
    tr_address registers[16], fp[32];
    /* Stores so far whose address and value are known: a load of the same address gets that value. */
    struct {
        tr_address at, value;
    } stores[TR_STORES];
    uint32_t store_count;
} values;

static const tr_address UNKNOWN = {.known = 0, .base = TR_NO_TERM, .index = TR_NO_TERM};

static tr_address constant(uint32_t value) {
    return (tr_address){.known = 1, .base = TR_NO_TERM, .index = TR_NO_TERM, .constant = value};
}

static tr_address term(uint16_t number) {
    return (tr_address){.known = 1, .base = number, .index = TR_NO_TERM};
}

static tr_address plus(tr_address a, uint32_t value) {
    a.constant += value;
    return a;
}

static tr_address slot_of(tr_trace *trace, tr_slot_kind kind, tr_address a, tr_address b, uint32_t shift) {
    if (trace->slot_count == TR_SLOTS_DRAFT_MAX) return UNKNOWN;
    trace->slots[trace->slot_count] = (tr_slot){.a = a, .b = b, .kind = (uint8_t)kind, .shift = (uint8_t)shift};
    return term((uint16_t)(TR_FIRST_SLOT + trace->slot_count++));
}

/* a + (b << shift): in place where that is still of an address's form, else as a slot. */
static tr_address sum(tr_trace *trace, tr_address a, tr_address b, uint32_t shift) {
    if (!a.known || !b.known || shift > 31) return UNKNOWN;
    if (b.index != TR_NO_TERM) {
        if (shift != 0 || a.index != TR_NO_TERM || (a.base != TR_NO_TERM && b.base != TR_NO_TERM))
            return slot_of(trace, TR_SLOT_SUM, a, b, shift);
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
    if (a.index != TR_NO_TERM) {
        a.constant -= b.constant << shift;
        return slot_of(trace, TR_SLOT_SUM, a, b, shift);
    }
    a.index = b.base;
    a.shift = (uint8_t)shift;
    return a;
}

static int same(const tr_address *a, const tr_address *b) {
    return a->known && b->known && a->base == b->base && a->index == b->index && a->shift == b->shift &&
           a->constant == b->constant;
}

static tr_address address_of(tr_trace *trace, const tr_insn *i, const values *v) {
    tr_address at = i->base == 15 ? constant((i->pc & ~3u) + 4) : v->registers[i->base & 15u];
    if (i->op == TR_OP_TABLE_BRANCH && i->base == 15) at = constant(i->pc + 4);
    if (i->traits & TR_REGISTER_OFFSET) {
        if (i->rm > 14) return UNKNOWN;
        return sum(trace, at, v->registers[i->rm], i->shift);
    }
    return plus(at, (uint32_t)i->offset);
}

/* What a load brings, as a term that can be had at the block's entry. */
static tr_address loaded(tr_trace *trace, const values *v, const tr_insn *i, tr_address at) {
    if (!at.known) return UNKNOWN;
    for (uint32_t n = v->store_count; i->access_bytes == 4 && n-- > 0;)
        if (same(&v->stores[n].at, &at)) return v->stores[n].value;
    const tr_address result = slot_of(trace, TR_SLOT_LOAD, at, UNKNOWN, 0);
    if (result.known) {
        trace->slots[result.base - TR_FIRST_SLOT].bytes = i->access_bytes;
        trace->slots[result.base - TR_FIRST_SLOT].signs = (i->traits & TR_SIGN_EXTENDS) != 0;
    }
    return result;
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
    if (address->base < TR_FIRST_SLOT) trace->registers |= UINT64_C(1) << address->base;
    if (address->index < TR_FIRST_SLOT) trace->registers |= UINT64_C(1) << address->index;
}

static int is_slot(uint16_t number) { return number != TR_NO_TERM && number >= TR_FIRST_SLOT; }

static void use(uint8_t *used, const tr_address *at) {
    if (is_slot(at->base)) used[at->base - TR_FIRST_SLOT] = 1;
    if (is_slot(at->index)) used[at->index - TR_FIRST_SLOT] = 1;
}

/* Renames the slots of an address; an address whose slot did not fit is no longer known. */
static void rename_slots(tr_trace *trace, tr_address *at, const uint16_t *names) {
    if (is_slot(at->base)) at->base = names[at->base - TR_FIRST_SLOT];
    if (is_slot(at->index)) at->index = names[at->index - TR_FIRST_SLOT];
    const uint16_t last = TR_FIRST_SLOT + TR_SLOTS_MAX - 1;
    if ((at->base != TR_NO_TERM && at->base > last) || (at->index != TR_NO_TERM && at->index > last)) *at = UNKNOWN;
    need(trace, at);
}

/* Slots nobody uses need not be worked out: drops them, keeping the order of the rest. A slot that others are made of
 * comes before them, so that cutting the tail leaves whole chains. */
static void drop_unused_slots(tr_trace *trace) {
    uint8_t used[TR_SLOTS_DRAFT_MAX] = {0};
    uint16_t names[TR_SLOTS_DRAFT_MAX];
    uint32_t kept = 0;
    for (uint32_t n = 0; n < trace->count; n++) use(used, &trace->accesses[n].at);
    for (uint32_t n = trace->slot_count; n-- > 0;) {
        if (!used[n]) continue;
        use(used, &trace->slots[n].a);
        use(used, &trace->slots[n].b);
    }
    for (uint32_t n = 0; n < trace->slot_count; n++) {
        names[n] = (uint16_t)(TR_FIRST_SLOT + kept);
        if (used[n]) trace->slots[kept++] = trace->slots[n];
    }
    trace->slot_count = kept > TR_SLOTS_MAX ? TR_SLOTS_MAX : kept;
    for (uint32_t n = 0; n < trace->slot_count; n++) {
        rename_slots(trace, &trace->slots[n].a, names);
        rename_slots(trace, &trace->slots[n].b, names);
    }
    const uint32_t count = trace->count;
    trace->count = trace->elements = 0;
    for (uint32_t n = 0; n < count; n++) {
        trace->accesses[trace->count] = trace->accesses[n];
        rename_slots(trace, &trace->accesses[trace->count].at, names);
        if (trace->accesses[trace->count].at.known) trace->elements += trace->accesses[trace->count++].words;
        else trace->unknown++;
    }
}

static int is_zero(const tr_address *a) { return a->base == TR_NO_TERM && a->index == TR_NO_TERM && a->constant == 0; }

static tr_address result_of(tr_trace *trace, const tr_insn *i, const values *v) {
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
    case TR_VALUE_ADD_REGISTER: {
        const tr_address a = i->rn == 0xff ? constant(0) : r[i->rn & 15u];
        return i->rn != 15 && i->rm < 15 ? sum(trace, a, r[i->rm], i->shift) : UNKNOWN;
    }
    case TR_VALUE_SUBTRACT_REGISTER:
        if (i->rn > 14 || i->rm > 14 || !r[i->rn].known || !r[i->rm].known) return UNKNOWN;
        return slot_of(trace, TR_SLOT_DIFFERENCE, r[i->rn], r[i->rm], 0);
    case TR_VALUE_MULTIPLY_ADD: {
        const tr_address a = i->ra == 0xff ? constant(0) : r[i->ra & 15u];
        if (i->rn > 14 || i->rm > 14 || !r[i->rn].known || !r[i->rm].known || !a.known) return UNKNOWN;
        const tr_address product = slot_of(trace, TR_SLOT_PRODUCT, r[i->rn], r[i->rm], 0);
        return is_zero(&a) ? product : sum(trace, a, product, 0);
    }
    case TR_VALUE_FROM_FP:
        return v->fp[i->rm & 31u];
    default:
        return UNKNOWN;
    }
}

static void remember_store(values *v, tr_address at, tr_address value) {
    if (!at.known) return;
    const uint32_t slot = v->store_count < TR_STORES ? v->store_count++ : TR_STORES - 1;
    v->stores[slot].at = at;
    v->stores[slot].value = value;
}

void tr_trace_block(tr_trace *trace, tr_alignment *alignment, const tr_insn *insns, uint32_t count) {
    values v;
    memset(&v, 0, sizeof v);
    for (uint16_t n = 0; n < 15; n++) v.registers[n] = term(n);
    v.registers[15] = UNKNOWN;
    for (uint16_t n = 0; n < 32; n++) v.fp[n] = term((uint16_t)(TR_FIRST_FP_TERM + n));
    trace->count = trace->unknown = trace->registers = trace->slot_count = 0;
    for (uint32_t n = 0; n < count; n++) {
        const tr_insn *i = &insns[n];
        const int conditional = (i->traits & TR_CONDITIONAL) && i->op != TR_OP_BRANCH;
        tr_address result = i->value ? result_of(trace, i, &v) : UNKNOWN;
        uint32_t set = 0; /* the register `result` is for */
        if (i->value && i->value != TR_VALUE_TO_FP) set = 1u << (i->rd & 15u);
        tr_address stepped = UNKNOWN, second = UNKNOWN, multi[16];
        memset(multi, 0, sizeof multi);
        if (accesses_memory(i)) {
            const tr_address at = address_of(trace, i, &v);
            if (i->multiple > 1) tr_alignment_access(alignment, n, i->multiple, &at, conditional);
            if (at.known && !conditional) {
                tr_access *access = &trace->accesses[trace->count++];
                access->at = at;
                access->bytes = i->access_bytes;
                access->words = i->count ? i->count : 1;
                access->writes = i->op == TR_OP_STORE || i->op == TR_OP_STORE_DUAL || i->op == TR_OP_STORE_MULTI;
            } else {
                trace->unknown++;
            }
            const int core_load = i->op == TR_OP_LOAD || i->op == TR_OP_LOAD_DUAL;
            if (core_load && i->rd < 15 && !i->fp_writes) {
                result = loaded(trace, &v, i, at);
                set = 1u << i->rd;
                if (i->op == TR_OP_LOAD_DUAL && i->rm < 15) second = loaded(trace, &v, i, plus(at, 4));
            }
            if (!conditional && i->access_bytes == 4 && i->rd < 15 && !i->fp_reads) {
                if (i->op == TR_OP_STORE || i->op == TR_OP_STORE_DUAL) remember_store(&v, at, v.registers[i->rd]);
                if (i->op == TR_OP_STORE_DUAL && i->rm < 15) remember_store(&v, plus(at, 4), v.registers[i->rm]);
            }
            if (i->op == TR_OP_STORE_MULTI && !conditional) {
                uint32_t place = 0;
                for (uint32_t rest = i->data; rest != 0; rest &= rest - 1, place += 4)
                    remember_store(&v, plus(at, place), v.registers[__builtin_ctz(rest)]);
            }
            if (i->op == TR_OP_LOAD_MULTI && at.known && !conditional) {
                uint32_t place = 0;
                const uint32_t list = i->traits & TR_WRITEBACK ? i->writes & ~(1u << i->base) : i->writes;
                for (uint32_t rest = list & 0x7fffu; rest != 0; rest &= rest - 1, place += 4)
                    multi[__builtin_ctz(rest)] = loaded(trace, &v, i, plus(at, place));
            }
            if (i->traits & TR_WRITEBACK && v.registers[i->base].known)
                stepped = plus(v.registers[i->base], (uint32_t)i->step);
        }
        for (uint32_t rest = i->writes & 0x7fffu; rest != 0; rest &= rest - 1) {
            const unsigned r = (unsigned)__builtin_ctz(rest);
            if (conditional) v.registers[r] = UNKNOWN;
            else if (set >> r & 1u) v.registers[r] = result;
            else if (i->op == TR_OP_LOAD_DUAL && r == i->rm) v.registers[r] = second;
            else if ((i->traits & TR_WRITEBACK) && r == i->base) v.registers[r] = stepped;
            else v.registers[r] = i->op == TR_OP_LOAD_MULTI ? multi[r] : UNKNOWN;
        }
        for (uint32_t rest = i->fp_writes; rest != 0; rest &= rest - 1) {
            const unsigned r = (unsigned)__builtin_ctz(rest);
            v.fp[r] = i->value == TR_VALUE_TO_FP && !conditional && i->rn < 15 ? v.registers[i->rn] : UNKNOWN;
        }
    }
    tr_alignment_exits(alignment, v.registers, v.fp);
    drop_unused_slots(trace);
}
