/* COBS both ways, a byte at a time. */
#include "frame.h"

#include "crc32.h"

static void append(struct tr_decoder *decoder, uint8_t byte)
{
    if (decoder->size < sizeof decoder->data) {
        decoder->data[decoder->size++] = byte;
    } else {
        decoder->bad = 1;
    }
}

static size_t finish(const struct tr_decoder *decoder)
{
    if (decoder->bad || decoder->left != 0 || decoder->size <= 4u) {
        return 0;
    }
    size_t size = decoder->size - 4u;
    const uint8_t *tail = decoder->data + size;
    uint32_t sent = tail[0] | (uint32_t)tail[1] << 8 | (uint32_t)tail[2] << 16 | (uint32_t)tail[3] << 24;
    return sent == tr_crc32(0, decoder->data, size) ? size : 0;
}

size_t tr_decoder_feed(struct tr_decoder *decoder, uint8_t byte)
{
    if (byte == 0) {
        size_t size = finish(decoder);
        decoder->size = 0;
        decoder->block = 0;
        decoder->left = 0;
        decoder->bad = 0;
        return size;
    }
    if (decoder->left != 0) {
        append(decoder, byte);
        decoder->left--;
        return 0;
    }
    /* A code byte. The zero that the block before stood for is written only now: the last block's is not data. */
    if (decoder->block != 0 && decoder->block != 0xFFu) {
        append(decoder, 0);
    }
    decoder->block = byte;
    decoder->left = (uint8_t)(byte - 1u);
    return 0;
}

void tr_frame_send(uint8_t *payload, size_t size, void (*put)(uint8_t byte))
{
    uint32_t crc = tr_crc32(0, payload, size);

    for (uint32_t i = 0; i < 4u; i++) {
        payload[size + i] = (uint8_t)(crc >> (8u * i));
    }
    size += TR_FRAME_TAIL;
    put(0); /* cuts off whatever the line carried before */
    size_t at = 0;
    for (;;) {
        size_t run = 0;
        while (run < 254u && at + run < size && payload[at + run] != 0) {
            run++;
        }
        put((uint8_t)(run + 1u));
        for (size_t i = 0; i < run; i++) {
            put(payload[at + i]);
        }
        at += run;
        if (at == size) {
            break;
        }
        if (run < 254u) {
            at++; /* the zero that this block's code stands for; a block follows even when it was the last byte */
        }
    }
    put(0);
}
