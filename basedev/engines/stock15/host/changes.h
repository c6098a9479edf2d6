// Which words of the image's memory are not what the loader made of its file.
#pragma once

#include "image.h"

#include <vector>

class Changes {
public:
    // Looks through all of the image: tens of milliseconds.
    explicit Changes(const Image &image);

    // Words of objects, ascending by offset. Objects' headers are not among them.
    const std::vector<uint32_t> &words() const { return changed; }
    // Blocks of the file's constant data that are others in memory, ascending.
    const std::vector<Section> &constants() const { return changed_constants; }

    // Whether the file has a reference in a word of an object.
    bool is_reference(uint32_t offset) const { return relocated[offset / 64] >> (offset / 8 % 8) & 1; }
    // Where the word stands among the references of the list of relocations.
    size_t place_in_list(uint32_t offset) const;
    // What the loader makes of a reference in the file. Null for code of built-in functions.
    uint64_t loaded(Reference reference) const;
    // How many headers and other references the list of relocations has.
    size_t headers() const { return header_count; }
    size_t references() const { return reference_count; }

private:
    const Image &image;
    std::vector<uint64_t> tag_values;
    std::vector<uint8_t> relocated;  // a bit a word
    std::vector<uint32_t> changed;
    std::vector<std::pair<uint32_t, size_t>> places;  // of the changed words with references
    std::vector<Section> changed_constants;
    size_t header_count = 0, reference_count = 0;
};
