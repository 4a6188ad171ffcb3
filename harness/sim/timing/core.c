/* A core that executes: it walks the graph of blocks and charges what that does not hold, memory, divides, mispredictions. */
#include "graph.h"
#include "memory.h"
#include "penalties.h"

#include <stdlib.h>
#include <string.h>

struct tr_core {
    tr_node *node; /* entered last */
    uint64_t cycles, instructions, limit, blocks;
    uint64_t fetch_stall_cycles, data_stall_cycles, mispredicted, accesses, untraced;
    tr_memory_system *memory; /* NULL: zero wait everywhere */
    uint32_t unaligned_cycles, unaligned_store_cycles;
    int slice_begun;

    /* Stands for the block executed last when the graph has been forgotten. */
    tr_node root;
    tr_block root_block;
    tr_insn root_insn;
    tr_state root_state;

    tr_graph graph;
};

/* The node entered last stands alone, without a way on that was worked out. */
static void detach(tr_core *core) {
    if (core->node != &core->root) {
        const tr_node *node = core->node;
        core->root_insn = *tr_last_insn(node->block);
        core->root_state = *node->after;
        core->root_state.next = NULL;
        core->root = *node;
    }
    core->root_block = (tr_block){.pc = core->root_insn.pc, .bytes = core->root_insn.size, .count = 1};
    core->root_block.insns = &core->root_insn;
    core->root.block = &core->root_block;
    core->root.after = core->root.before = &core->root_state;
    core->root.next = NULL;
    memset(core->root.edges, 0, sizeof core->root.edges);
    core->node = &core->root;
}

static void forget(tr_core *core) {
    detach(core);
    tr_graph_forget(&core->graph);
}

/* The engine has registers at hand only for the block's inputs; other divides keep the mean. */
static void correct_divides(tr_core *core, const tr_block *block) {
    uint32_t written = 0, values[TR_FIRST_SLOT];
    for (uint32_t n = 0; n < block->count; n++) {
        const tr_insn *insn = &block->insns[n];
        if (insn->op == TR_OP_DIV && !(written & (1u << insn->dividend | 1u << insn->divisor))) {
            core->graph.host.read_registers(
                core->graph.host.context, UINT64_C(1) << insn->dividend | UINT64_C(1) << insn->divisor, values);
            core->cycles += core->graph.model->divide_cycles(
                (insn->traits & TR_UNSIGNED_DIV) != 0, values[insn->dividend], values[insn->divisor]);
            core->cycles -= core->graph.model->divide_mean_cycles;
        }
        written |= insn->writes;
    }
}

static void charge_read(tr_core *core, uint32_t address, uint32_t bytes) {
    uint32_t stall = tr_memory_read(core->memory, address, core->cycles);
    if (address & (bytes - 1)) {
        stall += core->unaligned_cycles;
        core->memory->unaligned++;
    }
    core->cycles += stall;
    core->data_stall_cycles += stall;
}

static void charge_write(tr_core *core, uint32_t address, uint32_t bytes) {
    tr_memory_write(core->memory, address, core->cycles);
    if (address & (bytes - 1)) {
        core->cycles += core->unaligned_store_cycles;
        core->data_stall_cycles += core->unaligned_store_cycles;
        core->memory->unaligned++;
    }
}

static uint32_t slot_value(tr_core *core, const tr_slot *slot, const uint32_t *terms) {
    const uint32_t a = tr_address_value(&slot->a, terms);
    switch (slot->kind) {
    case TR_SLOT_SUM: return a + (tr_address_value(&slot->b, terms) << slot->shift);
    case TR_SLOT_DIFFERENCE: return a - tr_address_value(&slot->b, terms);
    case TR_SLOT_PRODUCT: return a * tr_address_value(&slot->b, terms);
    default: {
        uint8_t bytes[4] = {0};
        core->graph.host.fetch(core->graph.host.context, a, bytes, slot->bytes);
        if (slot->bytes == 1) return slot->signs ? (uint32_t)(int8_t)bytes[0] : bytes[0];
        const uint32_t half = (uint32_t)(bytes[0] | bytes[1] << 8);
        if (slot->bytes == 2) return slot->signs ? (uint32_t)(int16_t)half : half;
        return half | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    }
    }
}

/* Accesses of a block, from the registers it starts with. */
static void charge_accesses(tr_core *core, const tr_trace *trace) {
    uint32_t terms[TR_FIRST_SLOT + TR_SLOTS_MAX];
    if (trace->registers) core->graph.host.read_registers(core->graph.host.context, trace->registers, terms);
    for (uint32_t n = 0; n < trace->slot_count; n++) terms[TR_FIRST_SLOT + n] = slot_value(core, &trace->slots[n], terms);
    for (uint32_t n = 0; n < trace->count; n++) {
        const tr_access *access = &trace->accesses[n];
        uint32_t address = tr_address_value(&access->at, terms);
        for (uint32_t k = 0; k < access->words; k++, address += access->bytes) {
            if (access->writes) charge_write(core, address, access->bytes);
            else charge_read(core, address, access->bytes);
        }
    }
    core->accesses += trace->elements;
    core->untraced += trace->unknown;
}

/* Looks at the addresses that must be aligned and may not be. 1: one is not, and is watched from now on: what the block
 * does before it comes there may yet change it, and if not, the fault is that instruction's. */
static int is_unaligned(tr_core *core, const tr_node *node) {
    const tr_alignment *alignment = &node->block->alignment;
    uint32_t terms[TR_FIRST_SLOT];
    int translate = 0;
    core->graph.host.read_registers(core->graph.host.context, alignment->registers, terms);
    for (uint32_t n = 0; n < alignment->count; n++) {
        const tr_aligned_access *access = &alignment->accesses[n];
        if (tr_alignment_is_open(access, node->before->pipe.aligned) && tr_address_value(&access->at, terms) & 3u)
            translate |= core->graph.host.watch(core->graph.host.context, &node->block->insns[access->insn]);
    }
    return translate;
}

static void charge_fetch(tr_core *core, const tr_fetch *fetch) {
    const uint32_t stall = tr_memory_fetch(core->memory, fetch);
    core->cycles += stall;
    core->fetch_stall_cycles += stall;
}

static unsigned is_mispredicted(const tr_node *from, uint32_t pc, unsigned taken) {
    unsigned wrong = 0;
    if (from->conditional) wrong = (from->predictor->counter >= 2) != taken;
    if (from->indirect && taken) wrong |= from->predictor->target != pc;
    return wrong;
}

static void teach(const tr_node *from, uint32_t pc, unsigned taken) {
    tr_predictor *predictor = from->predictor;
    if (from->conditional) {
        if (taken && predictor->counter < 3) predictor->counter++;
        else if (!taken && predictor->counter > 0) predictor->counter--;
    }
    if (from->indirect && taken) predictor->target = pc;
}

tr_verdict tr_core_block(tr_core *core, uint32_t pc, uint32_t bytes) {
    if (bytes < 2) return TR_RUN;
    const tr_node *from = core->node;
    const unsigned taken = (pc != from->fallthrough) | from->always;
    const unsigned wrong = from->predictor != NULL ? is_mispredicted(from, pc, taken) : 0;
    const unsigned slot = taken << 1 | wrong;
    const tr_edge *edge = &from->edges[slot];
    if (edge->pc != pc || edge->bytes != bytes) {
        if (tr_graph_is_full(&core->graph)) forget(core);
        edge = tr_graph_edge(&core->graph, core->node, slot, pc, bytes);
        from = core->node;
        if (core->graph.translate) {
            core->graph.translate = 0;
            return TR_TRANSLATE;
        }
    }
    tr_node *node = edge->node;
    if (core->instructions + node->count > core->limit && core->slice_begun) return TR_EXHAUSTED;
    if (node->unaligned && is_unaligned(core, node)) return TR_TRANSLATE;
    core->slice_begun = 1;
    core->instructions += node->count;
    core->cycles += edge->cycles;
    core->blocks++;
    core->mispredicted += wrong;
    if (from->predictor != NULL) teach(from, pc, taken);
    core->node = node;
    if (core->memory != NULL) {
        const uint64_t began = core->cycles - node->cycles;
        charge_fetch(core, &(tr_fetch){.pc = pc, .bytes = bytes, .cycle = began, .cycles = node->cycles, .jumped = (int)taken});
        if (node->accesses) charge_accesses(core, &node->block->trace);
    }
    if (node->divides && core->graph.host.read_registers != NULL) correct_divides(core, node->block);
    return TR_RUN;
}

void tr_core_reset(tr_core *core) {
    memset(&core->root, 0, sizeof core->root);
    memset(&core->root_insn, 0, sizeof core->root_insn);
    memset(&core->root_state, 0, sizeof core->root_state);
    memset(core->graph.predictors, 0, sizeof core->graph.predictors);
    core->root_insn.size = 2;
    core->root_insn.op = TR_OP_BRANCH;
    core->root_insn.traits = TR_ENDS_FLOW;
    core->root.fallthrough = 1; /* no block starts there: the first one is jumped to */
    core->graph.model->reset(&core->root_state.pipe);
    core->node = &core->root;
    if (core->memory != NULL) tr_memory_reset(core->memory);
    forget(core);
}

tr_core *tr_core_new(tr_core_kind kind, const tr_host *host) {
    tr_core *core = calloc(1, sizeof *core);
    if (core == NULL) return NULL;
    core->graph.model = kind == TR_CORTEX_M4 ? &tr_model_m4 : &tr_model_m7;
    core->graph.host = *host;
    core->limit = UINT64_C(1) << 62;
    core->unaligned_cycles = kind == TR_CORTEX_M4 ? TR_M4_UNALIGNED_ACCESS_CYCLES : TR_M7_UNALIGNED_LOAD_CYCLES;
    core->unaligned_store_cycles = kind == TR_CORTEX_M4 ? TR_M4_UNALIGNED_ACCESS_CYCLES : TR_M7_UNALIGNED_STORE_CYCLES;
    if (tr_graph_init(&core->graph) != 0) {
        tr_core_free(core);
        return NULL;
    }
    tr_core_reset(core);
    return core;
}

void tr_core_free(tr_core *core) {
    if (core == NULL) return;
    free(core->memory);
    tr_graph_free(&core->graph);
    free(core);
}

int tr_core_set_memory(tr_core *core, const tr_memory *memory) {
    if (!memory->enabled) {
        free(core->memory);
        core->memory = NULL;
        return 0;
    }
    if (core->memory == NULL) core->memory = calloc(1, sizeof *core->memory);
    if (core->memory == NULL) return -1;
    tr_memory_configure(core->memory, memory);
    return 0;
}

void tr_core_invalidate(tr_core *core) { forget(core); }

/* The state of the IT block in which the core stands, as tr_decode wants it. */
static uint8_t it_of(tr_core *core) {
    uint32_t values[TR_XPSR + 1];
    core->graph.host.read_registers(core->graph.host.context, UINT64_C(1) << TR_XPSR, values);
    const uint32_t it = (values[TR_XPSR] >> 25 & 3u) | (values[TR_XPSR] >> 8 & 0xfcu);
    return (uint8_t)((it & 15u) ? it : 0);
}

/* Whoever had the core since the last block may have set its registers, and may have stopped it in the midst of a block. */
static void begin_anywhere(tr_core *core) {
    const tr_node *node = core->node;
    const uint8_t it = core->graph.host.read_registers != NULL ? it_of(core) : 0;
    if (node->after->pipe.aligned == 0 && node->it_after[0] == it && node->it_after[1] == it) return;
    detach(core);
    core->root_state.pipe.aligned = 0;
    core->root.it_after[0] = core->root.it_after[1] = it;
}

void tr_core_set_budget(tr_core *core, uint64_t instructions) {
    const uint64_t most = UINT64_C(1) << 62;
    core->limit = core->instructions + (instructions > most ? most : instructions);
    core->slice_begun = 0;
    begin_anywhere(core);
}

uint64_t tr_core_cycles(const tr_core *core) { return core->cycles; }

uint64_t tr_core_instructions(const tr_core *core) { return core->instructions; }

void tr_core_counters(const tr_core *core, tr_counters *out) {
    memset(out, 0, sizeof *out);
    out->cycles = core->cycles;
    out->instructions = core->instructions;
    out->blocks = core->blocks;
    out->fetch_stall_cycles = core->fetch_stall_cycles;
    out->data_stall_cycles = core->data_stall_cycles;
    if (core->memory != NULL) {
        out->icache_misses = core->memory->fetch_misses;
        out->dcache_misses = core->memory->data_misses;
        out->unaligned = core->memory->unaligned;
    }
    out->mispredicted = core->mispredicted;
    out->accesses = core->accesses;
    out->untraced = core->untraced;
    out->nodes = core->graph.node_count;
    out->states = core->graph.state_count;
}
