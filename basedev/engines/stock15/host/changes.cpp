#include "changes.h"

#include <algorithm>

static const size_t CONSTANTS_BLOCK = 64;

Changes::Changes(const Image &image) : image(image) {
    for (uint32_t tag = 0; tag < 1 + 2 * SMALL_INTEGERS + 256; tag++)
        tag_values.push_back((uint64_t)tagged_value(tag));
    const Blob &blob = image.blob;
    const char *memory = (const char *)image.at(0);
    size_t words = blob.objects.size / sizeof(uint64_t);
    relocated.resize(words / 8 + 1);
    std::vector<uint8_t> headers(words / 8 + 1);
    const uint32_t *list = image.tagged;
    for (; *list; list++)
        headers[*list / 64] |= (uint8_t)(1 << (*list / 8 % 8));
    header_count = (size_t)(list - image.tagged);
    list++;
    const uint32_t *begin = list;
    for (; *list; list++) {
        uint32_t offset = *list;
        relocated[offset / 64] |= (uint8_t)(1 << (offset / 8 % 8));
        auto reference = (Reference)blob.word(offset);
        if (read_at<uint64_t>(memory + offset) != loaded(reference) && kind_of(reference) != BUILTIN) {
            changed.push_back(offset);
            places.push_back({offset, (size_t)(list - begin)});
        }
    }
    reference_count = (size_t)(list - begin);

    // The other words, eight at a time.
    for (size_t block = 0; block < words / 8; block++) {
        auto known = (uint8_t)(relocated[block] | headers[block]);
        const char *now = memory + block * 64, *then = blob.bytes + block * 64;
        if (known == 0 && !memcmp(now, then, 64))
            continue;
        for (uint32_t i = 0; i < 8; i++)
            if (!(known >> i & 1) && read_at<uint64_t>(now + i * 8) != read_at<uint64_t>(then + i * 8))
                changed.push_back((uint32_t)(block * 64 + i * 8));
    }
    for (size_t word = words / 8 * 8; word < words; word++) {
        auto offset = (uint32_t)(word * 8);
        bool known = (relocated[offset / 64] | headers[offset / 64]) >> (word % 8) & 1;
        if (!known && read_at<uint64_t>(memory + offset) != blob.word(offset))
            changed.push_back(offset);
    }
    std::sort(changed.begin(), changed.end());
    std::sort(places.begin(), places.end());

    auto first = (size_t)(blob.constants.begin - blob.bytes);
    for (size_t at = 0; at < blob.constants.size; at += 4096) {
        size_t size = std::min<size_t>(4096, blob.constants.size - at);
        if (!memcmp(memory + first + at, blob.constants.begin + at, size))
            continue;
        for (size_t inner = at; inner < at + size; inner += CONSTANTS_BLOCK) {
            size_t length = std::min(CONSTANTS_BLOCK, at + size - inner);
            if (memcmp(memory + first + inner, blob.constants.begin + inner, length))
                changed_constants.push_back({blob.constants.begin + inner, length});
        }
    }
}

uint64_t Changes::loaded(Reference reference) const {
    uint32_t offset = offset_in(reference);
    switch (kind_of(reference)) {
    case DATA: return (uint64_t)image.at(offset);
    case CONSTANT: return (uint64_t)image.at((uint32_t)(image.blob.constants.begin - image.blob.bytes) + offset * 8);
    case TAG: return tag_values[offset];
    case SYMBOL: return (uint64_t)image.symbols[offset];
    case FUNCTION:  // with the other conventions null, while the runtime generates output
        return offset == CALL_CONST     ? (uint64_t)jl_fptr_const_return
               : offset == CALL_BUILTIN ? (uint64_t)jl_fptr_args
                                        : 0;
    default: return 0;
    }
}

size_t Changes::place_in_list(uint32_t offset) const {
    auto found = std::lower_bound(places.begin(), places.end(), std::make_pair(offset, (size_t)0));
    if (found != places.end() && found->first == offset)
        return found->second;
    const uint32_t *list = image.tagged + header_count + 1;
    return (size_t)(std::find(list, list + reference_count, offset) - list);
}
