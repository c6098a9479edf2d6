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
    // Bytes of the constant data, in blocks, ascending by offset in the blob.
    const std::vector<Section> &constants() const { return changed_constants; }

    // Whether the file has a reference in a word of an object.
    bool is_reference(uint32_t offset) const { return relocated[offset / 64] >> (offset / 8 % 8) & 1; }
    // Where the word stands in the list of relocations.
    size_t place_in_list(uint32_t offset) const;
    // What the loader makes of a reference in the file. Null for code of built-in functions.
    uint64_t loaded(Reference reference) const;
    // Where the list of the words with references begins, behind that of the objects' headers.
    size_t headers() const { return headers_end; }
    // Number of objects.
    size_t references() const { return references_end; }

private:
    const Image &image;
    std::vector<uint64_t> tag_values;
    std::vector<uint8_t> relocated;  // a bit a word
    std::vector<uint32_t> changed;
    std::vector<std::pair<uint32_t, size_t>> places;  // of the changed words with references
    std::vector<Section> changed_constants;
    size_t headers_end = 0, references_end = 0;
};
