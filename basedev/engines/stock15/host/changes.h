// Which words of the image's memory are not what the loader made of its file.
#pragma once

#include "image.h"

#include <vector>

struct Memory;

class Changes {
public:
    // Looks through all of the image: tens of milliseconds; fewer with what it was before.
    explicit Changes(const Image &image, const Memory *before = nullptr);

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
    std::vector<uint8_t> relocated, headed;  // a bit a word: references, and objects' headers
    std::vector<uint32_t> changed;
    std::vector<std::pair<uint32_t, size_t>> places;  // of the changed words with references
    std::vector<Section> changed_constants;
    size_t header_count = 0, reference_count = 0;

    void look_through();
    void compare(const std::vector<uint64_t> &before);
    bool is_changed(uint32_t offset) const;
    void find_places();
    void find_constants();
};

// A copy of the image's objects as they are, and how they are not what the loader made of the file.
struct Memory {
    explicit Memory(const Image &image);

    const std::vector<uint64_t> words;
    const Changes changes;
};
