/* Lets QEMU announce its translation blocks to a core of the timing model, and shows the firmware the count.
 *
 * Loaded by QEMU (-plugin plugin.so,core=4,...). Each block of guest code, when it starts to execute, is announced to the
 * model; the modelled cycles so far are then written into two words of the guest's code memory, which the firmware reads
 * where a chip has its cycle counter. QEMU's packages carry no header: the declarations below are ours, of version 1 of
 * the plug-in interface as documented (QEMU 4.2 to 8.2). Not to be used with -icount, which re-enters blocks.
 *
 * Options: core=4|7 (0: no model, the count is one of instructions), counter=ADDRESS of the two words, reads=FD of a file
 * of LOG_BYTES that receives every timed read of the counter, owner=PID: QEMU ends itself when that process is gone.
 */
#define _GNU_SOURCE
#include "../instruction.h"
#include "../timing.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* --- QEMU's plug-in interface, version 1 ------------------------------------------------------------------------ */

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { CB_NO_REGS = 0, MEM_READ_AND_WRITE = 3, MEM_IS_STORE_BIT = 19 };

typedef struct {
    const char *target_name;
    struct {
        int min, cur;
    } version;
    bool system_emulation;
    int smp_vcpus, max_vcpus;
} qemu_info_t;

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                                  void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                                 void (*callback)(unsigned int vcpu, void *context), int flags,
                                                 void *context);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
                                             void (*callback)(unsigned int vcpu, uint32_t info, uint64_t address,
                                                              void *context),
                                             int flags, int which, void *context);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t n);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
extern void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *insn);
extern bool qemu_plugin_mem_is_store(uint32_t info);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                                               char **argv);

/* --- what was translated ---------------------------------------------------------------------------------------- */

enum {
    BUCKETS = 1 << 14,
    READS = 256, /* harness/sim/emulators/qemu.py knows the log's layout */
    OWNER_POLL_NS = 200000000,
};

typedef struct block {
    struct block *next;
    uint32_t pc, bytes, instructions;
    uint8_t code[];
} block;

typedef struct {
    uint64_t count; /* of reads so far; entry n is at n % READS */
    struct {
        uint64_t cycles, instructions;
    } reads[READS];
} read_log;

static struct {
    tr_core *core; /* NULL: instructions are counted */
    block *table[BUCKETS];
    const block *running;
    uint64_t instructions;
    uint32_t counter;
    volatile uint64_t *words; /* the counter, in this process */
    read_log *log;
    long owner;
} self;

/* The model asks only for the code of the block that is being announced. */
static int fetch(void *context, uint32_t address, void *destination, uint32_t bytes)
{
    (void)context;
    const block *b = self.running;
    if (b == NULL || address < b->pc || address - b->pc > b->bytes || bytes > b->bytes - (address - b->pc)) return -1;
    memcpy(destination, b->code + (address - b->pc), bytes);
    return 0;
}

static uint64_t cycles(void)
{
    return self.core != NULL ? tr_core_cycles(self.core) : self.instructions;
}

static void on_block(unsigned int vcpu, void *context)
{
    (void)vcpu;
    const block *b = context;
    self.instructions += b->instructions;
    if (self.core != NULL) {
        self.running = b;
        (void)tr_core_block(self.core, b->pc, b->bytes);
    }
    if (self.words != NULL) *self.words = cycles();
}

/* A load with the encoding that the firmware keeps for the borders of a timed window. */
static void on_read(unsigned int vcpu, uint32_t info, uint64_t address, void *context)
{
    (void)vcpu;
    (void)context;
    if ((uint32_t)address != self.counter || self.log == NULL || qemu_plugin_mem_is_store(info)) return;
    const uint64_t n = self.log->count;
    self.log->reads[n % READS].cycles = cycles();
    self.log->reads[n % READS].instructions = self.instructions;
    __atomic_store_n(&self.log->count, n + 1, __ATOMIC_RELEASE);
}

/* LDR.W r5, [r4] and LDR.W r0, [r4] with offset 0. */
static bool marks_a_window(const uint8_t *code, size_t size)
{
    return size == 4 && code[0] == 0xD4 && code[1] == 0xF8 && code[2] == 0x00 && (code[3] == 0x50 || code[3] == 0x00);
}

static const block *remember(uint32_t pc, const uint8_t *code, uint32_t bytes, uint32_t instructions)
{
    block **slot = &self.table[(pc >> 1 ^ bytes << 7) & (BUCKETS - 1)];
    for (block *b = *slot; b != NULL; b = b->next) {
        if (b->pc != pc || b->bytes != bytes) continue;
        if (memcmp(b->code, code, bytes) != 0) {
            memcpy(b->code, code, bytes);
            b->instructions = instructions;
            if (self.core != NULL) tr_core_invalidate(self.core);
        }
        return b;
    }
    block *b = malloc(sizeof *b + bytes);
    if (b == NULL) abort();
    *b = (block){.next = *slot, .pc = pc, .bytes = bytes, .instructions = instructions};
    memcpy(b->code, code, bytes);
    *slot = b;
    return b;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    static uint8_t code[4096];
    const size_t count = qemu_plugin_tb_n_insns(tb);
    const uint32_t pc = (uint32_t)qemu_plugin_tb_vaddr(tb);
    uint32_t bytes = 0;
    for (size_t n = 0; n < count; n++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, n);
        /* The last instruction before a page's end is said to be longer, by what the translator peeked at behind it. */
        const uint8_t *data = qemu_plugin_insn_data(insn);
        const size_t size = tr_is_wide((uint16_t)(data[0] | data[1] << 8)) ? 4 : 2;
        if (bytes + size > sizeof code) abort(); /* QEMU ends a block after 512 instructions at most */
        memcpy(code + bytes, data, size);
        if (marks_a_window(code + bytes, size))
            qemu_plugin_register_vcpu_mem_cb(insn, on_read, CB_NO_REGS, MEM_READ_AND_WRITE, NULL);
        bytes += (uint32_t)size;
    }
    if (count == 0) return;
    if (self.words == NULL) {
        /* The image starts in the memory that holds the counter, so that the distance is the same on the host. */
        uint8_t *host = qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(tb, 0));
        if (host != NULL) self.words = (volatile uint64_t *)(void *)(host + ((ptrdiff_t)self.counter - (ptrdiff_t)pc));
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, CB_NO_REGS, (void *)(uintptr_t)remember(pc, code, bytes, (uint32_t)count));
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static void *watch_owner(void *context)
{
    (void)context;
    const struct timespec pause = {.tv_nsec = OWNER_POLL_NS};
    while (getppid() == self.owner) nanosleep(&pause, NULL);
    kill(getpid(), SIGKILL);
    return NULL;
}

static long number(const char *option, const char *name, long otherwise)
{
    const size_t length = strlen(name);
    if (strncmp(option, name, length) != 0 || option[length] != '=') return otherwise;
    return strtol(option + length + 1, NULL, 0);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    long kind = 0, counter = -1, reads = -1;
    if (!info->system_emulation || info->version.min > 1) {
        fprintf(stderr, "tinyrack: this QEMU has another plug-in interface than version 1\n");
        return -1;
    }
    for (int n = 0; n < argc; n++) {
        kind = number(argv[n], "core", kind);
        counter = number(argv[n], "counter", counter);
        reads = number(argv[n], "reads", reads);
        self.owner = number(argv[n], "owner", self.owner);
    }
    if ((kind != 0 && kind != TR_CORTEX_M4 && kind != TR_CORTEX_M7) || counter < 0 || reads < 0) {
        fprintf(stderr, "tinyrack: the plug-in's options are wrong\n");
        return -1;
    }
    self.counter = (uint32_t)counter;
    self.log = mmap(NULL, sizeof *self.log, PROT_READ | PROT_WRITE, MAP_SHARED, (int)reads, 0);
    if (self.log == MAP_FAILED) {
        perror("tinyrack: the log of counter reads");
        return -1;
    }
    if (kind != 0) {
        const tr_host host = {.fetch = fetch};
        self.core = tr_core_new((tr_core_kind)kind, &host);
        if (self.core == NULL) return -1;
    }
    if (self.owner != 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, watch_owner, NULL) != 0) return -1;
        pthread_detach(thread);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
