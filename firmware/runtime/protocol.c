/* The protocol's state: the session (nonce, last seq) and the last reply, which a repeated seq gets again. */
#include "protocol.h"

#include "bench.h"
#include "frame.h"

/* The largest reply is HELLO: three texts of at most 66, 66 and 18 bytes and 17 numbers of at most 5. */
#define TX_PAYLOAD_BYTES 304u

/* Records a reply: at most 9 + 5 bytes each. */
#define SAMPLES_PER_REPLY 16u
#define LAYERS_PER_REPLY 24u

static struct {
    struct tr_decoder decoder;
    uint8_t tx[TX_PAYLOAD_BYTES + TR_FRAME_TAIL];
    uint16_t tx_size;
    uint8_t open; /* a HELLO was heard */
    uint8_t crashed;
    uint32_t boot;
    uint32_t seq;
    uint64_t nonce;
    void (*put)(uint8_t byte);
} state;

static void put_envelope(struct tr_writer *writer, uint32_t items, uint32_t kind)
{
    tr_put_array(writer, 5u + items);
    tr_put_uint(writer, TR_PROTOCOL_VERSION);
    tr_put_uint(writer, kind);
    tr_put_uint(writer, state.nonce);
    tr_put_uint(writer, state.seq);
    tr_put_uint(writer, state.boot);
}

static struct tr_writer tx_writer(void)
{
    struct tr_writer writer = {.data = state.tx, .limit = TX_PAYLOAD_BYTES};
    return writer;
}

static void send_tx(void)
{
    tr_frame_send(state.tx, state.tx_size, state.put);
}

/* Built outside tx, which holds the last reply. The host then knows that there is nothing to say again for a while. */
static void send_accepted(uint64_t nonce, uint32_t seq)
{
    uint8_t data[40u + TR_FRAME_TAIL];
    struct tr_writer writer = {.data = data, .limit = 40u};

    tr_put_array(&writer, 5u);
    tr_put_uint(&writer, TR_PROTOCOL_VERSION);
    tr_put_uint(&writer, TR_KIND_ACCEPTED);
    tr_put_uint(&writer, nonce);
    tr_put_uint(&writer, seq);
    tr_put_uint(&writer, state.boot);
    tr_frame_send(data, writer.size, state.put);
}

/* Built outside tx: it must not displace the last reply. */
static void send_error(uint64_t nonce, uint32_t seq, uint32_t code, uint32_t detail)
{
    uint8_t data[40u + TR_FRAME_TAIL];
    struct tr_writer writer = {.data = data, .limit = 40u};

    tr_put_array(&writer, 7u);
    tr_put_uint(&writer, TR_PROTOCOL_VERSION);
    tr_put_uint(&writer, TR_KIND_ERROR);
    tr_put_uint(&writer, nonce);
    tr_put_uint(&writer, seq);
    tr_put_uint(&writer, state.boot);
    tr_put_uint(&writer, code);
    tr_put_uint(&writer, detail);
    tr_frame_send(data, writer.size, state.put);
}

static void reply_status(struct tr_writer *writer, uint32_t kind, enum tr_status status, uint32_t detail)
{
    put_envelope(writer, 2u, kind);
    tr_put_uint(writer, (uint32_t)status);
    tr_put_uint(writer, detail);
}

/* Replies with the numbers, or with the status and its detail. */
static void reply_numbers(struct tr_writer *writer, uint32_t kind, enum tr_status status, uint32_t detail,
                          const uint32_t *numbers, uint32_t count)
{
    if (status != TR_STATUS_OK) {
        reply_status(writer, kind, status, detail);
        return;
    }
    put_envelope(writer, 1u + count, kind);
    tr_put_uint(writer, TR_STATUS_OK);
    for (uint32_t i = 0; i < count; i++) {
        tr_put_uint(writer, numbers[i]);
    }
}

static void reply_hello(struct tr_writer *writer)
{
    struct tr_hello hello;

    tr_bench_hello(&hello);
    put_envelope(writer, 4u + TR_HELLO_NUMBERS, TR_KIND_HELLO);
    tr_put_uint(writer, TR_STATUS_OK);
    tr_put_text(writer, hello.build_digest);
    tr_put_text(writer, hello.sources_digest);
    tr_put_text(writer, hello.chip);
    for (uint32_t i = 0; i < TR_HELLO_NUMBERS; i++) {
        tr_put_uint(writer, hello.numbers[i]);
    }
}

/* SAMPLES: cycles, crc, cycles, crc ...; LAYERS: cycles, cycles ... */
static void reply_records(struct tr_writer *writer, uint32_t kind, uint32_t first, uint32_t count)
{
    uint32_t most = kind == TR_KIND_SAMPLES ? SAMPLES_PER_REPLY : LAYERS_PER_REPLY;
    uint32_t detail = most;
    enum tr_status status = count != 0 && count <= most ? TR_STATUS_OK : TR_STATUS_BAD_ARGUMENT;
    uint64_t cycles;
    uint32_t crc = 0;

    /* The last one first: when that exists, all do. */
    if (status == TR_STATUS_OK) {
        uint32_t last = first > 0xFFFFFFFFu - count ? 0xFFFFFFFFu : first + count - 1u;
        status = kind == TR_KIND_SAMPLES ? tr_bench_sample(last, &cycles, &crc, &detail)
                                         : tr_bench_layer(last, &cycles, &detail);
    }
    if (status != TR_STATUS_OK) {
        reply_status(writer, kind, status, detail);
        return;
    }
    put_envelope(writer, 1u + (kind == TR_KIND_SAMPLES ? 2u * count : count), kind);
    tr_put_uint(writer, TR_STATUS_OK);
    for (uint32_t i = first; i < first + count; i++) {
        if (kind == TR_KIND_SAMPLES) {
            (void)tr_bench_sample(i, &cycles, &crc, &detail);
            tr_put_uint(writer, cycles);
            tr_put_uint(writer, crc);
        } else {
            (void)tr_bench_layer(i, &cycles, &detail);
            tr_put_uint(writer, cycles);
        }
    }
}

static void reply_output(struct tr_writer *writer, uint32_t offset, uint32_t size)
{
    uint32_t detail = 0;
    /* The string's head is 1 to 3 bytes, by its size: the data goes straight to where it belongs. */
    struct tr_writer probe = *writer;

    put_envelope(&probe, 2u, TR_KIND_OUTPUT);
    tr_put_uint(&probe, TR_STATUS_OK);
    uint8_t *data = probe.data + probe.size + (size < 24u ? 1u : size <= 0xFFu ? 2u : 3u);
    enum tr_status status =
        size <= TR_CHUNK_BYTES ? tr_bench_output(offset, size, data, &detail) : TR_STATUS_BAD_ARGUMENT;
    if (status != TR_STATUS_OK) {
        reply_status(writer, TR_KIND_OUTPUT, status, size <= TR_CHUNK_BYTES ? detail : TR_CHUNK_BYTES);
        return;
    }
    tr_put_bytes(&probe, data, size); /* writes the head; each byte of data lands on itself */
    *writer = probe;
}

/* Executes and writes the reply; 0 when the request is malformed. Nothing is executed in that case. */
static int execute(struct tr_writer *writer, struct tr_reader *reader, uint32_t kind, uint32_t arguments)
{
    uint32_t detail = 0;
    enum tr_status status;

    switch (kind) {
    case TR_KIND_HELLO:
        if (arguments != 0 || reader->at != reader->end) {
            return 0;
        }
        reply_hello(writer);
        return 1;
    case TR_KIND_LOAD: {
        uint32_t size;
        uint32_t offset = tr_get_u32(reader);
        const uint8_t *data = tr_get_bytes(reader, &size);
        if (arguments != 2u || reader->bad || reader->at != reader->end) {
            return 0;
        }
        status = tr_bench_load(offset, data, size, &detail);
        uint32_t numbers[] = {detail};
        reply_numbers(writer, kind, status, detail, numbers, 1);
        return 1;
    }
    case TR_KIND_INPUT_CRC: {
        uint32_t numbers[] = {0};
        if (arguments != 0 || reader->at != reader->end) {
            return 0;
        }
        status = tr_bench_input_crc(&numbers[0], &detail);
        reply_numbers(writer, kind, status, detail, numbers, 1);
        return 1;
    }
    case TR_KIND_RUN: {
        struct tr_run run;
        struct tr_run_report report;
        run.warmups = tr_get_u32(reader);
        run.repetitions = tr_get_u32(reader);
        run.mode = tr_get_u32(reader);
        run.first_layer = tr_get_u32(reader);
        if (arguments != 4u || reader->bad || reader->at != reader->end) {
            return 0;
        }
        send_accepted(state.nonce, state.seq);
        status = tr_bench_run(&run, &report, &detail);
        uint32_t numbers[] = {report.records, report.discarded};
        reply_numbers(writer, kind, status, detail, numbers, 2);
        return 1;
    }
    case TR_KIND_SAMPLES:
    case TR_KIND_LAYERS:
    case TR_KIND_OUTPUT: {
        uint32_t first = tr_get_u32(reader);
        uint32_t count = tr_get_u32(reader);
        if (arguments != 2u || reader->bad || reader->at != reader->end) {
            return 0;
        }
        if (kind == TR_KIND_OUTPUT) {
            reply_output(writer, first, count);
        } else {
            reply_records(writer, kind, first, count);
        }
        return 1;
    }
    case TR_KIND_MEMORY: {
        struct tr_memory_report report;
        uint32_t action = tr_get_u32(reader);
        if (arguments != 1u || reader->bad || reader->at != reader->end) {
            return 0;
        }
        send_accepted(state.nonce, state.seq);
        status = tr_bench_memory(action, &report, &detail);
        uint32_t numbers[] = {report.arena_mark_bytes, report.guard_intact, report.stack_mark_bytes,
                              report.stack_inference_bytes, report.stack_reserve_bytes};
        reply_numbers(writer, kind, status, detail, numbers, 5);
        return 1;
    }
    default:
        return 0;
    }
}

static void handle(const uint8_t *payload, size_t size)
{
    struct tr_reader reader = {.at = payload, .end = payload + size};
    uint32_t items = tr_get_array(&reader);
    uint32_t version = tr_get_u32(&reader);
    uint32_t kind = tr_get_u32(&reader);
    uint64_t nonce = tr_get_uint(&reader);
    uint32_t seq = tr_get_u32(&reader);

    if (reader.bad || items < 4u) {
        send_error(0, 0, TR_ERROR_MALFORMED, 0);
        return;
    }
    if (version != TR_PROTOCOL_VERSION) {
        send_error(nonce, seq, TR_ERROR_VERSION, TR_PROTOCOL_VERSION);
        return;
    }
    int known = state.open && nonce == state.nonce;
    if (known && seq == state.seq) {
        send_tx(); /* the reply was lost; it is not executed twice */
        return;
    }
    if (kind != TR_KIND_HELLO) {
        if (!known) {
            send_error(nonce, seq, TR_ERROR_NONCE, 0);
            return;
        }
        if (seq != state.seq + 1u) {
            send_error(nonce, seq, TR_ERROR_SEQ, state.seq + 1u);
            return;
        }
        if (kind > TR_KIND_OUTPUT || kind == 0) {
            send_error(nonce, seq, TR_ERROR_KIND, 0);
            return;
        }
    }
    uint64_t nonce_before = state.nonce;
    uint32_t seq_before = state.seq;
    struct tr_writer writer = tx_writer();
    state.nonce = nonce;
    state.seq = seq;
    if (!execute(&writer, &reader, kind, items - 4u) || writer.overflow) {
        state.nonce = nonce_before;
        state.seq = seq_before;
        send_error(nonce, seq, TR_ERROR_MALFORMED, 0);
        return;
    }
    state.open = 1;
    state.tx_size = (uint16_t)writer.size;
    send_tx();
}

void tr_protocol_start(uint32_t boot, const char *build_digest, void (*put)(uint8_t byte))
{
    struct tr_writer writer = tx_writer();

    state.boot = boot;
    state.put = put;
    put_envelope(&writer, 1u, TR_KIND_BANNER);
    tr_put_text(&writer, build_digest);
    state.tx_size = (uint16_t)writer.size;
    send_tx();
}

void tr_protocol_feed(uint8_t byte)
{
    size_t size = tr_decoder_feed(&state.decoder, byte);

    if (size == 0) {
        return;
    }
    if (state.crashed) {
        send_tx();
        return;
    }
    handle(state.decoder.data, size);
}

void tr_protocol_crash(const uint32_t numbers[TR_CRASH_NUMBERS])
{
    struct tr_writer writer = tx_writer();

    if (state.put == 0) {
        return; /* before the UART was up: nobody can be told */
    }
    put_envelope(&writer, TR_CRASH_NUMBERS, TR_KIND_CRASH);
    for (uint32_t i = 0; i < TR_CRASH_NUMBERS; i++) {
        tr_put_uint(&writer, numbers[i]);
    }
    state.tx_size = (uint16_t)writer.size;
    state.crashed = 1;
    (void)tr_decoder_feed(&state.decoder, 0);
    send_tx();
}
