/* Memory of other processes of this machine: a rank tells its neighbours where a shared allocation lies (its card), and they map it.
 *
 * The file has no name, so nothing is left behind when a process is killed, and no limit of /dev/shm applies: a neighbour reaches it as /proc/PID/fd/FILE. That needs a common view of
 * process numbers and the same user; device and inode of the file make sure that it is the right one. */
#ifndef SS_BASE_SHARED_H
#define SS_BASE_SHARED_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ss_card {
    uint64_t device, inode; /* of the file: they tell it from any other on this machine */
    uint64_t address;       /* in the process that made it */
    int64_t bytes;
    int32_t process, file; /* file -1: the memory is private, nobody can map it */
} ss_card;

/* memory: all of what ss_calloc_shared gave. */
ss_card ss_card_of(const void *memory, size_t bytes, int file);
/* Maps what a card names, to be read only; NULL when that is impossible. Cards of this very process give the memory itself. */
const void *ss_card_map(const ss_card *card);
void ss_card_unmap(const ss_card *card, const void *memory);

#endif
