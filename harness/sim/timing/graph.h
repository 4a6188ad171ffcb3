/* The graph of what a core does: which block runs from which pipeline state, remembered so that each pair is worked out
 * once.
 *
 * A node is a block entered in one pipeline state. Its cost and the state it leaves behind never change, nor does the
 * price of going from it to another block; so execution walks a graph that grows by need, and the walk is one compare
 * and two additions a block. Forgetting the graph (changed code, memory bound) changes no figure.
 */
#ifndef TINYRACK_GRAPH_H
#define TINYRACK_GRAPH_H

#include "model.h"

enum {
    TR_PREDICTORS = 1 << 12,
    TR_EDGES = 4, /* not taken, taken; each as predicted and not */
};

typedef struct tr_state {
    struct tr_state *next; /* in its hash chain, as in the others below */
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
    tr_edge edges[TR_EDGES];
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
    tr_node *next;
};

typedef struct {
    tr_host host;
    const tr_model *model;
    int translate; /* instructions of a block found since this was 0 are watched from now on */
    tr_block **block_table;
    tr_node **node_table;
    tr_state **state_table;
    uint64_t node_count, state_count;
    struct tr_chunk *chunks;
    tr_predictor predictors[TR_PREDICTORS]; /* the machine's: they outlive the nodes that know them */
} tr_graph;

/* `graph` starts as zeros but for its host and model. Not 0: no memory on the host; it can be freed all the same. */
int tr_graph_init(tr_graph *graph);
void tr_graph_free(tr_graph *graph);
/* Nodes, blocks and states are gone; nobody may hold one. */
void tr_graph_forget(tr_graph *graph);
/* Whether it is to be forgotten before it grows on. */
int tr_graph_is_full(const tr_graph *graph);

/* Prices the way from a node to a block and remembers it in `slot`: bit 1 taken, bit 0 mispredicted. */
const tr_edge *tr_graph_edge(tr_graph *graph, tr_node *from, unsigned slot, uint32_t pc, uint32_t bytes);

static inline const tr_insn *tr_last_insn(const tr_block *block) { return &block->insns[block->count - 1]; }

#endif
