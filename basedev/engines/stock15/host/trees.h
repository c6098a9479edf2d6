// Parsed statements, kept in a file: of the time that it takes to evaluate statements once more, a quarter is Julia's
// parser's.
#pragma once

#include "census.h"

#include <string>
#include <unordered_map>
#include <vector>

class Trees {
public:
    // Parses the statements and writes them to a file. Leaves out what has a literal of an uncommon type.
    static void keep(const std::vector<Statement> &statements, const std::string &path);

    // Reads what `keep` wrote.
    explicit Trees(const std::string &path);
    Trees(const Trees &) = delete;
    Trees &operator=(const Trees &) = delete;

    // The code of a statement, at its line, parsed now if it is not among those.
    jl_value_t *of(const Statement &statement) const;

private:
    std::unordered_map<size_t, const char *> entries;  // by a hash of file and text
};
