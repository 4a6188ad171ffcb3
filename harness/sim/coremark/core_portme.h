/* CoreMark's port to a core that runs nothing else: types, and how its memory and seeds are got. The benchmark itself
 * is EEMBC's and is not part of this project; `tinyrack sim validate --coremark DIR` compiles a copy the user has. */
#ifndef TINYRACK_CORE_PORTME_H
#define TINYRACK_CORE_PORTME_H

#include <stddef.h>
#include <stdint.h>

/* No printf, no clock, no floating point: the benchmark is watched from outside. */
#define HAS_FLOAT 0
#define HAS_TIME_H 0
#define HAS_STDIO 0
#define HAS_PRINTF 0
#define USE_CLOCK 0
#define MAIN_HAS_NOARGC 1
#define MAIN_HAS_NORETURN 0
#define MULTITHREAD 1
#define SEED_METHOD SEED_VOLATILE
#define MEM_METHOD MEM_STATIC
#define MEM_LOCATION "STATIC"
#define COMPILER_VERSION __VERSION__
#define COMPILER_FLAGS ""

typedef int16_t ee_s16;
typedef uint16_t ee_u16;
typedef int ee_s32; /* `int`: the benchmark's formats say so */
typedef unsigned int ee_u32;
typedef uint8_t ee_u8;
typedef float ee_f32;
typedef uintptr_t ee_ptr_int;
typedef size_t ee_size_t;

#define align_mem(address) (void *)(((ee_ptr_int)(address) + 3u) & ~(ee_ptr_int)3u)

#define CORETIMETYPE ee_u32
typedef ee_u32 CORE_TICKS;

typedef struct CORE_PORTABLE_S {
    ee_u8 portable_id;
} core_portable;

extern ee_u32 default_num_contexts;

void portable_init(core_portable *port, int *argc, char *argv[]);
void portable_fini(core_portable *port);
int ee_printf(const char *format, ...);

#endif
