/* The part of CBOR (RFC 8949) that the wire uses: unsigned integers, byte and text strings of definite length, arrays.
 * Everything else is malformed. */
#ifndef TR_CBOR_H
#define TR_CBOR_H

#include <stddef.h>
#include <stdint.h>

struct tr_writer {
    uint8_t *data;
    size_t size;
    size_t limit;
    int overflow; /* set instead of writing beyond the limit */
};

void tr_put_array(struct tr_writer *writer, uint32_t count);
void tr_put_uint(struct tr_writer *writer, uint64_t value);
void tr_put_text(struct tr_writer *writer, const char *text);
void tr_put_bytes(struct tr_writer *writer, const uint8_t *data, uint32_t size);

struct tr_reader {
    const uint8_t *at;
    const uint8_t *end;
    int bad; /* set by the first item that is not what was asked for; reads then give 0 */
};

uint32_t tr_get_array(struct tr_reader *reader);
uint64_t tr_get_uint(struct tr_reader *reader);
/* An unsigned integer that fits 32 bits. */
uint32_t tr_get_u32(struct tr_reader *reader);
const uint8_t *tr_get_bytes(struct tr_reader *reader, uint32_t *size);

#endif
