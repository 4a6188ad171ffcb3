/* The parts of the decoder, each a group of encodings. They get an instruction that is blank but for its place and size. */
#ifndef TINYRACK_DECODE_PARTS_H
#define TINYRACK_DECODE_PARTS_H

#include "../instruction.h"

/* `it_after` becomes the state of the IT block that an IT instruction begins. */
void tr_decode_narrow(tr_insn *i, uint32_t w, int in_it, uint8_t *it_after);

void tr_decode_immediate(tr_insn *i, uint32_t w1, uint32_t w2);
void tr_decode_shifted_register(tr_insn *i, uint32_t w1, uint32_t w2);
void tr_decode_register(tr_insn *i, uint32_t w1, uint32_t w2);
void tr_decode_multiply(tr_insn *i, uint32_t w1, uint32_t w2);

void tr_decode_multiple(tr_insn *i, uint32_t w1, uint32_t w2);
void tr_decode_dual_exclusive_table(tr_insn *i, uint32_t w1, uint32_t w2);
void tr_decode_single(tr_insn *i, uint32_t w1, uint32_t w2);

void tr_decode_control(tr_insn *i, uint32_t w1, uint32_t w2);

void tr_decode_floating_point(tr_insn *i, uint32_t w1, uint32_t w2);

#endif
