"""Kernels for cores with Helium, the M-profile vector extension (Cortex-M55): generated text and its constants.

A family is a module with `layer`, `tiles`, `scratch_bytes`, `price` and `plan`, as in kernels/dsp. All text obeys
the procedure call standard (Arm IHI 0042): r4-r11 and d8-d15 are restored, the stack stays a multiple of 8, VPR
and the loop counter are scratch. Whole vectors are loaded from addresses that are a multiple of the element they
name.
"""
