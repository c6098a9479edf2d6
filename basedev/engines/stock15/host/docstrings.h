// The docstrings of the image (Base.Docs.META in each module): taking them back, and keeping their lines and order
// those of the sources.
#pragma once

#include "image.h"

#include <functional>
#include <string>
#include <unordered_map>

class Docstrings {
public:
    explicit Docstrings(const Image &image);

    // Takes back the docstrings that stood in lines `from` to `to` of `file` in the base image.
    void forget(jl_module_t *module, const std::string &file, long from, long to);
    // The docstrings of the base image in lines `from` to `to` of `file` are `by` further down, each at most once.
    void move(const std::string &file, long from, long to, long by);
    // Brings new docstrings of one name to their places among the others: Julia shows them in the order of
    // definition, which a full rebuild takes from the sources.
    void settle();

private:
    const Image &image;
    const size_t modules_in_base;  // how many there have docstrings
    std::unordered_map<jl_value_t *, long> lines_in_base;  // of those that were moved

    struct Place {
        std::string file;
        long line;
    };
    class Worlds;
    Place place(jl_value_t *docstring) const;
    // Brings modules that had none to their places among those that have docstrings. `rank_of` a file is its place in the sources.
    void settle_modules(const std::function<size_t(const std::string &)> &rank_of) const;
    Place place_in_base(jl_value_t *docstring) const;
    // Calls `visit` with the module's table, a key of it, and the MultiDoc there.
    void for_each(jl_module_t *module, const std::function<void(jl_value_t *, jl_value_t *, jl_value_t *)> &visit) const;
    // The same for the docstrings of keywords, which are in a table of their own: the table, a name, and the docstring.
    void for_each_keyword(const std::function<void(jl_value_t *, jl_value_t *, jl_value_t *)> &visit) const;
};
