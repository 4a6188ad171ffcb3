/* Heads of one major type and an argument of 0 to 64 bits; see cbor.h. */
#include "cbor.h"

enum { MAJOR_UINT = 0, MAJOR_BYTES = 2, MAJOR_TEXT = 3, MAJOR_ARRAY = 4 };

static void put_byte(struct tr_writer *writer, uint8_t byte)
{
    if (writer->size < writer->limit) {
        writer->data[writer->size++] = byte;
    } else {
        writer->overflow = 1;
    }
}

static void put_head(struct tr_writer *writer, uint32_t major, uint64_t value)
{
    uint8_t type = (uint8_t)(major << 5);

    if (value < 24u) {
        put_byte(writer, (uint8_t)(type | value));
        return;
    }
    uint32_t log2_bytes = value <= 0xFFu ? 0 : value <= 0xFFFFu ? 1u : value <= 0xFFFFFFFFu ? 2u : 3u;
    put_byte(writer, (uint8_t)(type | (24u + log2_bytes)));
    for (uint32_t i = 1u << log2_bytes; i-- > 0;) {
        put_byte(writer, (uint8_t)(value >> (8u * i)));
    }
}

void tr_put_array(struct tr_writer *writer, uint32_t count)
{
    put_head(writer, MAJOR_ARRAY, count);
}

void tr_put_uint(struct tr_writer *writer, uint64_t value)
{
    put_head(writer, MAJOR_UINT, value);
}

void tr_put_text(struct tr_writer *writer, const char *text)
{
    uint32_t size = 0;

    while (text[size] != 0) {
        size++;
    }
    put_head(writer, MAJOR_TEXT, size);
    for (uint32_t i = 0; i < size; i++) {
        put_byte(writer, (uint8_t)text[i]);
    }
}

void tr_put_bytes(struct tr_writer *writer, const uint8_t *data, uint32_t size)
{
    put_head(writer, MAJOR_BYTES, size);
    for (uint32_t i = 0; i < size; i++) {
        put_byte(writer, data[i]);
    }
}

static uint64_t get_head(struct tr_reader *reader, uint32_t major)
{
    if (reader->bad || reader->at == reader->end || *reader->at >> 5 != major) {
        reader->bad = 1;
        return 0;
    }
    uint32_t info = *reader->at++ & 31u;
    if (info < 24u) {
        return info;
    }
    uint32_t bytes = info <= 27u ? 1u << (info - 24u) : 0;
    if (bytes == 0 || (size_t)(reader->end - reader->at) < bytes) {
        reader->bad = 1;
        return 0;
    }
    uint64_t value = 0;
    while (bytes-- > 0) {
        value = value << 8 | *reader->at++;
    }
    return value;
}

uint32_t tr_get_array(struct tr_reader *reader)
{
    uint64_t count = get_head(reader, MAJOR_ARRAY);

    /* Every item takes at least one byte. */
    if (count > (uint64_t)(reader->end - reader->at)) {
        reader->bad = 1;
        return 0;
    }
    return (uint32_t)count;
}

uint64_t tr_get_uint(struct tr_reader *reader)
{
    return get_head(reader, MAJOR_UINT);
}

uint32_t tr_get_u32(struct tr_reader *reader)
{
    uint64_t value = get_head(reader, MAJOR_UINT);

    if (value > 0xFFFFFFFFu) {
        reader->bad = 1;
        return 0;
    }
    return (uint32_t)value;
}

const uint8_t *tr_get_bytes(struct tr_reader *reader, uint32_t *size)
{
    uint64_t count = get_head(reader, MAJOR_BYTES);
    const uint8_t *data = reader->at;

    if (count > (uint64_t)(reader->end - reader->at)) {
        reader->bad = 1;
        count = 0;
    }
    reader->at += count;
    *size = (uint32_t)count;
    return data;
}
