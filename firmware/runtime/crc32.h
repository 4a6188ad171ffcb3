/* CRC-32 as in zlib, Ethernet and PNG: reflected 0xEDB88320, start and final xor 0xFFFFFFFF. */
#ifndef TR_CRC32_H
#define TR_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to begin) over `size` bytes. */
uint32_t tr_crc32(uint32_t crc, const void *data, size_t size);

#endif
