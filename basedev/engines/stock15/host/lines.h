// Lines of source files that are further up or down than in the base image.
#pragma once

#include "image.h"

#include <map>
#include <string>
#include <vector>

class Lines {
public:
    // What stood in lines `from` to `to` of `file` in the base image is `by` further down.
    void move(const std::string &file, long from, long to, long by);
    // Gives the methods of the image that stand there, their lowered code, and inferred code that they are part of,
    // their present lines. Once.
    void settle(const Image &image);
    // The value with its LineNumberNodes, which macros have in what they quote, in their present lines. To be called while nothing
    // is collected.
    jl_value_t *settled(jl_value_t *code, bool &changed) const;

private:
    struct Range {
        long from, to, by;
    };
    std::map<jl_sym_t *, std::vector<Range>> moves;
    std::map<jl_sym_t *, std::vector<std::pair<long, long>>> macros;  // first and last lines of those in these files
    bool unnamed = false;  // code with lines of such a file need not have its name among the method's literals

    long shift(jl_sym_t *file, long line) const;
    void find_macros(const Image &image);
    bool in_macro(jl_sym_t *file, long line) const;
    void settle(jl_method_t *method) const;
    // Gives code of a method, which may be compressed and is part of `owner`, its present lines; of the file `made_in` only
    // lines of macros.
    void settle_code(jl_method_t *method, jl_value_t *owner, jl_value_t *&source, jl_sym_t *made_in = nullptr) const;
    // Gives an object with fields `file` and `line` (a LineInfoNode, a GeneratedFunctionStub) its present line.
    // Returns whether that is another one.
    bool settle_fields(jl_value_t *object, jl_sym_t *made_in = nullptr) const;
};
