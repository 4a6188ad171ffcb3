/* What the protocol asks of the bench. app/bench.c answers. Enumerations are numbers on the wire:
 * harness/cable/messages.py holds the same ones, and a test compares the two files. */
#ifndef TR_BENCH_H
#define TR_BENCH_H

#include "cbor.h"

#define TR_CHUNK_BYTES 256u
#define TR_REPETITIONS_MAX 64u

enum tr_status {
    TR_STATUS_OK = 0,
    TR_STATUS_NO_INPUT = 1,        /* detail: input bytes loaded so far */
    TR_STATUS_BAD_ARGUMENT = 2,    /* detail: the largest value (LOAD: the only offset) that would have worked */
    TR_STATUS_NO_COUNTER = 3,      /* CYCCNT does not advance */
    TR_STATUS_COUNTER_STOPPED = 4, /* stopped in the middle of too many repetitions; detail: how many */
};

/* Numbers of a HELLO reply, in this order. */
enum tr_hello_number {
    TR_HELLO_CPUID,
    TR_HELLO_DEVICE_ID,
    TR_HELLO_REVISION_ID,
    TR_HELLO_CLOCK_HZ,
    TR_HELLO_WAIT_STATES,
    TR_HELLO_FLAGS,
    TR_HELLO_CLOCK_STATUS,
    TR_HELLO_RESET_CAUSE,
    TR_HELLO_UART_HZ,
    TR_HELLO_ARENA_BYTES,
    TR_HELLO_INPUT_BYTES,
    TR_HELLO_OUTPUT_BYTES,
    TR_HELLO_LAYER_COUNT,
    TR_HELLO_REPETITIONS_MAX,
    TR_HELLO_LAYER_WINDOW,
    TR_HELLO_CHUNK_BYTES,
    TR_HELLO_OVERHEAD_CYCLES,
    TR_HELLO_NUMBERS,
};

enum tr_hello_flag {
    TR_FLAG_ICACHE = 1,
    TR_FLAG_DCACHE = 2,
    TR_FLAG_PREFETCH = 4,
    TR_FLAG_ART = 8,
    TR_FLAG_DWT = 16,   /* CYCCNT was seen to advance */
    TR_FLAG_FPU = 32,
    TR_FLAG_STASH = 64, /* the input is kept outside the arena */
};

struct tr_hello {
    const char *build_digest;
    const char *sources_digest;
    const char *chip;
    uint32_t numbers[TR_HELLO_NUMBERS];
};

enum tr_mode { TR_MODE_WHOLE = 0, TR_MODE_LAYERS = 1 };

struct tr_run {
    uint32_t warmups;
    uint32_t repetitions; /* TR_MODE_LAYERS: 1 */
    uint32_t mode;
    uint32_t first_layer; /* TR_MODE_LAYERS: records a window of layers from here on */
};

struct tr_run_report {
    uint32_t records;   /* samples or layers that can be asked for now */
    uint32_t discarded; /* repetitions that were thrown away because the counter stopped in them */
};

/* With a stash one request does it all. Without one the host paints, loads the input again and measures, twice. */
enum tr_memory_action {
    TR_MEMORY_BOTH = 0,
    TR_MEMORY_PAINT_A = 1,
    TR_MEMORY_PAINT_B = 2,
    TR_MEMORY_MEASURE = 3,
};

struct tr_memory_report {
    uint32_t arena_mark_bytes;
    uint32_t guard_intact;
    uint32_t stack_mark_bytes;
    uint32_t stack_inference_bytes;
    uint32_t stack_reserve_bytes;
};

/* Names the image: harness/images/build.py's digest of everything that went into it. */
extern const char tr_build_digest[];

void tr_bench_hello(struct tr_hello *hello);
enum tr_status tr_bench_load(uint32_t offset, const uint8_t *data, uint32_t size, uint32_t *detail);
enum tr_status tr_bench_input_crc(uint32_t *crc, uint32_t *detail);
enum tr_status tr_bench_run(const struct tr_run *run, struct tr_run_report *report, uint32_t *detail);
/* Record `index` of the last run; the CRC is that of the output (0 for a layer). */
enum tr_status tr_bench_sample(uint32_t index, uint64_t *cycles, uint32_t *crc, uint32_t *detail);
enum tr_status tr_bench_layer(uint32_t index, uint64_t *cycles, uint32_t *detail);
enum tr_status tr_bench_memory(uint32_t action, struct tr_memory_report *report, uint32_t *detail);
/* `size` bytes (at most TR_CHUNK_BYTES) at `offset` of the concatenated outputs. */
enum tr_status tr_bench_output(uint32_t offset, uint32_t size, uint8_t *data, uint32_t *detail);

#endif
