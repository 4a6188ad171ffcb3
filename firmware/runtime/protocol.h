/* The device's side of the wire: one request, one reply; see harness/cable/codec.py for the other side.
 *
 * Payloads are CBOR arrays. Request: [version, kind, nonce, seq, ...]. From the device: [version, kind, nonce, seq,
 * boot, ...], replies go on with a status: 0 and the fields, or another one and one number of detail. What takes long (RUN,
 * MEMORY) is acknowledged by ACCEPTED before it begins: then the device hears nothing until it is done. */
#ifndef TR_PROTOCOL_H
#define TR_PROTOCOL_H

#include <stdint.h>

#define TR_PROTOCOL_VERSION 1u

enum tr_kind {
    TR_KIND_HELLO = 1,
    TR_KIND_LOAD = 2,
    TR_KIND_INPUT_CRC = 3,
    TR_KIND_RUN = 4,
    TR_KIND_SAMPLES = 5,
    TR_KIND_LAYERS = 6,
    TR_KIND_MEMORY = 7,
    TR_KIND_OUTPUT = 8,
    TR_KIND_BANNER = 32, /* unsolicited, after a reset */
    TR_KIND_CRASH = 33,  /* unsolicited, and the answer to everything from then on */
    TR_KIND_ERROR = 34,  /* the request was not understood or not allowed; nothing was executed */
    TR_KIND_ACCEPTED = 35, /* before the reply to RUN or MEMORY: it was understood, the reply takes a while */
};

enum tr_error {
    TR_ERROR_MALFORMED = 1,
    TR_ERROR_VERSION = 2, /* detail: the version spoken here */
    TR_ERROR_NONCE = 3,   /* another session, or none; say HELLO */
    TR_ERROR_SEQ = 4,     /* detail: the seq that is next */
    TR_ERROR_KIND = 5,
};

#define TR_CRASH_NUMBERS 9u /* exception, pc, lr, sp, xpsr, cfsr, hfsr, mmfar, bfar */

/* `put` sends a byte. Sends the banner. */
void tr_protocol_start(uint32_t boot, const char *build_digest, void (*put)(uint8_t byte));
void tr_protocol_feed(uint8_t byte);
/* Sends the record, and answers every further request with it. */
void tr_protocol_crash(const uint32_t numbers[TR_CRASH_NUMBERS]);

#endif
