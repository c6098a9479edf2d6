#include "blob.h"

Blob::Blob(const char *bytes) : bytes(bytes) {
    const char *position = bytes;
    auto next = [&](size_t alignment) {
        auto size = read_at<uint32_t>(position);
        size_t offset = ((size_t)(position - bytes) + sizeof size + alignment - 1) & ~(alignment - 1);
        position = bytes + offset + size;
        return Section{bytes + offset, size};
    };
    objects = next(1);
    objects = {bytes, objects.size + sizeof(uint32_t)};
    constants = next(16);
    symbols = next(1);
    relocations = next(1);
    gvars = next(1);
    fvars = next(1);
    tail = {position, 0};
    size_t words = REINIT_LIST;
    for (int lists = 2; lists > 0; words++)
        if (tail.at<uint32_t>(words) == 0)
            lists--;
        else
            words++;
    tail.size = words * sizeof(uint32_t);
}
