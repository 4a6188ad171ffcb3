/* Vector table, reset and fault entry. No interrupt is ever enabled: every other vector reports a fault too. */
    .syntax unified
    .thumb

    .section .vectors, "a", %progbits
    .align 9
    .global tr_vectors
tr_vectors:
    .word tr_ld_stack_top
    .word tr_reset
    .rept 14            /* the core's exceptions 2 to 15 */
    .word tr_fault_entry
    .endr

/* Reset: paints the stack before anything uses it, then C. r0-r3 only. */
    .section .text.tr_reset, "ax", %progbits
    .global tr_reset
    .type tr_reset, %function
    .thumb_func
tr_reset:
    cpsid i
    ldr r0, =tr_ld_stack_top
    msr msp, r0
    movs r1, #0
    msr control, r1
    isb
    ldr r1, =tr_ld_stack_bottom
    ldr r2, =0xC7C7C7C7  /* TR_STACK_PAINT */
0:  str r2, [r1], #4
    cmp r1, r0
    blo 0b
    bl tr_start
    b .

/* Any fault. The frame is copied before the stack pointer is set back to the top, and only when it lies inside the
 * stack: after an overflow there is no frame, and reading at a bad address would lock the core up. */
    .section .text.tr_fault_entry, "ax", %progbits
    .global tr_fault_entry
    .type tr_fault_entry, %function
    .thumb_func
tr_fault_entry:
    cpsid i
    tst lr, #4
    ite eq
    mrseq r0, msp
    mrsne r0, psp
    ldr r3, =tr_fault_record
    str r0, [r3, #32]
    mrs r1, msp
    str r1, [r3, #36]
    mrs r1, psp
    str r1, [r3, #40]
    str lr, [r3, #44]
    ldr r1, =tr_ld_stack_bottom
    ldr r2, =tr_ld_stack_top - 32
    cmp r0, r1
    blo 1f
    cmp r0, r2
    bhi 1f
    ldmia r0, {r4-r11}
    stmia r3, {r4-r11}
1:  ldr r0, =tr_ld_stack_top
    msr msp, r0
    isb
    bl tr_fault_report
    b .
    .pool
