/* Runs the model and measures it. No hardware is touched here but through drivers/: the host tests compile this file. */
#include "bench.h"

#include "board.h"
#include "crc32.h"
#include "cycles.h"
#include "model.h"
#include "watermark.h"

/* Set by harness/images/build.py. */
const char tr_build_digest[] = TR_BUILD_DIGEST;

#define GUARD_BYTES 256u

/* A repetition whose counter and slow timer differ by more was disturbed. Both are read within tens of cycles of each
 * other; cache misses between the reads make it a few hundred. */
#define TOLERANCE_CYCLES 1024u

/* A debugger stops the counter once, when it disconnects. */
#define DISCARDS_MAX 8u

/* 64-bit words for records when there is no spare RAM: 4 repetitions, or a window of 8 layers. */
#define FEW_RECORDS 8u

/* One struct, so that the guard follows the arena's very last byte whatever the size. 32: a cache line. */
struct arena {
    uint8_t bytes[TE_ARENA_BYTES];
    uint8_t guard[GUARD_BYTES];
};
static struct arena tr_arena __attribute__((section(".arena"), aligned(32)));

static uint64_t few_records[FEW_RECORDS];
static uint64_t *records; /* samples: cycles and CRC in turn; layers: cycles */
static uint32_t records_capacity;
static uint32_t samples_count;
static uint32_t layers_count;
static uint32_t layers_first;
static uint8_t *stash; /* null: the input is loaded into the arena and lost by a run */
static uint32_t loaded_bytes;
static uint8_t painted; /* what the arena and the guard were last filled with */

static void copy(uint8_t *to, const uint8_t *from, uint32_t size)
{
    /* Word by word through volatile: the compiler must not call memcpy, which counts as the model's flash. Both sides
     * of a stash copy are aligned alike unless the model's offset is odd; then bytes do. */
    uint32_t i = 0;

    if ((((uintptr_t)to | (uintptr_t)from) & 3u) == 0) {
        for (; i + 4u <= size; i += 4u) {
            *(volatile uint32_t *)(void *)(to + i) = *(const volatile uint32_t *)(const void *)(from + i);
        }
    }
    for (; i < size; i++) {
        ((volatile uint8_t *)to)[i] = from[i];
    }
}

static void fill(uint8_t *to, uint8_t value, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        ((volatile uint8_t *)to)[i] = value;
    }
}

static void no_layer(uint8_t *arena)
{
    (void)arena;
}

static void find_room(void)
{
    uint32_t size;
    uint8_t *spare = tr_board_spare(&size);
    uint32_t words = 2u * TR_REPETITIONS_MAX > TE_LAYER_COUNT ? 2u * TR_REPETITIONS_MAX : TE_LAYER_COUNT;

    records = few_records;
    records_capacity = FEW_RECORDS;
    if (size >= 8u * words) {
        records = (uint64_t *)(void *)spare;
        records_capacity = words;
        spare += 8u * words;
        size -= 8u * words;
    }
    stash = size >= TE_INPUT_BYTES ? spare : 0;
}

/* Copies the piece [offset, offset + size) of the concatenated buffers `io` between `data` and the arena. */
static void move(const te_io *io, uint32_t count, uint32_t offset, uint32_t size, uint8_t *data, int into_arena)
{
    uint32_t start = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t end = start + io[i].bytes;
        uint32_t from = offset > start ? offset : start;
        uint32_t to = offset + size < end ? offset + size : end;
        if (from < to) {
            uint8_t *in_arena = tr_arena.bytes + io[i].offset + (from - start);
            if (into_arena) {
                copy(in_arena, data + (from - offset), to - from);
            } else {
                copy(data + (from - offset), in_arena, to - from);
            }
        }
        start = end;
    }
}

static void prepare_input(void)
{
    if (stash != 0) {
        move(te_inputs, TE_INPUT_COUNT, 0, TE_INPUT_BYTES, stash, 1);
    }
}

static uint32_t output_crc(void)
{
    uint32_t crc = 0;

    for (uint32_t i = 0; i < TE_OUTPUT_COUNT; i++) {
        crc = tr_crc32(crc, tr_arena.bytes + te_outputs[i].offset, te_outputs[i].bytes);
    }
    return crc;
}

void tr_bench_hello(struct tr_hello *hello)
{
    if (records == 0) {
        find_room();
    }
    hello->build_digest = tr_build_digest;
    hello->sources_digest = TE_SOURCES_DIGEST;
    hello->chip = TR_CHIP_NAME;
    tr_board_read(hello->numbers);
    hello->numbers[TR_HELLO_FLAGS] |= stash != 0 ? TR_FLAG_STASH : 0;
    hello->numbers[TR_HELLO_ARENA_BYTES] = TE_ARENA_BYTES;
    hello->numbers[TR_HELLO_INPUT_BYTES] = TE_INPUT_BYTES;
    hello->numbers[TR_HELLO_OUTPUT_BYTES] = TE_OUTPUT_BYTES;
    hello->numbers[TR_HELLO_LAYER_COUNT] = TE_LAYER_COUNT;
    hello->numbers[TR_HELLO_REPETITIONS_MAX] =
        records_capacity / 2u < TR_REPETITIONS_MAX ? records_capacity / 2u : TR_REPETITIONS_MAX;
    hello->numbers[TR_HELLO_LAYER_WINDOW] = records_capacity;
    hello->numbers[TR_HELLO_CHUNK_BYTES] = TR_CHUNK_BYTES;
    /* The second call finds both functions in the caches. */
    (void)tr_cycles_of(no_layer, tr_arena.bytes);
    hello->numbers[TR_HELLO_OVERHEAD_CYCLES] = tr_cycles_of(no_layer, tr_arena.bytes);
}

enum tr_status tr_bench_load(uint32_t offset, const uint8_t *data, uint32_t size, uint32_t *detail)
{
    if (offset == 0) {
        loaded_bytes = 0;
    }
    *detail = loaded_bytes;
    if (offset != loaded_bytes || size > TE_INPUT_BYTES - loaded_bytes) {
        return TR_STATUS_BAD_ARGUMENT;
    }
    if (stash != 0) {
        copy(stash + offset, data, size);
    } else {
        /* move writes the arena from `data` only. */
        move(te_inputs, TE_INPUT_COUNT, offset, size, (uint8_t *)(uintptr_t)data, 1);
    }
    loaded_bytes += size;
    *detail = loaded_bytes;
    return TR_STATUS_OK;
}

static enum tr_status need_input(uint32_t *detail)
{
    *detail = loaded_bytes;
    return loaded_bytes == TE_INPUT_BYTES ? TR_STATUS_OK : TR_STATUS_NO_INPUT;
}

enum tr_status tr_bench_input_crc(uint32_t *crc, uint32_t *detail)
{
    if (need_input(detail) != TR_STATUS_OK) {
        return TR_STATUS_NO_INPUT;
    }
    *crc = 0;
    if (stash != 0) {
        *crc = tr_crc32(0, stash, TE_INPUT_BYTES);
    } else {
        for (uint32_t i = 0; i < TE_INPUT_COUNT; i++) {
            *crc = tr_crc32(*crc, tr_arena.bytes + te_inputs[i].offset, te_inputs[i].bytes);
        }
    }
    return TR_STATUS_OK;
}

/* Cycles of one call in 64 bits. CYCCNT gives the low 32 and the slow timer says how often it wrapped. False when the
 * two do not agree: the counter, or the core, was stopped on the way. */
static int measure(void (*fn)(uint8_t *arena), uint64_t *cycles)
{
    uint32_t start = tr_timer_ticks();
    uint32_t low = tr_cycles_of(fn, tr_arena.bytes);
    uint64_t by_timer = (uint64_t)(uint32_t)(tr_timer_ticks() - start) * TR_TICK_CYCLES;
    uint64_t wraps = by_timer + 0x80000000u < low ? 0 : (by_timer + 0x80000000u - low) >> 32;
    uint64_t total = (wraps << 32) + low;
    uint64_t difference = total > by_timer ? total - by_timer : by_timer - total;

    *cycles = total;
    return difference <= TOLERANCE_CYCLES && tr_cycles_enabled();
}

static int repeat_whole(uint32_t index)
{
    uint64_t cycles;

    if (!measure(te_invoke, &cycles)) {
        return 0;
    }
    records[2u * index] = cycles;
    records[2u * index + 1u] = output_crc();
    return 1;
}

static int repeat_layers(uint32_t first)
{
    for (uint32_t i = 0; i < TE_LAYER_COUNT; i++) {
        uint64_t cycles;
        if (!measure(te_layers[i], &cycles)) {
            return 0;
        }
        if (i >= first && i - first < records_capacity) {
            records[i - first] = cycles;
        }
    }
    return 1;
}

enum tr_status tr_bench_run(const struct tr_run *run, struct tr_run_report *report, uint32_t *detail)
{
    uint32_t most = records_capacity / 2u < TR_REPETITIONS_MAX ? records_capacity / 2u : TR_REPETITIONS_MAX;
    enum tr_status status = need_input(detail);

    report->records = 0;
    report->discarded = 0;
    if (status != TR_STATUS_OK) {
        return status;
    }
    if (run->mode == TR_MODE_LAYERS) {
        most = 1;
    }
    if (stash == 0 && run->warmups + (uint64_t)run->repetitions > 1u) {
        *detail = 1; /* one run, and the input is gone */
        return TR_STATUS_BAD_ARGUMENT;
    }
    if (run->mode > TR_MODE_LAYERS || run->repetitions == 0 || run->repetitions > most ||
        (run->mode == TR_MODE_LAYERS && run->first_layer >= TE_LAYER_COUNT)) {
        *detail = run->mode == TR_MODE_LAYERS ? TE_LAYER_COUNT - 1u : most;
        return TR_STATUS_BAD_ARGUMENT;
    }
    samples_count = 0;
    layers_count = 0;
    for (uint32_t i = 0; i < run->warmups; i++) {
        prepare_input();
        te_invoke(tr_arena.bytes);
    }
    for (uint32_t done = 0; done < run->repetitions;) {
        if (!tr_cycles_enable()) {
            return TR_STATUS_NO_COUNTER;
        }
        prepare_input();
        uint32_t saved = tr_mask_interrupts();
        int sound = run->mode == TR_MODE_WHOLE ? repeat_whole(done) : repeat_layers(run->first_layer);
        tr_unmask_interrupts(saved);
        if (stash == 0) {
            loaded_bytes = 0;
        }
        if (sound) {
            done++;
            continue;
        }
        report->discarded++;
        if (stash == 0 || report->discarded >= DISCARDS_MAX) {
            *detail = report->discarded;
            return TR_STATUS_COUNTER_STOPPED;
        }
    }
    if (run->mode == TR_MODE_WHOLE) {
        samples_count = run->repetitions;
        report->records = samples_count;
    } else {
        uint32_t rest = TE_LAYER_COUNT - run->first_layer;
        layers_first = run->first_layer;
        layers_count = rest < records_capacity ? rest : records_capacity;
        report->records = layers_count;
    }
    return TR_STATUS_OK;
}

enum tr_status tr_bench_sample(uint32_t index, uint64_t *cycles, uint32_t *crc, uint32_t *detail)
{
    if (index >= samples_count) {
        *detail = samples_count;
        return TR_STATUS_BAD_ARGUMENT;
    }
    *cycles = records[2u * index];
    *crc = (uint32_t)records[2u * index + 1u];
    return TR_STATUS_OK;
}

enum tr_status tr_bench_layer(uint32_t index, uint64_t *cycles, uint32_t *detail)
{
    if (index < layers_first || index - layers_first >= layers_count) {
        *detail = layers_first + layers_count;
        return TR_STATUS_BAD_ARGUMENT;
    }
    *cycles = records[index - layers_first];
    return TR_STATUS_OK;
}

/* Complementary: no byte that inference writes can look unwritten both times. */
static const uint8_t patterns[2] = {0xA5u, 0x5Au};

static void paint(uint8_t pattern)
{
    fill(tr_arena.bytes, pattern, TE_ARENA_BYTES);
    fill(tr_arena.guard, pattern, GUARD_BYTES);
    painted = pattern;
}

/* One run on a painted arena. The mark is the last byte that no longer holds the paint, plus one. */
static void run_painted(struct tr_memory_report *report)
{
    uint32_t mark = TE_ARENA_BYTES;

    prepare_input();
    uint32_t stack = tr_stack_of(te_invoke, tr_arena.bytes);
    for (uint32_t i = 0; i < GUARD_BYTES; i++) {
        report->guard_intact &= tr_arena.guard[i] == painted;
    }
    while (mark > 0 && tr_arena.bytes[mark - 1u] == painted) {
        mark--;
    }
    if (mark > report->arena_mark_bytes) {
        report->arena_mark_bytes = mark;
    }
    if (stack > report->stack_inference_bytes) {
        report->stack_inference_bytes = stack;
    }
}

enum tr_status tr_bench_memory(uint32_t action, struct tr_memory_report *report, uint32_t *detail)
{
    report->arena_mark_bytes = 0;
    report->guard_intact = 1;
    report->stack_inference_bytes = 0;
    report->stack_mark_bytes = tr_stack_mark();
    report->stack_reserve_bytes = tr_stack_reserve();
    if (action == TR_MEMORY_PAINT_A || action == TR_MEMORY_PAINT_B) {
        paint(patterns[action == TR_MEMORY_PAINT_B]);
        loaded_bytes = stash != 0 ? loaded_bytes : 0;
        return TR_STATUS_OK;
    }
    if (action > TR_MEMORY_MEASURE || (action == TR_MEMORY_BOTH && stash == 0)) {
        *detail = TR_MEMORY_MEASURE;
        return TR_STATUS_BAD_ARGUMENT;
    }
    if (need_input(detail) != TR_STATUS_OK) {
        return TR_STATUS_NO_INPUT;
    }
    if (action == TR_MEMORY_MEASURE) {
        run_painted(report);
        loaded_bytes = stash != 0 ? loaded_bytes : 0;
    } else {
        for (uint32_t i = 0; i < 2u; i++) {
            paint(patterns[i]);
            run_painted(report);
        }
    }
    report->stack_mark_bytes = tr_stack_mark();
    return TR_STATUS_OK;
}

enum tr_status tr_bench_output(uint32_t offset, uint32_t size, uint8_t *data, uint32_t *detail)
{
    if (offset > TE_OUTPUT_BYTES || size > TE_OUTPUT_BYTES - offset) {
        *detail = TE_OUTPUT_BYTES;
        return TR_STATUS_BAD_ARGUMENT;
    }
    move(te_outputs, TE_OUTPUT_COUNT, offset, size, data, 0);
    return TR_STATUS_OK;
}
