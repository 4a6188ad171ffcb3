/* L1 caches and the memory protection unit of the Cortex-M7; nothing to do on a Cortex-M4. */
#ifndef TR_CACHE_H
#define TR_CACHE_H

void tr_cache_init(void);

#endif
