#include "changes.h"

#include <algorithm>
#include <unordered_set>

static const size_t CONSTANTS_BLOCK = 64, BLOCK_OF_WORDS = 256;

Memory::Memory(const Image &image)
    : words((const uint64_t *)image.at(0), (const uint64_t *)image.at(0) + image.blob.objects.size / sizeof(uint64_t)),
      changes(image) {}

Changes::Changes(const Image &image, const Memory *before) : image(image) {
    if (before) {
        const Changes &then = before->changes;
        tag_values = then.tag_values;
        relocated = then.relocated;
        headed = then.headed;
        header_count = then.header_count;
        reference_count = then.reference_count;
        changed = then.changed;
        compare(before->words);
    }
    else {
        look_through();
    }
    std::sort(changed.begin(), changed.end());
    find_places();
    find_constants();
}

void Changes::look_through() {
    for (uint32_t tag = 0; tag < 1 + 2 * SMALL_INTEGERS + 256; tag++)
        tag_values.push_back((uint64_t)tagged_value(tag));
    const Blob &blob = image.blob;
    const char *memory = (const char *)image.at(0);
    size_t words = blob.objects.size / sizeof(uint64_t);
    relocated.resize(words / 8 + 1);
    headed.resize(words / 8 + 1);
    const uint32_t *list = image.tagged;
    for (; *list; list++)
        headed[*list / 64] |= (uint8_t)(1 << (*list / 8 % 8));
    header_count = (size_t)(list - image.tagged);
    const uint32_t *begin = ++list;
    for (; *list; list++) {
        relocated[*list / 64] |= (uint8_t)(1 << (*list / 8 % 8));
        if (is_changed(*list))
            changed.push_back(*list);
    }
    reference_count = (size_t)(list - begin);

    auto add_plain = [&](uint32_t offset) {
        if (!is_reference(offset) && is_changed(offset))
            changed.push_back(offset);
    };
    // The other words, eight at a time.
    for (size_t block = 0; block < words / 8; block++) {
        auto known = (uint8_t)(relocated[block] | headed[block]);
        if (known == 0 && !memcmp(memory + block * 64, blob.bytes + block * 64, 64))
            continue;
        for (uint32_t i = 0; i < 8; i++)
            add_plain((uint32_t)(block * 64 + i * 8));
    }
    for (size_t word = words / 8 * 8; word < words; word++)
        add_plain((uint32_t)(word * 8));
}

// What had changed before may have changed back.
void Changes::compare(const std::vector<uint64_t> &before) {
    std::vector<uint32_t> candidates;
    candidates.swap(changed);
    std::unordered_set<uint32_t> known(candidates.begin(), candidates.end());
    auto *now = (const uint64_t *)image.at(0);
    for (size_t first = 0; first < before.size(); first += BLOCK_OF_WORDS) {
        size_t count = std::min(BLOCK_OF_WORDS, before.size() - first);
        if (!memcmp(now + first, before.data() + first, count * sizeof(uint64_t)))
            continue;
        for (size_t word = first; word < first + count; word++)
            if (now[word] != before[word] && known.insert((uint32_t)(word * 8)).second)
                candidates.push_back((uint32_t)(word * 8));
    }
    for (uint32_t offset : candidates)
        if (is_changed(offset))
            changed.push_back(offset);
}

// Whether a word of an object, and not its header, is not what the loader made of the file's.
bool Changes::is_changed(uint32_t offset) const {
    if (headed[offset / 64] >> (offset / 8 % 8) & 1)
        return false;
    uint64_t now = read_at<uint64_t>((const char *)image.at(offset)), then = image.blob.word(offset);
    if (!is_reference(offset))
        return now != then;
    auto reference = (Reference)then;
    return now != loaded(reference) && kind_of(reference) != BUILTIN;
}

void Changes::find_places() {
    std::vector<bool> wanted(relocated.size() * 8);
    for (uint32_t offset : changed)
        wanted[offset / 8] = true;
    places.clear();
    const uint32_t *list = image.tagged + header_count + 1;
    for (size_t i = 0; i < reference_count; i++)
        if (wanted[list[i] / 8])
            places.push_back({list[i], i});
    std::sort(places.begin(), places.end());
}

void Changes::find_constants() {
    const Blob &blob = image.blob;
    const char *memory = (const char *)image.at(0);
    changed_constants.clear();
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
