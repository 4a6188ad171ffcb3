"""Generated Thumb-2: an instruction as a value, an emitter, a list scheduler per core, and kernels made with them.

Compilers spill the eight accumulators these tiles live on; text made here does not. `functions.py` lists the
kernels: each states its constraints, has plain C beside it (`plain_c/`), and obeys the procedure call standard
(Arm IHI 0042): r4-r11 and lr are saved, s0-s15 are scratch, the stack stays 8-byte aligned.
"""
