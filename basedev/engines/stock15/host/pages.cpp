// Sources: jl_gc_alloc_page of Julia 1.5.3's src/gc-pages.c reserves its memory in regions of 8 GB, or less.
#include "pages.h"

#include <cstdio>
#include <cstring>
#include <sys/mman.h>

namespace {

const uintptr_t LARGE = 2 << 20, LEAST_REGION = 64 << 20;
const int COLLAPSE = 25;  // MADV_COLLAPSE, of Linux 6.1

uintptr_t down(uintptr_t address) { return address & ~(LARGE - 1); }
uintptr_t up(uintptr_t address) { return down(address + LARGE - 1); }

// Puts memory with the same contents in the place of what is mapped from a file.
void replace(char *begin, size_t size) {
    char *room = (char *)mmap(nullptr, size + LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return;
    char *copy = (char *)up((uintptr_t)room);
    munmap(room, (size_t)(copy - room));
    munmap(copy + size, (size_t)(room + LARGE - copy));
    if (madvise(copy, size, MADV_HUGEPAGE)) {
        munmap(copy, size);
        return;
    }
    memcpy(copy, begin, size);
    if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, begin) == MAP_FAILED)
        fail("the image's memory can't be moved");
}

}  // namespace

void allocate_in_large_pages() {
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return;
    char line[512], rights[8];
    uintptr_t begin, end;
    unsigned long file;
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &begin, &end, rights, &file) == 4 && !file &&
            !strcmp(rights, "rw-p") && end - begin >= LEAST_REGION) {
            madvise((void *)up(begin), down(end) - up(begin), MADV_HUGEPAGE);
            madvise((void *)up(begin), LARGE, COLLAPSE);
        }
    fclose(maps);
}

void use_large_pages(const Image &image) {
    allocate_in_large_pages();
    uintptr_t begin = up((uintptr_t)image.at(0)), end = down((uintptr_t)image.at(0) + image.blob.objects.size);
    if (begin < end)
        replace((char *)begin, end - begin);
}
