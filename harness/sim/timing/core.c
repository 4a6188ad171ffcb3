/* The machine of a core: which block runs from which pipeline state, remembered so that each pair is worked out once.
 *
 * A node is a block entered in one pipeline state. Its cost and the state it leaves behind never change, nor does the
 * price of going from it to another block; so execution walks a graph that grows by need, and the walk is one compare
 * and two additions a block. Forgetting the graph (changed code, memory bound) changes no figure.
 */
#include "memory.h"
#include "model.h"
#include "penalties.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_BUCKETS = 1 << 14,
    NODE_BUCKETS = 1 << 15,
    STATE_BUCKETS = 1 << 12,
    CHUNK_BYTES = 1 << 18,
    NODES_MAX = 1 << 17,
    PREDICTORS = 1 << 12,
    EDGES = 4, /* not taken, taken; each as predicted and not */
};

typedef struct tr_state {
    struct tr_state *next;
    tr_pipe pipe;
    uint64_t hash;
} tr_state;

typedef struct tr_node tr_node;

typedef struct {
    uint32_t pc, bytes;
    uint32_t cycles; /* the way there and the target's own */
    tr_node *node;
} tr_edge;

typedef struct {
    uint8_t counter; /* 0..3, taken from 2 */
    uint32_t target; /* last target of an indirect branch */
} tr_predictor;

struct tr_node {
    tr_edge edges[EDGES];
    uint32_t fallthrough;
    uint32_t count; /* instructions */
    uint8_t conditional, indirect, divides, accesses;
    uint8_t unaligned; /* it has accesses that fault if unaligned, and nothing tells that they are not */
    uint8_t always; /* ends in a jump without condition: it may well go to what follows */
    uint8_t it_after[2]; /* state of the IT block that what follows, or what is jumped to, begins in; 0 none */
    tr_predictor *predictor;
    const tr_block *block;
    const tr_state *before, *after;
    uint32_t cycles;
    tr_node *next; /* in its hash chain */
};

typedef struct tr_chunk {
    struct tr_chunk *next;
    size_t used;
} tr_chunk;

struct tr_core {
    tr_node *node; /* entered last */
    uint64_t cycles, instructions, limit, blocks;
    uint64_t fetch_stall_cycles, data_stall_cycles, mispredicted, accesses, untraced;
    tr_host host;
    const tr_model *model;
    tr_memory_system *memory; /* NULL: zero wait everywhere */
    uint32_t unaligned_cycles, unaligned_store_cycles;
    int slice_begun;
    int translate; /* instructions of the block found last are watched from now on */
    int traced; /* data accesses are told from the code, not announced */

    tr_block **block_table;
    tr_node **node_table;
    tr_state **state_table;
    uint64_t node_count, state_count;
    tr_chunk *chunks;

    /* Stands for the block executed last when the graph has been forgotten. */
    tr_node root;
    tr_block root_block;
    tr_insn root_insn;
    tr_state root_state;

    tr_predictor predictors[PREDICTORS];
};

/* Memory of the graph, freed all at once. A host without memory for a few megabytes cannot go on. */
static void *graph_alloc(tr_core *core, size_t bytes) {
    bytes = (bytes + 15u) & ~(size_t)15u;
    tr_chunk *chunk = core->chunks;
    if (chunk == NULL || chunk->used + bytes > CHUNK_BYTES) {
        const size_t payload = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        chunk = malloc(sizeof *chunk + 16 + payload);
        if (chunk == NULL) abort();
        chunk->used = 0;
        chunk->next = core->chunks;
        core->chunks = chunk;
    }
    unsigned char *start = (unsigned char *)(((uintptr_t)(chunk + 1) + 15u) & ~(uintptr_t)15u);
    void *result = start + chunk->used;
    chunk->used += bytes;
    memset(result, 0, bytes);
    return result;
}

/* The node entered last stands alone, without a way on that was worked out. */
static void detach(tr_core *core) {
    if (core->node != &core->root) {
        const tr_node *node = core->node;
        core->root_insn = node->block->insns[node->block->count - 1];
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

static void graph_forget(tr_core *core) {
    detach(core);
    while (core->chunks != NULL) {
        tr_chunk *next = core->chunks->next;
        free(core->chunks);
        core->chunks = next;
    }
    memset(core->block_table, 0, BLOCK_BUCKETS * sizeof *core->block_table);
    memset(core->node_table, 0, NODE_BUCKETS * sizeof *core->node_table);
    memset(core->state_table, 0, STATE_BUCKETS * sizeof *core->state_table);
    core->node_count = core->state_count = 0;
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 31;
    x *= UINT64_C(0x9e3779b97f4a7c15);
    return x ^ (x >> 29);
}

static const tr_state *intern(tr_core *core, const tr_pipe *pipe) {
    uint64_t hash = pipe->aligned;
    for (size_t n = 0; n < sizeof pipe->u.bytes; n += 8) {
        uint64_t word;
        memcpy(&word, pipe->u.bytes + n, 8);
        hash = mix(hash + word + n);
    }
    tr_state **slot = &core->state_table[hash & (STATE_BUCKETS - 1)];
    for (const tr_state *state = *slot; state != NULL; state = state->next)
        if (state->hash == hash && memcmp(&state->pipe, pipe, sizeof *pipe) == 0) return state;
    tr_state *state = graph_alloc(core, sizeof *state);
    state->pipe = *pipe;
    state->hash = hash;
    state->next = *slot;
    *slot = state;
    core->state_count++;
    return state;
}

static void decode_block(tr_core *core, tr_block *block) {
    const uint32_t most = block->bytes / 2 + 1;
    uint8_t *code = malloc(block->bytes + 4u);
    if (code == NULL) abort();
    memset(code, 0, block->bytes + 4u);
    core->host.fetch(core->host.context, block->pc, code, block->bytes);
    block->insns = graph_alloc(core, most * sizeof *block->insns);
    uint32_t written = 0, offset = 0;
    uint8_t it = block->it_before;
    while (offset + 2 <= block->bytes) {
        const uint16_t first = (uint16_t)(code[offset] | code[offset + 1] << 8);
        const uint16_t second = (uint16_t)(code[offset + 2] | code[offset + 3] << 8);
        tr_insn *insn = &block->insns[block->count++];
        tr_decode(insn, block->pc + offset, first, second, &it);
        offset += insn->size;
        if (insn->op == TR_OP_DIV && !(written & (1u << insn->dividend | 1u << insn->divisor))) block->divides++;
        written |= insn->writes;
    }
    free(code);
    block->it_after = it;
    tr_slot slots[TR_SLOTS_DRAFT_MAX];
    block->trace.accesses = graph_alloc(core, block->count * sizeof *block->trace.accesses);
    block->trace.slots = slots;
    block->alignment.accesses = graph_alloc(core, block->count * sizeof *block->alignment.accesses);
    tr_trace_block(&block->trace, &block->alignment, block->insns, block->count);
    block->trace.slots = graph_alloc(core, (block->trace.slot_count + 1) * sizeof *slots);
    memcpy(block->trace.slots, slots, block->trace.slot_count * sizeof *slots);
}

/* Asks for the accesses that no register at the block's entry tells. */
static void watch_block(tr_core *core, const tr_block *block) {
    for (uint32_t n = 0; core->host.watch != NULL && n < block->alignment.count; n++) {
        const tr_aligned_access *access = &block->alignment.accesses[n];
        if (access->watch) core->translate |= core->host.watch(core->host.context, &block->insns[access->insn]);
    }
}

/* `it`: a block may begin inside of an IT block, where the engine went no further at once (the end of a page, of a slice). */
static const tr_block *find_block(tr_core *core, uint32_t pc, uint32_t bytes, uint8_t it) {
    tr_block **slot = &core->block_table[mix((uint64_t)pc << 16 | bytes) & (BLOCK_BUCKETS - 1)];
    for (tr_block *block = *slot; block != NULL; block = block->next)
        if (block->pc == pc && block->bytes == bytes && block->it_before == it) return block;
    tr_block *block = graph_alloc(core, sizeof *block);
    block->pc = pc;
    block->bytes = bytes;
    block->it_before = it;
    decode_block(core, block);
    watch_block(core, block);
    block->next = *slot;
    *slot = block;
    return block;
}

static tr_predictor *predictor_of(tr_core *core, uint32_t pc) {
    return &core->predictors[(pc >> 1) & (PREDICTORS - 1)];
}

static tr_node *find_node(tr_core *core, const tr_block *block, const tr_state *before) {
    const uint64_t key = mix((uint64_t)(uintptr_t)block ^ mix((uint64_t)(uintptr_t)before));
    tr_node **slot = &core->node_table[key & (NODE_BUCKETS - 1)];
    for (tr_node *node = *slot; node != NULL; node = node->next)
        if (node->block == block && node->before == before) return node;
    tr_node *node = graph_alloc(core, sizeof *node);
    const tr_insn *last = &block->insns[block->count - 1];
    tr_pipe pipe = before->pipe;
    node->block = block;
    node->before = before;
    node->cycles = core->model->run(block, &pipe);
    pipe.aligned = core->host.watch != NULL ? tr_aligned_after(&block->alignment, before->pipe.aligned) : 0;
    node->after = intern(core, &pipe);
    for (uint32_t n = 0; core->host.watch != NULL && n < block->alignment.count; n++)
        node->unaligned |= (uint8_t)tr_alignment_is_open(&block->alignment.accesses[n], before->pipe.aligned);
    node->count = block->count;
    node->fallthrough = block->pc + block->bytes;
    node->it_after[0] = block->it_after;
    node->divides = block->divides != 0;
    node->accesses = block->trace.count != 0 || block->trace.unknown != 0;
    node->always = (last->traits & TR_ENDS_FLOW) && !(last->traits & TR_CONDITIONAL) && last->op != TR_OP_SYSTEM;
    if (core->model->predicts && (last->traits & TR_ENDS_FLOW)) {
        node->conditional = (last->traits & TR_CONDITIONAL) != 0;
        node->indirect = !(last->op == TR_OP_BRANCH);
        node->predictor = predictor_of(core, last->pc);
    }
    node->next = *slot;
    *slot = node;
    core->node_count++;
    return node;
}

/* Prices the way from the present node to a block and remembers it in `slot`. */
static tr_edge *find_edge(tr_core *core, unsigned slot, uint32_t pc, uint32_t bytes) {
    if (core->node_count >= NODES_MAX) graph_forget(core);
    tr_node *from = core->node;
    const tr_block *block = find_block(core, pc, bytes, from->it_after[slot >> 1]);
    const tr_insn *last = &from->block->insns[from->block->count - 1];
    tr_pipe pipe = from->after->pipe;
    uint32_t cycles = 0;
    if (slot & 2u) cycles = core->model->jump(last, &pipe, &block->insns[0], (int)(slot & 1u));
    else if (last->traits & TR_ENDS_FLOW) cycles = core->model->fall(last, &pipe, (int)(slot & 1u));
    tr_edge *edge = &from->edges[slot];
    edge->node = find_node(core, block, intern(core, &pipe));
    edge->cycles = cycles + edge->node->cycles;
    edge->pc = pc;
    edge->bytes = bytes;
    return edge;
}

/* The engine has registers at hand only for the block's inputs; other divides keep the mean. */
static void correct_divides(tr_core *core, const tr_block *block) {
    uint32_t written = 0, values[TR_FIRST_SLOT];
    for (uint32_t n = 0; n < block->count; n++) {
        const tr_insn *insn = &block->insns[n];
        if (insn->op == TR_OP_DIV && !(written & (1u << insn->dividend | 1u << insn->divisor))) {
            core->host.read_registers(
                core->host.context, UINT64_C(1) << insn->dividend | UINT64_C(1) << insn->divisor, values);
            core->cycles += core->model->divide_cycles(
                (insn->traits & TR_UNSIGNED_DIV) != 0, values[insn->dividend], values[insn->divisor]);
            core->cycles -= core->model->divide_mean_cycles;
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
        core->host.fetch(core->host.context, a, bytes, slot->bytes);
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
    if (trace->registers) core->host.read_registers(core->host.context, trace->registers, terms);
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
    core->host.read_registers(core->host.context, alignment->registers, terms);
    for (uint32_t n = 0; n < alignment->count; n++) {
        const tr_aligned_access *access = &alignment->accesses[n];
        if (tr_alignment_is_open(access, node->before->pipe.aligned) && tr_address_value(&access->at, terms) & 3u)
            translate |= core->host.watch(core->host.context, &node->block->insns[access->insn]);
    }
    return translate;
}

tr_verdict tr_core_block(tr_core *core, uint32_t pc, uint32_t bytes) {
    const tr_node *from = core->node;
    const unsigned taken = (pc != from->fallthrough) | from->always;
    unsigned slot = taken << 1;
    if (from->predictor != NULL) {
        unsigned wrong = 0;
        if (from->conditional) wrong = (from->predictor->counter >= 2) != taken;
        if (from->indirect && taken) wrong |= from->predictor->target != pc;
        slot |= wrong;
    }
    if (bytes < 2) return TR_RUN;
    const tr_edge *edge = &from->edges[slot];
    if (edge->pc != pc || edge->bytes != bytes) {
        edge = find_edge(core, slot, pc, bytes);
        from = core->node;
        if (core->translate) {
            core->translate = 0;
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
    if (from->predictor != NULL) {
        tr_predictor *predictor = from->predictor;
        core->mispredicted += slot & 1u;
        if (from->conditional) {
            if (taken && predictor->counter < 3) predictor->counter++;
            else if (!taken && predictor->counter > 0) predictor->counter--;
        }
        if (from->indirect && taken) predictor->target = pc;
    }
    core->node = node;
    if (core->memory != NULL) {
        const tr_fetch fetch = {
            .pc = pc, .bytes = bytes, .cycle = core->cycles - node->cycles, .cycles = node->cycles, .jumped = (int)taken};
        const uint32_t stall = tr_memory_fetch(core->memory, &fetch);
        core->cycles += stall;
        core->fetch_stall_cycles += stall;
    }
    if (node->accesses && core->memory != NULL && core->traced) charge_accesses(core, &node->block->trace);
    if (node->divides && core->host.read_registers != NULL) correct_divides(core, node->block);
    return TR_RUN;
}

void tr_core_read(tr_core *core, uint32_t address, uint32_t bytes) {
    if (core->memory == NULL || core->traced) return;
    core->accesses++;
    charge_read(core, address, bytes);
}

void tr_core_write(tr_core *core, uint32_t address, uint32_t bytes) {
    if (core->memory == NULL || core->traced) return;
    core->accesses++;
    charge_write(core, address, bytes);
}

void tr_core_reset(tr_core *core) {
    memset(&core->root, 0, sizeof core->root);
    memset(&core->root_insn, 0, sizeof core->root_insn);
    memset(&core->root_state, 0, sizeof core->root_state);
    memset(core->predictors, 0, sizeof core->predictors);
    core->root_insn.size = 2;
    core->root_insn.op = TR_OP_BRANCH;
    core->root_insn.traits = TR_ENDS_FLOW;
    core->root.fallthrough = 1; /* no block starts there: the first one is jumped to */
    core->model->reset(&core->root_state.pipe);
    core->node = &core->root;
    if (core->memory != NULL) tr_memory_reset(core->memory);
    graph_forget(core);
}

tr_core *tr_core_new(tr_core_kind kind, const tr_host *host) {
    tr_core *core = calloc(1, sizeof *core);
    if (core == NULL) return NULL;
    core->model = kind == TR_CORTEX_M4 ? &tr_model_m4 : &tr_model_m7;
    core->host = *host;
    core->limit = UINT64_C(1) << 62;
    core->unaligned_cycles = kind == TR_CORTEX_M4 ? TR_M4_UNALIGNED_ACCESS_CYCLES : TR_M7_UNALIGNED_LOAD_CYCLES;
    core->unaligned_store_cycles = kind == TR_CORTEX_M4 ? TR_M4_UNALIGNED_ACCESS_CYCLES : TR_M7_UNALIGNED_STORE_CYCLES;
    core->block_table = calloc(BLOCK_BUCKETS, sizeof *core->block_table);
    core->node_table = calloc(NODE_BUCKETS, sizeof *core->node_table);
    core->state_table = calloc(STATE_BUCKETS, sizeof *core->state_table);
    if (core->block_table == NULL || core->node_table == NULL || core->state_table == NULL) {
        tr_core_free(core);
        return NULL;
    }
    tr_core_reset(core);
    return core;
}

void tr_core_free(tr_core *core) {
    if (core == NULL) return;
    while (core->chunks != NULL) {
        tr_chunk *next = core->chunks->next;
        free(core->chunks);
        core->chunks = next;
    }
    free(core->memory);
    free(core->block_table);
    free(core->node_table);
    free(core->state_table);
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
    core->traced = memory->trace_data != 0;
    tr_memory_configure(core->memory, memory);
    return 0;
}

void tr_core_invalidate(tr_core *core) { graph_forget(core); }

/* The state of the IT block in which the core stands, as tr_decode wants it. */
static uint8_t it_of(tr_core *core) {
    uint32_t values[TR_XPSR + 1];
    core->host.read_registers(core->host.context, UINT64_C(1) << TR_XPSR, values);
    const uint32_t it = (values[TR_XPSR] >> 25 & 3u) | (values[TR_XPSR] >> 8 & 0xfcu);
    return (uint8_t)((it & 15u) ? it : 0);
}

/* Whoever had the core since the last block may have set its registers, and may have stopped it in the midst of a block. */
static void begin_anywhere(tr_core *core) {
    const tr_node *node = core->node;
    const uint8_t it = core->host.read_registers != NULL ? it_of(core) : 0;
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
    out->nodes = core->node_count;
    out->states = core->state_count;
}
