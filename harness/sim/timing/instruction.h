/* One Thumb instruction as the timing rules see it: class, registers by role, size. No semantics. */
#ifndef TINYRACK_INSTRUCTION_H
#define TINYRACK_INSTRUCTION_H

#include <stdint.h>

typedef enum {
    TR_OP_ALU = 0,  /* add, subtract, logic, move, compare */
    TR_OP_SHIFT,    /* a shift or rotate on its own */
    TR_OP_BITFIELD, /* bit field, extend, reverse, saturate, parallel arithmetic, select, pack */
    TR_OP_MUL,      /* 32 x 32 -> 32, with or without accumulate */
    TR_OP_LMUL,     /* 32 x 32 -> 64, with or without accumulate */
    TR_OP_MAC16,    /* 16-bit and dual 16-bit multiplies, with or without accumulate */
    TR_OP_DIV,
    TR_OP_LOAD,
    TR_OP_STORE,
    TR_OP_LOAD_DUAL,
    TR_OP_STORE_DUAL,
    TR_OP_LOAD_MULTI,
    TR_OP_STORE_MULTI,
    TR_OP_PRELOAD,
    TR_OP_BRANCH,          /* direct; conditional or not */
    TR_OP_BRANCH_INDIRECT, /* BX, BLX, MOV PC, ADD PC */
    TR_OP_TABLE_BRANCH,
    TR_OP_IT,
    TR_OP_NOP,
    TR_OP_SYSTEM,  /* MRS, MSR, CPS, SVC, hints that wait */
    TR_OP_BARRIER, /* DSB, DMB, ISB */
    TR_OP_FADD,    /* add, subtract, min, max */
    TR_OP_FMUL,
    TR_OP_FMAC,
    TR_OP_FDIV,
    TR_OP_FSQRT,
    TR_OP_FMOVE,    /* register moves, absolute, negate, immediate, select */
    TR_OP_FCONVERT, /* conversions and rounding */
    TR_OP_FCOMPARE,
    TR_OP_FCORE,   /* between core and FP registers, VMRS, VMSR */
    TR_OP_UNKNOWN, /* costs one cycle and is counted */
    TR_OP_COUNT
} tr_op;

enum {
    TR_FLAGS = 1u << 16, /* condition flags, as a bit of the register masks */
    TR_GE = 1u << 17,    /* the GE flags of parallel arithmetic */
    TR_REGISTERS = 18,
};

enum {
    TR_SHIFTED_REGISTER = 1u << 0, /* second operand goes through the shifter */
    TR_SHIFTED_CONSTANT = 1u << 1, /* immediate that is a rotated byte */
    TR_WRITEBACK = 1u << 2,
    TR_REGISTER_OFFSET = 1u << 3,
    TR_LITERAL = 1u << 4,     /* address relative to pc */
    TR_CONDITIONAL = 1u << 5, /* in an IT block, or a conditional branch */
    TR_ENDS_FLOW = 1u << 6,   /* may write pc */
    TR_DOUBLE = 1u << 7,      /* double-precision FP */
    TR_UNSIGNED_DIV = 1u << 8,
    TR_SIGN_EXTENDS = 1u << 9,
    TR_COMPARE_BRANCH = 1u << 10, /* CBZ, CBNZ */
    TR_SIMPLE = 1u << 11,         /* ADD, SUB, MOV without shift: the M7's early ALU can execute it */
    TR_EARLY_SHIFTER = 1u << 12,  /* bit-field kind that occupies the M7's early shifter */
    TR_REVERSE = 1u << 13,        /* REV, REV16, REVSH, RBIT */
    TR_SATURATES = 1u << 14,      /* SSAT, USAT, QADD and their like: a result one stage later */
};

/* What an instruction leaves in a register, as far as addresses are made of it. */
typedef enum {
    TR_VALUE_OTHER = 0, /* anything else */
    TR_VALUE_CONSTANT,  /* rd = imm */
    TR_VALUE_HIGH_HALF, /* rd = rd & 0xffff | imm << 16 */
    TR_VALUE_ADD,       /* rd = rn + imm */
    TR_VALUE_ADD_REGISTER, /* rd = rn + (rm << shift); rn 0xff is zero */
    TR_VALUE_SUBTRACT_REGISTER, /* rd = rn - rm */
    TR_VALUE_MULTIPLY_ADD,      /* rd = ra + rn * rm; ra 0xff is zero */
    TR_VALUE_FROM_FP,           /* rd = FP register rm */
    TR_VALUE_TO_FP,             /* FP register rm = rn */
} tr_value;

typedef struct tr_insn {
    uint32_t pc;
    uint32_t reads, writes; /* r0..r15, TR_FLAGS, TR_GE */
    uint32_t address;       /* registers that form an address */
    uint32_t shifted;       /* registers that go through the shifter */
    uint32_t accumulator;
    uint32_t data; /* registers whose value is stored */
    uint32_t fp_reads, fp_writes, fp_accumulator;
    int32_t offset;  /* of an access, from its base register's value before the instruction */
    int32_t step;    /* what the instruction adds to its base register */
    uint32_t imm;    /* of `value` */
    uint32_t traits;
    uint8_t op;
    uint8_t size;         /* 2 or 4 */
    uint8_t access_bytes; /* of one element */
    uint8_t multiple;     /* what its address has to be a multiple of; 0 and 1: it may lie anywhere */
    uint8_t condition;    /* as in an IT instruction; 14 always */
    uint8_t count;        /* registers a multiple or dual access moves */
    uint8_t base;         /* base register of an access, 0xff none */
    uint8_t dividend, divisor;
    uint8_t value;        /* tr_value */
    uint8_t rd, rn, rm, ra; /* of `value`; of an access, rd is the register moved and rm the index or the second one, 0xff none */
    uint8_t shift;        /* of rm, to the left */
} tr_insn;

/* Decodes the instruction at `pc`. `it` is the state of the IT block, carried from call to call; 0 outside one. */
void tr_decode(tr_insn *insn, uint32_t pc, uint16_t first, uint16_t second, uint8_t *it);

static inline int tr_is_wide(uint16_t first) { return first >= 0xe800u; }

#endif
