#include "graph.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_BUCKETS = 1 << 14,
    NODE_BUCKETS = 1 << 15,
    STATE_BUCKETS = 1 << 12,
    CHUNK_BYTES = 1 << 18,
    NODES_MAX = 1 << 17,
};

typedef struct tr_chunk {
    struct tr_chunk *next;
    size_t used;
} tr_chunk;

/* Memory of the graph, freed all at once. A host without memory for a few megabytes cannot go on. */
static void *allocate(tr_graph *graph, size_t bytes) {
    bytes = (bytes + 15u) & ~(size_t)15u;
    tr_chunk *chunk = graph->chunks;
    if (chunk == NULL || chunk->used + bytes > CHUNK_BYTES) {
        const size_t payload = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        chunk = malloc(sizeof *chunk + 16 + payload);
        if (chunk == NULL) abort();
        chunk->used = 0;
        chunk->next = graph->chunks;
        graph->chunks = chunk;
    }
    unsigned char *start = (unsigned char *)(((uintptr_t)(chunk + 1) + 15u) & ~(uintptr_t)15u);
    void *result = start + chunk->used;
    chunk->used += bytes;
    memset(result, 0, bytes);
    return result;
}

static void free_chunks(tr_graph *graph) {
    while (graph->chunks != NULL) {
        tr_chunk *next = graph->chunks->next;
        free(graph->chunks);
        graph->chunks = next;
    }
}

int tr_graph_init(tr_graph *graph) {
    graph->block_table = calloc(BLOCK_BUCKETS, sizeof *graph->block_table);
    graph->node_table = calloc(NODE_BUCKETS, sizeof *graph->node_table);
    graph->state_table = calloc(STATE_BUCKETS, sizeof *graph->state_table);
    return graph->block_table == NULL || graph->node_table == NULL || graph->state_table == NULL;
}

void tr_graph_free(tr_graph *graph) {
    free_chunks(graph);
    free(graph->block_table);
    free(graph->node_table);
    free(graph->state_table);
}

void tr_graph_forget(tr_graph *graph) {
    free_chunks(graph);
    memset(graph->block_table, 0, BLOCK_BUCKETS * sizeof *graph->block_table);
    memset(graph->node_table, 0, NODE_BUCKETS * sizeof *graph->node_table);
    memset(graph->state_table, 0, STATE_BUCKETS * sizeof *graph->state_table);
    graph->node_count = graph->state_count = 0;
}

int tr_graph_is_full(const tr_graph *graph) { return graph->node_count >= NODES_MAX; }

static uint64_t mix(uint64_t x) {
    x ^= x >> 31;
    x *= UINT64_C(0x9e3779b97f4a7c15);
    return x ^ (x >> 29);
}

static const tr_state *intern(tr_graph *graph, const tr_pipe *pipe) {
    uint64_t hash = pipe->aligned;
    for (size_t n = 0; n < sizeof pipe->u.bytes; n += 8) {
        uint64_t word;
        memcpy(&word, pipe->u.bytes + n, 8);
        hash = mix(hash + word + n);
    }
    tr_state **slot = &graph->state_table[hash & (STATE_BUCKETS - 1)];
    for (const tr_state *state = *slot; state != NULL; state = state->next)
        if (state->hash == hash && memcmp(&state->pipe, pipe, sizeof *pipe) == 0) return state;
    tr_state *state = allocate(graph, sizeof *state);
    state->pipe = *pipe;
    state->hash = hash;
    state->next = *slot;
    *slot = state;
    graph->state_count++;
    return state;
}

static void decode_block(tr_graph *graph, tr_block *block) {
    const uint32_t most = block->bytes / 2 + 1;
    uint8_t *code = malloc(block->bytes + 4u);
    if (code == NULL) abort();
    memset(code, 0, block->bytes + 4u);
    graph->host.fetch(graph->host.context, block->pc, code, block->bytes);
    block->insns = allocate(graph, most * sizeof *block->insns);
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
    block->trace.accesses = allocate(graph, block->count * sizeof *block->trace.accesses);
    block->trace.slots = slots;
    block->alignment.accesses = allocate(graph, block->count * sizeof *block->alignment.accesses);
    tr_trace_block(&block->trace, &block->alignment, block->insns, block->count);
    block->trace.slots = allocate(graph, (block->trace.slot_count + 1) * sizeof *slots);
    memcpy(block->trace.slots, slots, block->trace.slot_count * sizeof *slots);
}

/* Asks for the accesses that no register at the block's entry tells. */
static void watch_block(tr_graph *graph, const tr_block *block) {
    for (uint32_t n = 0; graph->host.watch != NULL && n < block->alignment.count; n++) {
        const tr_aligned_access *access = &block->alignment.accesses[n];
        if (access->watch) graph->translate |= graph->host.watch(graph->host.context, &block->insns[access->insn]);
    }
}

/* `it`: a block may begin inside of an IT block, where the engine went no further at once (the end of a page, of a slice). */
static const tr_block *find_block(tr_graph *graph, uint32_t pc, uint32_t bytes, uint8_t it) {
    tr_block **slot = &graph->block_table[mix((uint64_t)pc << 16 | bytes) & (BLOCK_BUCKETS - 1)];
    for (tr_block *block = *slot; block != NULL; block = block->next)
        if (block->pc == pc && block->bytes == bytes && block->it_before == it) return block;
    tr_block *block = allocate(graph, sizeof *block);
    block->pc = pc;
    block->bytes = bytes;
    block->it_before = it;
    decode_block(graph, block);
    watch_block(graph, block);
    block->next = *slot;
    *slot = block;
    return block;
}

static tr_predictor *predictor_of(tr_graph *graph, uint32_t pc) {
    return &graph->predictors[(pc >> 1) & (TR_PREDICTORS - 1)];
}

static tr_node *find_node(tr_graph *graph, const tr_block *block, const tr_state *before) {
    const uint64_t key = mix((uint64_t)(uintptr_t)block ^ mix((uint64_t)(uintptr_t)before));
    tr_node **slot = &graph->node_table[key & (NODE_BUCKETS - 1)];
    for (tr_node *node = *slot; node != NULL; node = node->next)
        if (node->block == block && node->before == before) return node;
    tr_node *node = allocate(graph, sizeof *node);
    const tr_insn *last = tr_last_insn(block);
    tr_pipe pipe = before->pipe;
    node->block = block;
    node->before = before;
    node->cycles = graph->model->run(block, &pipe);
    pipe.aligned = graph->host.watch != NULL ? tr_aligned_after(&block->alignment, before->pipe.aligned) : 0;
    node->after = intern(graph, &pipe);
    for (uint32_t n = 0; graph->host.watch != NULL && n < block->alignment.count; n++)
        node->unaligned |= (uint8_t)tr_alignment_is_open(&block->alignment.accesses[n], before->pipe.aligned);
    node->count = block->count;
    node->fallthrough = block->pc + block->bytes;
    node->it_after[0] = block->it_after;
    node->divides = block->divides != 0;
    node->accesses = block->trace.count != 0 || block->trace.unknown != 0;
    node->always = (last->traits & TR_ENDS_FLOW) && !(last->traits & TR_CONDITIONAL) && last->op != TR_OP_SYSTEM;
    if (graph->model->predicts && (last->traits & TR_ENDS_FLOW)) {
        node->conditional = (last->traits & TR_CONDITIONAL) != 0;
        node->indirect = !(last->op == TR_OP_BRANCH);
        node->predictor = predictor_of(graph, last->pc);
    }
    node->next = *slot;
    *slot = node;
    graph->node_count++;
    return node;
}

const tr_edge *tr_graph_edge(tr_graph *graph, tr_node *from, unsigned slot, uint32_t pc, uint32_t bytes) {
    const tr_block *block = find_block(graph, pc, bytes, from->it_after[slot >> 1]);
    const tr_insn *last = tr_last_insn(from->block);
    tr_pipe pipe = from->after->pipe;
    uint32_t cycles = 0;
    if (slot & 2u) cycles = graph->model->jump(last, &pipe, &block->insns[0], (int)(slot & 1u));
    else if (last->traits & TR_ENDS_FLOW) cycles = graph->model->fall(last, &pipe, (int)(slot & 1u));
    tr_edge *edge = &from->edges[slot];
    edge->node = find_node(graph, block, intern(graph, &pipe));
    edge->cycles = cycles + edge->node->cycles;
    edge->pc = pc;
    edge->bytes = bytes;
    return edge;
}
