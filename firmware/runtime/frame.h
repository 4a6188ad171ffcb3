/* Frames on a byte stream: 0x00, COBS(payload, CRC-32 little-endian), 0x00. Portable, no I/O of its own. */
#ifndef TR_FRAME_H
#define TR_FRAME_H

#include <stddef.h>
#include <stdint.h>

/* Largest request payload: LOAD with its data (TR_CHUNK_BYTES) and at most 40 bytes of head. */
#define TR_RX_PAYLOAD_BYTES 304u

struct tr_decoder {
    uint8_t data[TR_RX_PAYLOAD_BYTES + 4u];
    uint16_t size;
    uint8_t block; /* code of the COBS block that is being read; 0 before the first */
    uint8_t left;  /* bytes that the block still has */
    uint8_t bad;   /* too long: wait for the next delimiter */
};

/* Takes one byte. Returns the payload's size when it ends a sound frame (the payload is then in decoder->data until
 * the next call), else 0. Whatever is not a sound frame is dropped without a trace: the other side resends. */
size_t tr_decoder_feed(struct tr_decoder *decoder, uint8_t byte);

/* Sends one frame through `put`. `payload` must hold TR_FRAME_TAIL more bytes than `size`: the CRC is put there. */
#define TR_FRAME_TAIL 4u
void tr_frame_send(uint8_t *payload, size_t size, void (*put)(uint8_t byte));

#endif
