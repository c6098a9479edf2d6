// Digests of values by their contents, to tell whether a statement gives the same as it gave in another process.
#pragma once

#include "runtime.h"

#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>

const size_t DIGITS = 16;  // of a digest in hexadecimal

class Digest {
public:
    // Of what a statement of this module gives (a full name).
    explicit Digest(const std::string &module);

    // Each adds something.
    void bytes(const void *data, size_t size);
    void word(const char *text);
    // Names that the compiler makes have counters in them, and ids of log messages depend on those that there are.
    void name(jl_sym_t *symbol);
    void value(jl_value_t *object, int depth = 0);
    // Of code, which may be deep.
    void tree(jl_value_t *code);

    std::string digits() const;

private:
    uint64_t hash = 0xcbf29ce484222325;
    std::string module;  // as it stands in ids of log messages
    std::set<jl_value_t *> seen;
    std::unordered_map<jl_datatype_t *, std::string> type_texts;
    std::unordered_set<jl_typename_t *> closures;

    bool is_log_id(const char *text, size_t length) const;
    void text(const std::string &shown);
    void type(jl_value_t *object);
    void array(jl_array_t *array, jl_datatype_t *type, int depth);
    void table(jl_value_t *object, int depth);
    void contents(const char *memory, jl_datatype_t *type, int depth);
    void code(jl_code_info_t *code, int depth);
    void closures_in(jl_value_t *type);
    void methods_of(jl_typename_t *closure);
};
