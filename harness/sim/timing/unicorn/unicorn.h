/* What is used of Unicorn: functions of the library that the Python package has loaded, by their documented C interface. */
#ifndef TINYRACK_UNICORN_H
#define TINYRACK_UNICORN_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int (*hook_add)(void *engine, size_t *hook, int type, void *callback, void *context, uint64_t begin, uint64_t end, ...);
    int (*hook_del)(void *engine, size_t hook);
    int (*emu_stop)(void *engine);
    int (*mem_read)(void *engine, uint64_t address, void *bytes, uint64_t size);
    int (*reg_read_batch)(void *engine, const int *numbers, void **values, int count);
    int (*reg_write)(void *engine, int number, const void *value);
    int (*ctl)(void *engine, int control, ...);
} tr_unicorn_functions;

enum {
    TR_UNICORN_HOOK_CODE = 1 << 2,
    TR_UNICORN_HOOK_BLOCK = 1 << 3,
    TR_UNICORN_CTL_TB_REMOVE_CACHE = 1 << 30 | 2 << 26 | 9, /* writes; begin and end as uint64_t */
};

#endif
