#include "recipe.h"

void Recipe::copy(size_t offset, size_t length) {
    if (!length)
        return;
    total += length;
    if (!pieces.empty() && pieces.back().copied && pieces.back().offset + pieces.back().length == offset)
        pieces.back().length += length;
    else
        pieces.push_back({true, offset, length});
}

void Recipe::add(const void *added, size_t length) {
    if (!length)
        return;
    total += length;
    if (!pieces.empty() && !pieces.back().copied)
        pieces.back().length += length;
    else
        pieces.push_back({false, bytes.size(), length});
    bytes.append((const char *)added, length);
}

std::string Recipe::assembled() const {
    std::string blob;
    blob.reserve(total);
    for (const Piece &piece : pieces)
        blob.append((piece.copied ? base : bytes.data()) + piece.offset, piece.length);
    return blob;
}

std::string Recipe::records() const {
    std::string records;
    for (const Piece &piece : pieces) {
        const uint64_t head[] = {!piece.copied, piece.copied ? piece.offset : 0, piece.length};
        records.append((const char *)head, sizeof head);
        if (!piece.copied)
            records.append(bytes, piece.offset, piece.length);
    }
    return records;
}
