#include "alignment.h"

static uint64_t needs_of_term(uint16_t term, uint32_t shift) {
    if (term == TR_NO_TERM || term == 13 || shift >= 2) return 0; /* bits 0 and 1 of SP are always zero */
    return term < TR_FIRST_SLOT ? UINT64_C(1) << term : TR_NEVER;
}

static uint64_t needs_of(const tr_address *at) {
    if (!at->known || at->constant & 3u) return TR_NEVER;
    return needs_of_term(at->base, 0) | needs_of_term(at->index, at->shift);
}

static int a_multiple_apart(const tr_address *a, const tr_address *b) {
    return a->known && b->known && a->base == b->base && a->index == b->index && a->shift == b->shift &&
           ((a->constant - b->constant) & 3u) == 0;
}

static int is_proven(const tr_alignment *alignment, const tr_address *at) {
    for (uint32_t n = 0; n < alignment->count; n++)
        if (alignment->accesses[n].proves && a_multiple_apart(&alignment->accesses[n].at, at)) return 1;
    return 0;
}

static int is_at_entry(uint16_t term) { return term == TR_NO_TERM || term < TR_FIRST_SLOT; }

void tr_alignment_access(tr_alignment *alignment, uint32_t insn, uint32_t multiple, const tr_address *at, int conditional) {
    const uint64_t needs = needs_of(at);
    if (needs == 0 || is_proven(alignment, at)) return;
    tr_aligned_access *access = &alignment->accesses[alignment->count++];
    *access = (tr_aligned_access){.at = *at, .needs = needs, .insn = insn};
    access->proves = multiple == 4 && !conditional;
    access->watch = !at->known || conditional || multiple != 4 || !is_at_entry(at->base) || !is_at_entry(at->index);
    if (access->watch) return;
    if (at->base != TR_NO_TERM) alignment->registers |= UINT64_C(1) << at->base;
    if (at->index != TR_NO_TERM) alignment->registers |= UINT64_C(1) << at->index;
}

void tr_alignment_exits(tr_alignment *alignment, const tr_address *registers, const tr_address *fp) {
    alignment->proven = 0;
    for (uint32_t n = 0; n < TR_FIRST_SLOT; n++) {
        const tr_address entry = {.known = 1, .base = (uint16_t)n, .index = TR_NO_TERM};
        if (is_proven(alignment, &entry)) alignment->proven |= UINT64_C(1) << n;
        const tr_address *at = n < TR_FIRST_FP_TERM ? &registers[n] : &fp[n - TR_FIRST_FP_TERM];
        alignment->exits[n] = at->known && is_proven(alignment, at) ? 0 : needs_of(at);
    }
    alignment->exits[13] = alignment->exits[15] = TR_NEVER; /* nobody asks */
}
