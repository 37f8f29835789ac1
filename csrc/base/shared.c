#include "base/shared.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

ss_card ss_card_of(const void *memory, size_t bytes, int file) {
    struct stat facts;
    ss_card card = {.address = (uint64_t)(uintptr_t)memory, .bytes = (int64_t)bytes, .process = (int32_t)getpid(), .file = -1};
    if (file < 0 || fstat(file, &facts) != 0) return card;
    card.device = (uint64_t)facts.st_dev;
    card.inode = (uint64_t)facts.st_ino;
    card.file = file;
    return card;
}

static bool names(const ss_card *card, int file) {
    struct stat facts;
    return fstat(file, &facts) == 0 && (uint64_t)facts.st_dev == card->device && (uint64_t)facts.st_ino == card->inode && facts.st_size >= card->bytes;
}

const void *ss_card_map(const ss_card *card) {
    if (card->file < 0 || card->bytes < 1) return NULL;
    /* Processes in containers may have equal numbers: only the file tells. */
    if (card->process == (int32_t)getpid()) return names(card, card->file) ? (const void *)(uintptr_t)card->address : NULL;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)card->process, (int)card->file);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return NULL;
    void *memory = names(card, file) ? mmap(NULL, (size_t)card->bytes, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

void ss_card_unmap(const ss_card *card, const void *memory) {
    if (memory && card->process != (int32_t)getpid()) munmap((void *)(uintptr_t)memory, (size_t)card->bytes);
}
