// A blob told by what it has of another one. basedev reads the file (heap_recipe.py).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

class Recipe {
public:
    explicit Recipe(const char *base) : base(base) {}

    // Appends bytes of the base blob.
    void copy(size_t offset, size_t length);
    // Appends other bytes.
    void add(const void *bytes, size_t length);
    template <class T> void add(T value) { add(&value, sizeof value); }
    size_t size() const { return total; }
    // The blob's bytes.
    std::string assembled() const;
    // Writes the records: kind (0: copied, 1: other bytes), offset in the base blob, length, and the other bytes.
    std::string records() const;

private:
    struct Piece {
        bool copied;
        size_t offset, length;  // in the base blob, or in `bytes`
    };
    const char *base;
    size_t total = 0;
    std::vector<Piece> pieces;
    std::string bytes;
};
