/* 32-bit branches and miscellaneous control: Arm DDI 0403, A5.3.4. */
#include "parts.h"
#include "roles.h"

static void system_control(tr_insn *i, uint32_t w1, uint32_t w2) {
    i->op = TR_OP_SYSTEM;
    switch (FIELD(w1, 10, 4)) {
    case 0x38: case 0x39: /* MSR */
        i->reads |= R(FIELD(w1, 3, 0));
        i->writes |= TR_FLAGS;
        return;
    case 0x3a: /* hints */
        if (FIELD(w2, 7, 0) == 0) i->op = TR_OP_NOP;
        return;
    case 0x3b:
        i->op = TR_OP_BARRIER;
        return;
    case 0x3e: case 0x3f: /* MRS */
        i->writes |= R(FIELD(w2, 11, 8));
        return;
    default:
        i->traits |= TR_ENDS_FLOW;
        return;
    }
}

void tr_decode_control(tr_insn *i, uint32_t w1, uint32_t w2) {
    const int always = (int)BIT(w2, 12); /* B.W, BL */
    if (!always && FIELD(w1, 9, 7) == 7) {
        system_control(i, w1, w2);
        return;
    }
    i->op = TR_OP_BRANCH;
    i->traits |= TR_ENDS_FLOW;
    if (!always) {
        i->traits |= TR_CONDITIONAL;
        i->reads |= TR_FLAGS;
    } else if (BIT(w2, 14)) {
        i->writes |= R(14);
    }
}
